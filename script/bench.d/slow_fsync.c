/* Preloaded into a server: every fsync and fdatasync takes DELAY_MS longer, as on an SD card. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int later(const char *name, int fd) {
    struct timespec delay = {.tv_sec = DELAY_MS / 1000, .tv_nsec = DELAY_MS % 1000 * 1000000L};
    nanosleep(&delay, NULL);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}

int fsync(int fd) { return later("fsync", fd); }
int fdatasync(int fd) { return later("fdatasync", fd); }
