"""Lines: patterns in, templates out; the same in a real gateway over a pseudo-terminal."""

import asyncio
import logging
import os
import re
import smtplib
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import api, ports, template
from gateway.api import Refused
from gateway.integrations.serial import Config, Serial
from gateway.integrations.serial.lines import Reader, Writer
from gateway.integrations.serial.noise import Noise
from tests.integrations.serial.board import Port, owed
from tests.live import Gateway, until


class Context:
    """What lines ask of the gateway: its templates."""

    name = "panel"
    log = logging.getLogger("mailwire.panel")

    class gateway:  # noqa: N801  # an attribute
        @staticmethod
        def template(source, *, html=False, more=()):
            return template.text(source, html=html, more=more)


def config(**given):
    return Config.model_validate(
        {"port": "/dev/ttyS0", "format": "lines", **given}, context={"template": template.text}
    )


def reader(**given):
    return Reader(Context(), Noise(Context.log, "panel"), config(**given))


def drafts(data, **given):
    return list(reader(**given).came(data))


# --- in ---------------------------------------------------------------------------------------------------------


def test_named_groups_are_fields_and_data():
    pattern = r"(?P<device>\w+) (?P<kind>\w+) (?P<state>\w+) (?P<severity>\w+) (?P<data_zone>\d+) (?P<volt>\S+): "
    pattern += "(?P<title>.*)"
    (draft,) = drafts(b"Boiler LEAK Open WARNING 007 12.5: Water on the floor\r\n", read=[{"pattern": pattern}])
    assert draft == {
        "device": "Boiler",
        "kind": "leak",
        "state": "on",
        "severity": "warning",
        "title": "Water on the floor",
        "text": "Boiler LEAK Open WARNING 007 12.5: Water on the floor",
        "data": {"zone": "007", "volt": 12.5},
    }


def test_the_settings_of_a_pattern_say_the_rest():
    read = [
        {"pattern": "^HEARTBEAT", "ignore": True},
        {
            "pattern": r"^T(?P<sensor>\d) (?P<celsius>-?[\d.]+)",
            "kind": "temperature",
            "device": "boiler_{{ data.sensor }}",
            "severity": "{{ 'critical' if data.celsius > 90 else 'info' }}",
            "state": "{{ 'on' if data.celsius > 90 else 'off' }}",
            "title": "{{ data.celsius }} degrees ({{ line }})",
        },
    ]
    hot, cold = drafts(b"HEARTBEAT 1\nT1 95.5\nwhat?\n\n  \nT2 -4\n", read=read)
    assert (hot["kind"], hot["device"], hot["severity"], hot["state"]) == ("temperature", "boiler_1", "critical", "on")
    assert hot["title"] == "95.5 degrees (T1 95.5)"
    assert (cold["severity"], cold["state"], cold["data"]) == ("info", "off", {"sensor": 2, "celsius": -4})


def test_without_patterns_every_line_is_an_event():
    assert drafts("Papier fehlt: Fach 2\n".encode("latin-1"), charset="latin-1") == [
        {"kind": "report", "title": "Papier fehlt: Fach 2", "text": "Papier fehlt: Fach 2"}
    ]


def test_lines_that_match_nothing_are_said_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    assert drafts(b"ok\x1b[31m\xff\n", read=[{"pattern": "^ALARM"}]) == []
    assert caplog.messages == ["panel says: ok [31m\\ufffd"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_any_line_end_and_any_division(end, size):
    data = "".join(f"line {number}{end}" for number in range(20)).encode()
    made = reader()
    got = [draft["title"] for at in range(0, len(data), size) for draft in made.came(data[at : at + size])]
    assert got == [f"line {number}" for number in range(20)]


def test_a_protocol_with_marks_of_its_own():
    got = drafts(b"\x02A1\x03\x02A2\x03", line_end="\x03")
    assert [draft["title"] for draft in got] == ["A1", "A2"]


def test_a_line_without_an_end_is_cut_and_the_rest_of_it_left_out():
    made = reader()
    got = [draft for _ in range(100) for draft in made.came(b"x" * 1000)]
    got += made.came(b"tail\nnext\n")
    assert [len(draft["title"]) for draft in got] == [5000, 4]
    assert got[1]["title"] == "next"


def test_what_was_half_read_when_the_port_was_lost_is_no_line():
    made = reader()
    assert list(made.came(b"hal")) == []
    made.lost()
    assert [draft["title"] for draft in made.came(b"whole\n")] == ["whole"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b"\r", b"T 1\n", b"x" * 3000]), max_size=20))
