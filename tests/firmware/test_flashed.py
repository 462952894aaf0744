"""What `mailwire flash` makes for a board, read by a real MicroPython: an ESP32's file system is cut out of the flash
and mounted; an RP2040 (emulated, with the real MicroPython) boots its image, takes files over its prompt, and takes an
update that is taken back; and an emulated micro:bit prints lines.
"""

import contextlib
import itertools
import json
import lzma
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gateway
from gateway import ports
from gateway.flash import application, image, mpremote
from tests import microbit, needs
from tests.firmware.board import PATIENCE, free_port, interpreter
from tests.firmware.fake_rom import FakeRom
from tests.live import until

ROOT = Path(__file__).parent.parent.parent
FLASH = (sys.executable, "-m", "gateway", "flash")
READER = """
import sys, vfs, binascii, os

class Flash:
    def __init__(self, path):
        with open(path, "rb") as file:
            file.seek(%(at)d)
            self.data = bytearray(file.read(%(size)d))
    def readblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        buffer[:] = self.data[at : at + len(buffer)]
    def writeblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        self.data[at : at + len(buffer)] = buffer
    def ioctl(self, what, _):
        return len(self.data) // 4096 if what == 4 else 4096 if what == 5 else 0

vfs.mount(vfs.VfsLfs2(Flash(sys.argv[1])), "/flash")
def walk(folder):
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            walk(path)
        else:
            with open(path, "rb") as file:
                print(path[7:], binascii.hexlify(file.read()).decode())
walk("/flash")
sys.path.insert(0, "/flash/a")
from gateway.wire import smtp
print("imported", smtp.__name__, smtp.__file__)
"""


def test_a_real_micropython_mounts_and_runs_what_esptool_wrote(tmp_path):
    def boot(line):
        """What is in the flash, on the unix port: its console is the line."""
        for path, content in image.read(bytes(rom.flash[0x200000:])).items():
            file = tmp_path / "board" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        with subprocess.Popen([interpreter(), "main.py"], cwd=tmp_path / "board", stdin=line, stdout=line) as process:
            seen.wait(PATIENCE)
            process.terminate()

    seen = threading.Event()
    words = ("--firmware", needs.esp32_micropython(), "--before", "no-reset", "--after", "no-reset", "--wait", "20")
    with FakeRom(boot=boot) as rom:
        command = (
            *FLASH,
            "ESP32_GENERIC",
            "--port",
            rom.url,
            *words,
            "--name",
            "attic",
            "--set",
            f"smtp.port={free_port()}",
        )
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        seen.set()
        assert done.returncode == 0, done.stderr
        (tmp_path / "flash").write_bytes(rom.flash)
    assert f"firmware {gateway.__version__}, id attic, name attic" in done.stdout
    assert "  SMTP server  attic.local" not in done.stdout, "it has no network"
    (tmp_path / "reader.py").write_text(READER % {"at": 0x200000, "size": 0x200000})
    done = subprocess.run(
        [interpreter(), "-X", "heapsize=8M", tmp_path / "reader.py", tmp_path / "flash"],
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, imported = done.stdout.splitlines()
    assert imported == "imported gateway.wire.smtp /flash/a/gateway/wire/smtp.mpy", done.stderr + done.stdout[-300:]
    found = {path: bytes.fromhex(content) for path, _, content in (line.partition(" ") for line in lines)}
    assert json.loads(found.pop("settings.json"))["name"] == "attic"
    assert found.pop("main.py") == application.main_py()
    assert found == {f"a/{path}": content for path, content in application.files().items()}


# --- the emulated Pico -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uf2(tmp_path_factory):
    """What script/rp2040-firmware has built: it takes 2.4 GB of compilers, so its result is kept beside this file."""
    pytest.importorskip("rp2040py", reason="rp2040py, the emulator, is for x86-64 and in the extra `test`")
    path = tmp_path_factory.mktemp("pico") / "RPI_PICO.uf2"
    path.write_bytes(lzma.decompress(Path(__file__).with_name("RPI_PICO.uf2.xz").read_bytes()))
    return path


@contextlib.contextmanager
def pico(uf2, folder, *words):
    """The board `pico`, which has no network; the emulator's Wi-Fi board would dial out from here. Yields its port."""
    log = folder / "emulator.log"
    command = [sys.executable, "-u", "-m", "rp2040py", "micropython", "--image", uf2, "--tcp-port", "0", *words]
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as process:
        try:

            def told():
                assert process.poll() is None, log.read_text()
                return re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())

            found = until(told, "the emulator's start")
            yield f"socket://{found[1]}"
        finally:
            process.terminate()


