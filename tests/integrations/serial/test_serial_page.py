"""The page for who builds the other side is true: its frames, its CRC, its configurations, and its C."""

import re
import subprocess
from pathlib import Path

import pytest

from gateway import config
from gateway.integrations import serial
from gateway.loader import Loader
from gateway.wire.frame import FRAME, Decoder, crc16
from tests import needs
from tests.integrations.serial.board import Port
from tests.live import Gateway, until

PAGE = (Path(serial.__file__).parent / "README.md").read_text(encoding="utf-8")

HARNESS = r"""
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int line;
void mw_put(char letter) { if (write(line, &letter, 1) != 1) exit(1); }
uint32_t mw_millis(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

int main(int count, char **words) {  /* a file descriptor, a boot id, and the events */
    line = atoi(words[1]);
    snprintf(mw_boot, sizeof mw_boot, "%s", words[2]);
    for (int next = 3; next < count || mw_busy();) {
        if (!mw_busy() && !mw_event(words[next++])) { puts("too long"); continue; }
        struct pollfd readable = {line, POLLIN, 0};
        if (poll(&readable, 1, 20) > 0) {
            char letters[64];
            ssize_t got = read(line, letters, sizeof letters);
            if (got <= 0) return 1;
            for (ssize_t at = 0; at < got; at++) mw_got(letters[at]);
        }
        mw_poll();
    }
    puts("done");
    return 0;
}
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_each_frame_on_the_page_is_one():
    frames = re.findall(r":\{.*\}\*[0-9A-F]{4}\b", PAGE)
    assert len(frames) >= 3
    for line in frames:
        assert [kind for kind, _ in Decoder().feed(line.encode() + b"\n")] == [FRAME], line


def test_the_crc_by_hand():
    lines = []
    crc = 0xFFFF
    for byte in b"{}":
        mixed = crc ^ byte << 8
        lines.append(f"{crc:04X} ^ {byte:02X}00 = {mixed:04X}  -> ")
        crc = mixed
        for _ in range(8):
            crc = (crc << 1 & 0xFFFF) ^ (0x1021 if crc & 0x8000 else 0)
            lines[-1] += f" {crc:04X}"
    assert crc == crc16(b"{}")
    assert "\n".join([*lines, f"CRC {crc:04X}"]) in PAGE


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_each_configuration_on_the_page_is_right(tmp_path, number):
    path = tmp_path / "mailwire.yaml"
    path.write_text(blocks("yaml")[number], encoding="utf-8")
    assert config.load(path, loader=Loader()).integrations


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    """The C of the page, as a program."""
    gcc = needs.program("gcc", "gcc libc6-dev")
    folder = tmp_path_factory.mktemp("c")
    (folder / "sender.c").write_text("#define _POSIX_C_SOURCE 200809L\n" + blocks("c")[0] + HARNESS)
    command = [
        gcc,
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsanitize=address,undefined",
        "-o",
        "sender",
        "sender.c",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "sender"


def test_the_c_sends_events_that_a_gateway_keeps(tmp_path, sender):
    port = Port(tmp_path / "board")
    events = [
        '{"kind":"leak","state":"on","title":"Water"}',
        '{"title":"T\\u00fcr"}',
        f'{{"title":"{"x" * 200}"}}',
        "{}",
    ]
    try:
        with Gateway(
            tmp_path / "gateway", f"integrations:\n  arduino: {{type: serial, port: '{port.path}'}}\n"
        ) as running:
            board = subprocess.Popen(
                [sender, str(port.master), "1a2b", *events], pass_fds=[port.master], stdout=subprocess.PIPE, text=True
            )
            assert board.communicate(timeout=60)[0] == "too long\ndone\n"
            found = running.events()
            assert [one["title"] for one in found] == ["Water", "Tür", ""]
            assert (found[0]["kind"], found[0]["state"], found[0]["device"]["id"]) == ("leak", "on", "arduino")
            board = subprocess.run([sender, str(port.master), "1a2c", "{}"], pass_fds=[port.master], check=True)
            until(lambda: len(running.events()) == 4)
    finally:
        port.close()


def test_the_c_repeats_what_is_not_acknowledged_and_ends_at_a_refusal(sender, tmp_path):
    port = Port(tmp_path / "board")
    try:
        descriptor = port._slave
        board = subprocess.Popen([sender, str(descriptor), "77", "{}"], pass_fds=[descriptor], stdout=subprocess.PIPE)
        line = b':{"t":"event","boot":"77","n":1,"event":{}}*'
        port.expect(line)
        for noise in (
            b"junk\n",
            b':{"t":"ack","boot":"77","n":1}*0000\n',
            answer("ack", "77", 12),
            answer("ack", "78", 1),
        ):
            port.write(noise)
        port.write(answer("nak", "77", 1, ',"reason":"busy","text":"later"'))
        port.expect(line)  # again
        port.write(b"noise before it " + answer("nak", "77", 1, ',"reason":"bad","text":"' + "x" * 160 + '"'))
        assert board.communicate(timeout=60)[0] == b"done\n"
    finally:
        port.close()


def answer(kind, boot, n, more=""):
    body = f'{{"t":"{kind}","boot":"{boot}","n":{n}{more}}}'.encode()
    return b":%s*%04X\n" % (body, crc16(body))