def test_no_bytes_break_it(pieces):
    made = reader(read=[{"pattern": r"T (?P<a>\d)"}, {"pattern": "(?P<title>.)(?P<kind>.)?"}])
    for piece in pieces:
        for draft in made.came(piece):
            assert draft["title"].isprintable()
    assert len(made._kept) <= 4096


@pytest.mark.parametrize(
    ("said", "state"),
    [("ON", "on"), ("1", "on"), ("open", "on"), ("closed", "off"), (" Normal", "off"), ("maybe", None)],
)
def test_words_for_states(said, state):
    (draft,) = drafts(f"S:{said}\n".encode(), read=[{"pattern": "S:(?P<state>.*)"}])
    assert draft["state"] == state


# --- out --------------------------------------------------------------------------------------------------------

EVENT = {
    "id": "01JD5V9W3Q0000000000000000", "time": "2026-11-22T19:11:28.123Z", "source": "lan-mail", "kind": "door",
    "device": {"id": "door", "name": "Tür"}, "state": "on", "severity": "info", "title": "Tür offen \u2013 21 °C",
    "text": "line one\nline two", "data": {}, "attachments": [], "mail": None,
}  # fmt: skip


def written(event=EVENT, **given):
    return Writer(Context(), config(**given)).written(event)


def test_a_template_in_the_charset_with_the_line_end():
    assert (
        written(write="{{ device.name }}: {{ title }}", line_end="\r\n") == "Tür: Tür offen \u2013 21 °C\r\n".encode()
    )
    assert written(write="{{ title }}", charset="cp437", line_end="\r") == b"T\x81r offen - 21 \xf8C\r"
    assert written(write="{{ title }}", charset="ascii") == b"Tur offen - 21 C\n"
    assert (
        written({**EVENT, "title": "温度 Straße ½ Œ"}, write="{{ title }}", charset="ascii") == b"?? Strasse 1/2 OE\n"
    )


def test_a_width_cuts_or_wraps():
    assert written(write="{{ title }}", charset="ascii", width=8) == b"Tur offe\n"
    assert written(write="{{ title }}", charset="ascii", width=8, too_long="wrap") == b"Tur\noffen -\n21 C\n"
    assert written(write="x" * 20, width=8, too_long="wrap") == b"xxxxxxxx\nxxxxxxxx\nxxxx\n"
    assert written({**EVENT, "title": "½½½½"}, write="{{ title }}", charset="ascii", width=8) == b"1/21/21/\n"


def test_several_lines_and_control_characters_of_the_template():
    receipt = "\x1b@{{ title }}\n{{ text }}\n\n\x1dV0"
    assert written(write=receipt, charset="cp437") == b"\x1b@T\x81r offen - 21 \xf8C\nline one\nline two\n\n\x1dV0\n"


def test_an_event_brings_no_control_characters():
    evil = {**EVENT, "title": "a\x1b@b\x00\x9bc\td", "data": {"x": ["\x1d"]}, "text": "one\r\ntwo\rthree"}
    assert written(evil, write="{{ title }}|{{ data.x[0] }}|{{ text }}") == b"a @b  c d| |one\ntwo\nthree\n"


def test_a_blank_text_is_not_written():
    assert written(write="{% if severity == 'critical' %}{{ title }}{% endif %}\n") == b""


def test_without_a_template_nothing_can_be_written():
    with pytest.raises(Refused, match="there is nothing to write of it: this line has no 'write' in its configuration"):
        written()


def test_only_who_writes_gets_everything_by_itself():
    assert not Serial.takes_all(config())
    assert Serial.takes_all(config(write="{{ title }}"))
    assert Serial.takes_all(Config(port="x"))
    assert not Serial.takes_all(Config(port="x", direction="in"))


@pytest.mark.parametrize("charset", ["utf-16", "base64", "rot13", "nonsense", "zlib", "idna", "unicode_escape"])
def test_what_is_no_charset_of_a_line(charset):
    with pytest.raises(ValidationError, match="this is no charset of a serial line"):
        config(charset=charset)


