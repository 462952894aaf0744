"""An emulated micro:bit with its real MicroPython prints lines into a gateway."""

import pytest

from gateway import ports
from tests.live import Gateway, until
from tests.microbit import emulated

# Lines for its prompt, and what it answers to each.
PROGRAM = (
    (b"", b">>> "),
    (b"from microbit import *", b">>> "),
    (b"def word(): return 'PRESSED' if button_a.is_pressed() else 'RELEASED'", b"... "),
    (b"", b">>> "),
    (b"for n in range(100000): print('BUTTON', n, word()); sleep(100)", b"... "),
    (b"", b"BUTTON 0 "),
)


@pytest.fixture
def microbit():
    """The URL of its serial line, at the prompt."""
    with emulated() as url:
        yield url


def type_in(url):
    """Type the program at the board's prompt."""

    def opened():
        try:
            return ports.open_port(url)
        except ports.PortError:
            return None

    with until(opened, "the emulator's port") as line:
        got = b""

        def comes(wanted):
            nonlocal got
            got += line.read()
            return wanted in got

        for text, answer in PROGRAM:
            for at in range(0, len(text), 8):  # its buffer is small: each piece is echoed before the next one is typed
                got = b""
                line.write(text[at : at + 8])
                until(lambda piece=text[at : at + 8]: comes(piece), f"{text[at : at + 8]!r}")
            got = b""
            line.write(b"\r")
            until(lambda answer=answer: comes(answer), f"{answer!r}")


def test_a_micro_bit_prints_into_a_gateway(microbit, tmp_path):
    type_in(microbit)
    text = f"""
integrations:
  classroom:
    type: serial
    port: {microbit}
    format: lines
    read:
      - pattern: '^BUTTON (?P<count>\\d+) (?P<word>PRESSED|RELEASED)$'
        kind: doorbell
        state: "{{{{ 'on' if data.word == 'PRESSED' else 'off' }}}}"
        title: "Button {{{{ data.word | lower }}}}"
"""
    with Gateway(tmp_path / "gateway", text) as running:
        events = until(lambda: len(found := running.events()) >= 3 and found)
    assert {(one["device"]["id"], one["kind"], one["state"], one["title"]) for one in events} == {
        ("classroom", "doorbell", "off", "Button released")
    }
    counts = [one["data"]["count"] for one in events]
    assert counts == list(range(counts[0], counts[0] + len(counts)))  # each line, in order
