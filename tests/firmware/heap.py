"""How little heap the firmware needs: mails of 16 KiB at several connections at once, to a real broker.

`python -m tests.firmware.heap` prints the table of README.md (script/heap calls it). The interpreter is the one with
words of 32 bits. "in ROM": bytecode is executed where it lies, as with firmware that has the application frozen or a
ROMFS partition; "in heap": as on a board with MicroPython as it is released, which loads it. TLS takes memory besides
from the C library, which `-X heapsize` does not bound.
"""

import contextlib
import itertools
import smtplib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.firmware.board import free_port
from tests.firmware.line import PC, Wired
from tests.firmware.test_dialogs import certificate
from tests.firmware.test_mail import mail
from tests.mosquitto import Mosquitto

SIZE = 16 * 1024
ROUNDS = 3
STAND_INS = Path(__file__).parent / "stand_ins_network"
STAND_INS_TAKE = 4352  # octets of heap, for what is in a board's ROM


class TooLittle(Exception):
    """The board ran out of memory."""


def holds(broker: Mosquitto, heap: int, connections: int, tls: bool, rom: bool) -> bool:
    """Whether `heap` octets are enough: every mail is taken at the first try and acknowledged by the broker, while
    somebody on the serial line asks how the board is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "flash"
        folder.mkdir()
        smtp = {"port": free_port(), "connections": 4}
        if tls:
            certificate(folder)
            smtp["tls"] = "implicit"
        settings = {
            "name": "attic",
            "wifi": {"ssid": "lobby"},
            "smtp": smtp,
            "mqtt": {"url": f"mqtt://127.0.0.1:{broker.port}"},
            "ntp": False,
            "watchdog": 0,
        }
        board = Wired(folder, settings, build="i386", heap=str(heap), rom=rom)
        main = folder / "main.py"
        main.write_text(f"import sys\nsys.path.append({str(STAND_INS)!r})\n" + main.read_text())
        client = smtplib.SMTP_SSL if tls else smtplib.SMTP

        def send(number: int) -> None:
            with client("127.0.0.1", smtp["port"], timeout=30) as line:
                line.send_message(mail(f"mail {number}", b"\xff\xd8\xff" + bytes(SIZE * 3 // 4 - 700)))

        try:
            pc = PC(board.start())
            for said in (b"listening", b"mqtt: connected", b"wifi: this board is"):
                pc.until(lambda said=said: said in _said(pc), f"for {said!r}")
            for _ in range(ROUNDS):
                with ThreadPoolExecutor(connections) as pool:
                    sending = [pool.submit(send, number) for number in range(connections)]
                    pc.do("status")
                    pc.until(lambda sending=sending: all(one.done() for one in sending), "for mails")
                [one.result() for one in sending]
            pc.until(lambda: _said(pc) and not board.spool(), "for the delivery")
            pc.do("status")
        except (AssertionError, OSError, smtplib.SMTPException, TooLittle):
            return False
        finally:
            with contextlib.suppress(Exception):
                board.kill()
        return b"emory" not in pc.noise


def _said(pc: PC) -> bytes:
    if pc.board.process.poll() is not None or b"emory" in pc.noise:
        raise TooLittle
    return pc.noise


def is_enough(broker: Mosquitto, heap: int, connections: int, tls: bool, rom: bool) -> bool:
    """What fails once is tried again: where holes lie in the heap is chance, and the device sends again, too."""
    return any(holds(broker, heap + STAND_INS_TAKE, connections, tls, rom) for _ in range(2))


def least(broker: Mosquitto, connections: int, tls: bool, rom: bool) -> int:
    """The least KiB that are enough, to two."""
    low, high = (48, 144) if rom else (88, 184)
    while high - low > 2:
        middle = (low + high) // 2
        if is_enough(broker, middle * 1024, connections, tls=tls, rom=rom):
            high = middle
        else:
            low = middle
    return high


def main() -> None:
    sys.stdout.write("| least heap, KiB | 1 connection | 2 | 4 |\n|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        broker = Mosquitto(Path(folder)).start()
        stack.callback(broker.stop)
        for rom, tls in itertools.product((True, False), (False, True)):
            row = [str(least(broker, connections, tls, rom)) for connections in (1, 2, 4)]
            sys.stdout.write(
                f"| {'code in ROM' if rom else 'code in heap'}, {'TLS' if tls else 'plain'} | {' | '.join(row)} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
