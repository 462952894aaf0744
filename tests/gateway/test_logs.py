"""The log's lines: what they hold in each form, and that nothing a peer sent can forge or disturb one."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import logs

HOSTILE = "x\r\n2026-11-25 00:00:00.000 ERROR   gateway.store: all is lost\x1b[2J\x9b31m\u202egnp.\x00\udc80"


def record(message: str, *args: Any, level: int = logging.WARNING, name: str = "gateway.x", **extra: Any) -> Any:
    made = logging.getLogger("made").makeRecord(name, level, __file__, 1, message, args, None, extra=extra)
    made.created, made.msecs = 1764065249.123, 123.0
    return made


def as_json(made: logging.LogRecord) -> Any:
    return json.loads(logs.JsonFormatter().format(made))


def test_json_has_all_that_is_known() -> None:
    made = record("%s: deliveries wait", "broker", target="broker", mail="01K", device="front_door", size=3, state=None)
    assert logs.JsonFormatter().format(made) == (
        '{"time": "2025-11-25T10:07:29.123Z", "level": "warning", "logger": "gateway.x", '
        '"message": "broker: deliveries wait", "target": "broker", "mail": "01K", "device": "front_door", "size": 3, '
        '"state": null}'
    )


def test_text_adds_what_the_message_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.time, "localtime", logs.time.gmtime)
    made = record(
        "mail %s from %s: put off", "01K", "192.168.1.20", mail="01K", peer="192.168.1.20", device="cam", state=None
    )
    assert logs.TextFormatter().format(made) == (
        "2025-11-25 10:07:29.123 WARNING gateway.x: mail 01K from 192.168.1.20: put off [device=cam]"
    )


def test_a_word_within_a_word_is_not_said() -> None:
    assert logs.TextFormatter().format(record("the camera is away", device="cam")).endswith("away [device=cam]")


def test_an_integration_is_known_by_its_logger() -> None:
    made = record("hello", name="mailwire.lan-mail")
    assert as_json(made)["integration"] == "lan-mail"
    assert logs.TextFormatter().format(made).endswith("mailwire.lan-mail: hello")


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JournalFormatter(), logs.JsonFormatter()])
def test_a_peer_can_not_forge_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("from %s", HOSTILE, device=HOSTILE, level=logging.ERROR))
    assert line.isprintable()
    assert "\\x1b[2J" in line.replace("\\\\", "\\")


@given(st.text(), st.text(), st.text(min_size=1))
def test_nothing_that_can_not_be_seen_survives(message: str, argument: str, field: str) -> None:
    made = record(message.replace("%", "%%") + " %s", argument, mail=field)
    assert logs.TextFormatter().format(made).isprintable()
    assert logs.JournalFormatter().format(made).isprintable()
    assert logs.JsonFormatter().format(made).isprintable()
    assert all(str(value).isprintable() for value in as_json(made).values())


def test_a_field_can_not_take_the_place_of_ours() -> None:
    assert as_json(record("words", level=logging.INFO, time="never", logger="me"))["logger"] == "gateway.x"


def test_length_is_bounded() -> None:
    assert len(logs.TextFormatter().format(record("%s", "x" * 10**6, mail="y" * 10**6))) < 9000


@pytest.fixture
def failed() -> Any:
    made = record("it failed")
    try:
        raise ValueError(f"cause\n{HOSTILE}")
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def test_a_traceback_is_kept_and_its_lines_are_no_lines_of_the_log(failed: logging.LogRecord) -> None:
    first, *rest = logs.TextFormatter().format(failed).split("\n")
    assert first.endswith("it failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert "    ValueError: cause" in rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    said = as_json(failed)["exception"].split("\n")
    assert said[0] == "Traceback (most recent call last):"
    assert all(line.isprintable() for line in said)


def test_the_journal_is_told_the_priority_of_each_line(failed: logging.LogRecord) -> None:
    lines = logs.JournalFormatter().format(failed).split("\n")
    assert lines[0] == "<4>gateway.x: it failed"
    assert all(line.startswith("<4>    ") for line in lines[1:])
    assert [
        logs.JournalFormatter().format(record("x", level=level))[:3]
        for level in (logging.DEBUG, logging.INFO, logging.ERROR, logging.CRITICAL)
    ] == ["<7>", "<6>", "<3>", "<2>"]


@pytest.fixture
def pipe() -> Iterator[io.TextIOWrapper]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield stream
    os.close(reading)


@pytest.fixture
def terminal() -> Iterator[io.TextIOWrapper]:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream
    os.close(ours)


def test_the_form_fits_what_the_stream_is(
    pipe: io.TextIOWrapper, terminal: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(form: logs.Form, stream: Any) -> type:
        return type(logs.formatter(form, stream))

    assert kind("auto", terminal) is logs.TextFormatter
    assert kind("auto", pipe) is logs.JsonFormatter
    assert kind("auto", io.StringIO()) is logs.JsonFormatter
    assert kind("text", pipe) is logs.TextFormatter
    assert kind("json", terminal) is logs.JsonFormatter
    facts = os.fstat(pipe.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
    assert kind("auto", pipe) is logs.JournalFormatter
    assert kind("text", pipe) is logs.JournalFormatter
    assert kind("json", pipe) is logs.JsonFormatter
    assert kind("auto", terminal) is logs.TextFormatter


def test_a_flood_is_counted_instead_of_written() -> None:
    budget = logs.Budget(2)
    assert [budget.take(now) for now in (7.0, 7.1, 7.2, 7.9, 8.0)] == [True, True, False, False, True]
    assert budget.left_out == 2
