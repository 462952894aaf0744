"""The heap that the firmware gets by with, with words of 32 bits; script/heap prints the whole table."""

import smtplib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.firmware.board import Board, free_port
from tests.firmware.heap import is_enough
from tests.firmware.test_mail import mail
from tests.live import until
from tests.mosquitto import mosquitto  # noqa: F401  # a fixture

ESP32 = 122 * 1024  # octets: 147,000 were free on one with MicroPython 1.25 that had joined a network


@pytest.mark.parametrize(("connections", "tls"), [(2, False), (1, True)], ids=["plain", "tls"])
def test_an_esp32_holds_all_of_it(mosquitto, connections, tls):  # noqa: F811
    """Mails of 16 KiB at once, three times, all the way to a real broker, while the network is up and somebody on the
    serial line asks how the board is; the code is in the heap, too.
    """
    assert is_enough(mosquitto, ESP32, connections, tls=tls, rom=False)


def test_with_the_code_in_rom(mosquitto):  # noqa: F811
    """As with firmware that has the application in a ROMFS partition; frozen, it takes less: the goal of DESIGN §5."""
    assert is_enough(mosquitto, 64 * 1024, connections=2, tls=False, rom=True)


def test_what_finds_no_memory_is_sent_again(mosquitto, tmp_path):  # noqa: F811
    """Four at once where there is room for one or two: the only final answer is 250, and later there is room."""
    own = {"smtp": {"port": free_port()}, "mqtt": {"url": mosquitto.url}, "ntp": False}
    board = Board(tmp_path / "flash", own, build="i386", heap="102000")

    def answer(number: int) -> int:
        try:
            with smtplib.SMTP("127.0.0.1", own["smtp"]["port"], timeout=30) as line:
                line.send_message(mail(f"mail {number}"))
        except smtplib.SMTPResponseException as error:
            return error.smtp_code
        except smtplib.SMTPServerDisconnected:
            return 421
        return 250

    with board.started(), ThreadPoolExecutor(4) as pool:
        board.wait_for("mqtt: connected")
        answers = list(pool.map(answer, range(8)))
        assert set(answers) - {250}, "there was room for all"
        assert set(answers) <= {250, 421, 452}
        until(lambda: answer(9) == 250, "a mail that is taken")
        until(lambda: not board.read() and not board.spool(), "delivery")
