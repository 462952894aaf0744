"""A micro:bit with its real MicroPython, emulated by QEMU; Debian packages both."""

import contextlib
import subprocess
from pathlib import Path

from tests import needs
from tests.mosquitto import free_port

FIRMWARE = Path("/usr/share/firmware-microbit-micropython/firmware.hex")


@contextlib.contextmanager
def emulated():
    """The URL of its serial line, which is there in a moment."""
    qemu = needs.program("qemu-system-arm", "qemu-system-arm")
    if not FIRMWARE.exists():
        needs.missing("There is no MicroPython for the micro:bit: apt-get install firmware-microbit-micropython")
    number = free_port()
    serial = f"tcp:127.0.0.1:{number},server=on,wait=off"
    command = [qemu, "-M", "microbit", "-display", "none", "-monitor", "none", "-serial", serial]
    process = subprocess.Popen([*command, "-device", f"loader,file={FIRMWARE}"], stdin=subprocess.DEVNULL)
    try:
        yield f"socket://127.0.0.1:{number}"
    finally:
        process.kill()
        process.wait()