async def test_what_was_read_is_taken_in_before_a_stop(tmp_path, port):
    """Equipment that prints says it once: a stop, or a new configuration, must not lose the lines of one reading."""
    told, first, go_on = [], asyncio.Event(), asyncio.Event()

    async def emit(draft):
        first.set()
        await go_on.wait()
        told.append(draft["title"])
        return draft["id"]

    gateway = SimpleNamespace(template=Context.gateway.template)
    context = api.Context("panel", tmp_path, Context.log, gateway, None, emit, lambda: None, lambda _: None)
    serial = Serial(context, config(port=str(port.path)))
    await serial.start()
    port.write(b"one\ntwo\nthree\n")
    await first.wait()
    stopping = asyncio.create_task(serial.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert told == ["one", "two", "three"]


async def test_a_fault_in_opening_is_said_and_holds_up_nothing(tmp_path, monkeypatch, caplog):
    def fault(*_, **__):
        raise KeyError("oh")

    monkeypatch.setattr(ports, "open_port", fault)
    problems = []
    gateway = SimpleNamespace(template=Context.gateway.template)
    context = api.Context("panel", tmp_path, Context.log, gateway, None, None, lambda: None, problems.append)
    serial = Serial(context, config())
    await serial.start()
    await serial.stop()
    assert problems == ["'oh'"]
    assert "the port could not be opened" in caplog.text


# --- a real gateway ---------------------------------------------------------------------------------------------


@pytest.fixture
def port(tmp_path):
    made = Port(tmp_path / "plc")
    yield made
    made.close()


def test_lines_in_and_out_of_a_gateway(tmp_path, port):
    text = f"""
integrations:
  inbox: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  plc:
    type: serial
    port: '{port.path}'
    format: lines
    charset: ascii
    line_end: "\\r\\n"
    width: 24
    write: "!{{{{ title }}}}"
    read:
      - {{pattern: '^ALARM (?P<zone>\\d+) (?P<title>.*)', kind: alarm, severity: critical}}
"""
    with Gateway(tmp_path / "gateway", text) as running:
        port.write(b"\xfe\x00 boot\r\nALARM 12 Pressure too high\r\nnoise\r\n")
        (alarm,) = until(running.events)
        assert (alarm["title"], alarm["kind"], alarm["severity"]) == ("Pressure too high", "alarm", "critical")
        assert (alarm["device"]["id"], alarm["source"], alarm["data"]) == ("plc", "plc", {"zone": 12})
        running.logged("plc says: noise")
        with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as client:
            client.sendmail("cam@lan", ["gw@lan"], b"Subject: The gate is open, and has been so for hours\r\n\r\n")
        assert port.expect(b"\r\n") == b"!The gate is open, and h\r\n"
        assert not owed(running)  # its own alarm is not written back to it


def test_what_is_not_answered_is_written_again(tmp_path, port):
    text = f"""
integrations:
  inbox: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  sign: {{type: serial, port: '{port.path}', format: lines, direction: out, write: "{{{{ title }}}}", expect: "^OK",
          expect_within: 2}}
"""
    with Gateway(tmp_path / "gateway", text) as running:
        with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as client:
            client.sendmail("cam@lan", ["gw@lan"], b"Subject: Gate\r\n\r\n")
        port.expect(b"Gate\n")
        port.write(b"BUSY\n")

        def put_off():
            (one,) = owed(running)
            return "no answer in 2 s that looks like what is expected" in (one["reason"] or "")

        until(put_off)
        running.cli("queue", "retry", "--all")
        port.expect(b"Gate\n")
        port.write(b"OK 1\n")
        until(lambda: not owed(running))
        assert len(running.events()) == 1  # an answer is no event


def test_a_port_that_is_in_use_is_said_and_taken_when_it_is_free(tmp_path, port):
    held = ports.open_port(str(port.path))
    text = f"integrations:\n  plc: {{type: serial, port: '{port.path}', format: lines}}\n"
    with Gateway(tmp_path / "gateway", text) as running:
        words = (
            rf"{port.path} is in use by .* \(process {os.getpid()}\)\. Only one program can read a port: end that one\."
        )
        running.logged(f"plc: {words}")
        assert re.search(words, running.cli("doctor", check=False).stdout.decode() + running.greeting)
        held.close()
        running.logged(rf"{port.path} is open")
        port.write(b"hello\n")
        until(running.events)


def test_doctor_looks_for_the_port(tmp_path, port, monkeypatch):
    there = [tuple(finding) for finding in Serial.examine("plc", config(port=str(port.path)), tmp_path)]
    assert there == [("plc", "ok", f"the port {port.path} is there", "")]
    monkeypatch.setattr(ports, "list_ports", list)
    (gone,) = Serial.examine("plc", config(port="/dev/ttyUSB9"), tmp_path)
    assert gone.result == "warn"
    assert gone.text.startswith("there is no port /dev/ttyUSB9. No serial port is there at all.")