def run_on(port, code, *more):
    command = mpremote.command(port, "exec", code, *more)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_emulated_pico_boots_the_image_and_says_hello(uf2, tmp_path):
    made = tmp_path / "board.img"
    subprocess.run((*FLASH, "RPI_PICO", "--image", made, "--name", "attic"), check=True, cwd=ROOT, capture_output=True)
    assert made.stat().st_size == 352 * 4096
    with pico(uf2, tmp_path, "--littlefs", made) as port:
        hello = hello_in_the_monitor(port)
        log = json.loads(done_in_the_monitor(port, "log"))
        found = mpremote.look(port)
    assert log == [f"Mailwire {gateway.__version__} on Raspberry Pi Pico with RP2040: attic"], "and nothing fails"
    assert (hello["name"], hello["slot"], hello["firmware"]) == ("attic", "a", gateway.__version__)
    assert hello["board"] == "Raspberry Pi Pico with RP2040"
    assert (found.whole, found.slot) == (("a",), "a")


def hello_in_the_monitor(port):
    """The board's `hello`, as `mailwire monitor` shows it."""
    command = [sys.executable, "-m", "gateway", "monitor", port, "--json", "--seconds", str(PATIENCE)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                shown = json.loads(line)
                if shown["from"] == "board" and shown.get("frame", {}).get("t") == "hello":
                    return shown["frame"]
        finally:
            process.terminate()
    raise AssertionError("the board said no hello")


def done_in_the_monitor(port, what):
    command = [sys.executable, "-m", "gateway", "monitor", port, "--do", what]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.timeout(300)  # three tries of half a minute
def test_an_emulated_micro_bit_prints_lines_after_flash():
    with microbit.emulated() as url:

        def is_there():
            with contextlib.suppress(ports.PortError):
                ports.open_port(url).close()
                return True
            return False

        until(is_there, "the emulator's port")
        command = (*FLASH, "MICROBIT", "--port", url, "--yes")
        for _ in range(3):  # the emulated line has no buffer: on a busy machine it loses what comes too fast for it
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode == 0 and _is_alive(url):
                break
        else:
            raise AssertionError(f"it does not print its line, which it does each ten seconds: {done.stderr}")
        assert f"board: {{type: serial, port: {url}, format: lines}}" in done.stdout


def _is_alive(url):
    heard = b""

    def alive():
        nonlocal heard
        heard += line.read()
        return b"alive\r\n" in heard

    with ports.open_port(url) as line, contextlib.suppress(AssertionError):
        return until(alive, "its line")
    return False


def test_a_timer_feeds_the_watchdog_of_an_emulated_pico(uf2, tmp_path):
    """While no Python has a turn but what timers call, as in looking up a name."""
    code = (ROOT / "firmware/watchdog_rp2.py").read_text() + (
        "\nimport time\nLONGEST, PERIOD = 1000, 250\nbegan = time.ticks_ms()\nstart(60)\n"
        "while time.ticks_diff(time.ticks_ms(), began) < 3000:\n    pass\nprint('alive')\n"
    )
    with pico(uf2, tmp_path) as port:
        assert run_on(port, code) == "alive"


SMALL = {
    "firmware/__init__.mpy": b"",
    "firmware/app.py": b"def main():\n    print('version one')\n    import time\n    while True: time.sleep(1)\n",
}


@pytest.mark.timeout(300)  # the emulator starts three times, and is slow beside other tests
def test_files_and_an_update_over_the_prompt_of_an_emulated_pico(uf2, tmp_path):
    """With a small application, for the emulator is slow at files: what counts is the slots."""
    beside = {"main.py": application.main_py(), "settings.json": b'{"name":"attic"}'}
    with pico(uf2, tmp_path) as port:
        assert mpremote.look(port).is_empty
        mpremote.install(port, SMALL, beside)
        found = mpremote.look(port)
        assert (found.whole, found.is_ours) == (("a",), True)
        assert mpremote.update(port, {"firmware/app.py": b"1 / 0"}, found, "0.2") == "b"
        undisturbed = (2.0**turn for turn in itertools.count())  # seconds; each look stops the board
        state = until(lambda: told_back(port, next(undisturbed)), "going back")
        assert state["slot"] == "a"
        assert state["back"]["version"] == "0.2"
        assert state["back"]["why"].startswith("it did not report in")
        assert mpremote.look(port).whole == ("a",)
        assert run_on(port, "print(open('settings.json').read())") == '{"name":"attic"}'


def told_back(port, undisturbed):
    """Why it went back, once it has; to look stops the board, so it is started anew."""
    time.sleep(undisturbed)
    with contextlib.suppress(subprocess.CalledProcessError):  # one that is just starting may not answer
        state = json.loads(run_on(port, "print(open('slot.json').read())", "+", "reset"))
        return state if state.get("back") else None
    return None
