/* Preloaded into the gateway: a disk and a clock that script/torture can spoil while it runs, and a recorder.

   TORTURE_FOLDER   only it and what is below it is touched or recorded (SQLite's -shm never: it is rebuilt at each start)
   TORTURE_CONTROL  a file with `struct control`, mapped; the other side writes it (shim.py)
   TORTURE_RECORD   a file that everything done to those files is appended to, in the order in which it was done,
                    together with each 250 that leaves by a socket; powercut.py reads it. Unset: nothing is recorded

   An fsync makes two records: what was written before the first is durable when the second is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_ns;    /* added to CLOCK_REALTIME */
    int32_t fsync_us;    /* each fsync takes so much longer */
    int32_t write_errno; /* every change fails with it; 0: none does */
};

struct record {
    int8_t op;
    int32_t pid, fd;
    int64_t offset;
    int32_t length; /* bytes that follow */
} __attribute__((packed));

enum { OPEN = 1, CLOSE, WRITE, TRUNCATE, RENAME, LINK, UNLINK, MKDIR, SYNC_BEGIN, SYNC_END, REPLY };

#define MOST 65536
static uint8_t ours[MOST]; /* by file descriptor */
static volatile struct control *control, none;
static const char *folder;
static size_t folder_length;
static int record_fd = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TORTURE_CONTROL"), *record = getenv("TORTURE_RECORD");
    control = &none;
    folder = getenv("TORTURE_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
    if (path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) abort(); /* a torture that does not hurt must not pass for one */
        control = page;
        close(fd);
    }
    if (record && (record_fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) abort();
}

static int is_ours(const char *path) {
    size_t length = strlen(path);
    return folder && !strncmp(path, folder, folder_length) && (!path[folder_length] || path[folder_length] == '/') &&
        (length < 4 || strcmp(path + length - 4, "-shm"));
}

static int fd_is_ours(int fd) { return fd >= 0 && fd < MOST && ours[fd]; }

static void put(int op, int fd, int64_t offset, const void *data, size_t length) {
    struct record head = {op, getpid(), fd, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    REAL(writev);
    if (record_fd >= 0 && real(record_fd, parts, 2) != (ssize_t)(sizeof head + length)) abort();
}

static void put_two(int op, const char *from, const char *to) {
    char both[8192];
    size_t first = strlen(from) + 1, second = strlen(to);
    if (first + second > sizeof both) abort();
    memcpy(both, from, first);
    memcpy(both + first, to, second);
    put(op, -1, 0, both, first + second);
}

/* Notes each "stored as ID" that is about to leave; log lines say it in other words. */
static void note_replies(const void *data, size_t length) {
    static const char mark[] = " Ok: stored as ";
    const size_t skip = sizeof mark - 1, id = 26;
    const char *at = data, *end = at + length;
    while (record_fd >= 0 && (at = memmem(at, end - at, mark, skip)) && end - (at += skip) >= (ptrdiff_t)id) {
        pthread_mutex_lock(&order);
        put(REPLY, -1, 0, at, id);
        pthread_mutex_unlock(&order);
    }
}

/* Runs `call` in its place in the order of all changes and, if it succeeded, records it. */
#define CHANGE(type, touched, call, noted) \
    do { \
        if (!(touched)) return call; \
        if (control->write_errno) { errno = control->write_errno; return -1; } \
        pthread_mutex_lock(&order); \
        type result = call; \
        int error = errno; \
        if (result >= 0) { noted; } \
        pthread_mutex_unlock(&order); \
        errno = error; \
        return result; \
    } while (0)

/* --- the clock --- */

static void shift(struct timespec *time) {
    int64_t all = time->tv_sec * 1000000000LL + time->tv_nsec + control->clock_ns;
    time->tv_sec = all / 1000000000LL;
    time->tv_nsec = all % 1000000000LL;
}

int clock_gettime(clockid_t clock, struct timespec *when) {
    REAL(clock_gettime);
    int result = real(clock, when);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && control) shift(when);
    return result;
}

