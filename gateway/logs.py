"""The log's form: text for a person, JSON for a program; each record is one line, whatever a peer put into it.

A line says which mail and device it is about where that is known: `mail`, `device`, and whatever else the code gave in
`extra`. In JSON these are keys; in text they follow the message in brackets, those that it does not name itself.

Nothing that can't be seen survives in either form: control characters, terminal escapes, line ends and bidi marks in
a message or a field become `\\x1b`, `\\n`, `\\u202e`, also for who reads the decoded JSON. A traceback's lines are
indented in text, so that no line that begins with a time is anything but ours.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Form = Literal["auto", "text", "json"]

_LONGEST = 4000  # characters of a message or a field
_NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_INTEGRATION = "mailwire."  # and its name: the logger that an integration is given
_WORD = re.compile(r"[\w.:@-]+")


def plain(text: str) -> str:
    """Escapes for all that can't be seen; bounded in length."""
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


class _Formatter(logging.Formatter):
    """`hide` takes secrets out of a text, whoever has put them in."""

    def __init__(self, hide: Callable[[str], str] = str) -> None:
        super().__init__()
        self._hide = hide

    def said(self, text: str) -> str:
        return plain(self._hide(text))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What the code gave in `extra`, and the integration that speaks."""
        fields = {
            key: value if isinstance(value, int | float | None) else self.said(str(value))
            for key, value in vars(record).items()
            if key not in _NOT_EXTRA
        }
        if record.name.startswith(_INTEGRATION):
            fields.setdefault("integration", plain(record.name.removeprefix(_INTEGRATION)))
        return fields

    def traceback(self, record: logging.LogRecord) -> list[str]:
        """Its lines, without an end each."""
        text = self.formatException(record.exc_info) if record.exc_info else ""
        if record.stack_info:
            text += f"\n{record.stack_info}"
        return [plain(line) for line in self._hide(text).split("\n") if line]


class TextFormatter(_Formatter):
    """`2026-11-25 10:07:29.123 WARNING mailwire.lan-mail: words [mail=… device=…]`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join([f"{self.begin(record)} {self.line(record)}", *self.traceback(record)])

    def begin(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{seconds}.{int(record.msecs):03d} {record.levelname:<7}"

    def line(self, record: logging.LogRecord) -> str:
        text = f"{record.name}: {self.said(record.getMessage())}"
        fields = self.fields(record)
        if fields:
            said = {word.strip(".:") for word in _WORD.findall(text)} | {record.name.removeprefix(_INTEGRATION)}
            more = [f"{key}={value}" for key, value in fields.items() if value is not None and str(value) not in said]
            if more:
                text += f" [{' '.join(more)}]"
        return text


class JournalFormatter(TextFormatter):
    """Text with the priority that journald reads (sd-daemon(3)); the time it has itself."""

    PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in self.PRIORITIES if record.levelno >= level), 7)
        lines = [self.line(record), *(f"    {line}" for line in self.traceback(record))]
        return "\n".join(f"<{priority}>{line}" for line in lines)


class JsonFormatter(_Formatter):
    """One object a line: time (ISO 8601, UTC), level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.said(record.getMessage()),
        }
        line |= {key: value for key, value in self.fields(record).items() if key not in line}
        if traceback := self.traceback(record):
            line["exception"] = "\n".join(traceback)
        return json.dumps(line, ensure_ascii=False)


def formatter(form: Form, stream: TextIO, hide: Callable[[str], str] = str) -> logging.Formatter:
    """`auto`: text on a terminal and in systemd's journal, which people read with journalctl; else JSON."""
    if form == "json" or (form == "auto" and not (stream.isatty() or _is_journal(stream))):
        return JsonFormatter(hide)
    return JournalFormatter(hide) if _is_journal(stream) else TextFormatter(hide)


def _is_journal(stream: TextIO) -> bool:
    """systemd says which stream leads to the journal: it may have been redirected since (systemd.exec(5))."""
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def begin(form: Form, level: str, stream: TextIO, hide: Callable[[str], str] = str) -> None:
    """Send this program's log there, Python's warnings with it; `hide` takes secrets out of a text."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(form, stream, hide))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    # What no form shows is not worked out (logging's own advice, "Optimization" in the Python manual).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Budget:
    """So many lines a second of a kind that a flood of mail would make thousands of; the rest is counted.

    A line costs more than a small mail's way through a step, and nobody reads a thousand of them in a second.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._left = lines
        self._second = 0
        self.left_out = 0

    def take(self, now: float) -> bool:
        """May this line be written? `now` in seconds, of any clock that does not go back."""
        second = int(now)
        if second != self._second:
            self._second, self._left = second, self._lines
        if not self._left:
            self.left_out += 1
            return False
        self._left -= 1
        return True