int gettimeofday(struct timeval *restrict when, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    when->tv_sec = now.tv_sec;
    when->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *when) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (when) *when = now.tv_sec;
    return now.tv_sec;
}

/* --- files --- */

#define OPEN_AS(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        REAL(name); \
        if (!is_ours(path)) return real(path, flags, mode); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) && control->write_errno) { \
            errno = control->write_errno; \
            return -1; \
        } \
        pthread_mutex_lock(&order); \
        int fd = real(path, flags, mode), error = errno; \
        if (fd >= 0 && fd < MOST) { ours[fd] = 1; put(OPEN, fd, flags, path, strlen(path)); } \
        pthread_mutex_unlock(&order); \
        errno = error; \
        return fd; \
    }
OPEN_AS(open)
OPEN_AS(open64)

int close(int fd) {
    REAL(close);
    if (!fd_is_ours(fd)) return real(fd);
    pthread_mutex_lock(&order);
    ours[fd] = 0;
    put(CLOSE, fd, 0, "", 0);
    int result = real(fd);
    pthread_mutex_unlock(&order);
    return result;
}

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    off_t at = fd_is_ours(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
    if (!fd_is_ours(fd)) note_replies(data, length); /* uvloop's sockets */
    CHANGE(ssize_t, fd_is_ours(fd), real(fd, data, length), put(WRITE, fd, at, data, result));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    REAL(pwrite);
    CHANGE(ssize_t, fd_is_ours(fd), real(fd, data, length, at), put(WRITE, fd, at, data, result));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    REAL(pwrite64);
    CHANGE(ssize_t, fd_is_ours(fd), real(fd, data, length, at), put(WRITE, fd, at, data, result));
}

/* What is not recorded as it is made must not be used unseen: neither SQLite nor Python's files do. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    if (fd_is_ours(fd)) abort();
    for (int part = 0; part < count; part++) note_replies(parts[part].iov_base, parts[part].iov_len);
    return real(fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev);
    if (fd_is_ours(fd)) abort();
    return real(fd, parts, count, at);
}

int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    CHANGE(int, fd_is_ours(fd), real(fd, length), put(TRUNCATE, fd, length, "", 0));
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    CHANGE(int, fd_is_ours(fd), real(fd, length), put(TRUNCATE, fd, length, "", 0));
}

int rename(const char *from, const char *to) {
    REAL(rename);
    CHANGE(int, is_ours(from) || is_ours(to), real(from, to), put_two(RENAME, from, to));
}

int link(const char *from, const char *to) {
    REAL(link);
    CHANGE(int, is_ours(to), real(from, to), put_two(LINK, from, to));
}

int unlink(const char *path) {
    REAL(unlink);
    CHANGE(int, is_ours(path), real(path), put(UNLINK, -1, 0, path, strlen(path)));
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    CHANGE(int, is_ours(path), real(path, mode), put(MKDIR, -1, 0, path, strlen(path)));
}

static int sync_as(int (*real)(int), int fd) {
    if (!fd_is_ours(fd)) return real(fd);
    if (control->write_errno) { errno = control->write_errno; return -1; }
    struct timespec pause = {control->fsync_us / 1000000, control->fsync_us % 1000000 * 1000L};
    pthread_mutex_lock(&order);
    put(SYNC_BEGIN, fd, 0, "", 0);
    pthread_mutex_unlock(&order);
    if (control->fsync_us) nanosleep(&pause, NULL);
    int result = real(fd), error = errno;
    if (!result) {
        pthread_mutex_lock(&order);
        put(SYNC_END, fd, 0, "", 0);
        pthread_mutex_unlock(&order);
    }
    errno = error;
    return result;
}

int fsync(int fd) {
    REAL(fsync);
    return sync_as(real, fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return sync_as(real, fd);
}

/* --- each 250, before it leaves --- */

ssize_t send(int fd, const void *data, size_t length, int flags) {
    REAL(send);
    note_replies(data, length);
    return real(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(sendmsg);
    for (size_t part = 0; part < message->msg_iovlen; part++)
        note_replies(message->msg_iov[part].iov_base, message->msg_iov[part].iov_len);
    return real(fd, message, flags);
}
