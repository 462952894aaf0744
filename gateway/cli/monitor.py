"""Show what a board says on its serial port: its frames, decoded, and all else that it prints; and send it commands.

Commands are typed in, a line each: help, status, get PATH, set PATH VALUE, unset PATH, log, update, blink, reboot, or
an object such as {"do": "status"}. Nothing that the board sends is acknowledged, so its events stay on it for the
gateway. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from gateway import __version__, ports
from gateway.cli import show
from gateway.wire import frame, link

_AGAIN = 1.0  # seconds between two tries to open a port
_REPEAT = 3.0  # seconds before a command that was not answered is sent again
_ANSWER = 10.0  # seconds that a board has for an answer
_COLOURS = {"error": "31", "warning": "33", "event": "36", "notify": "36", "hello": "32", "done": "32", "faint": "2"}
_FAINT = ("ack", "ping", "pong")
_KEYS = {"get": ("path",), "set": ("path", "value"), "unset": ("path",)}  # what follows the verb


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "port",
        metavar="PORT",
        nargs="?",
        help="path, URL (socket://host:port), USB serial number or VID:PID (default: the only one there is)",
    )
    parser.add_argument("--baud", type=_baud, default=115200, metavar="N", help="speed of the line (default 115200)")
    parser.add_argument("--reset", action="store_true", help="press the board's reset button first")
    parser.add_argument("--do", metavar="COMMAND", help="send this one command, print its answer, and end")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so long")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object a line: time, from, and frame or console")
    form.add_argument("--raw", action="store_true", help="the bytes as they come, and lines typed in as they are")


def run(args: argparse.Namespace) -> int:
    spec = args.port or _only_port()
    settings = ports.Settings(baud=args.baud)
    try:
        line = ports.open_port(spec, settings, reset=args.reset)
    except ports.PortError as error:
        show.fail(_sentence(error))
    end = time.monotonic() + args.seconds if args.seconds is not None else None
    if args.do is not None:
        with line:
            return _do_one(line, args.do, args.json)
    typed = _typed()
    listener: Raw | Decoded = Raw() if args.raw else Decoded(Printer(args.json))
    print(f"{line.where} at {settings}. Ctrl-C ends it.", file=sys.stderr)
    while True:
        try:
            with line:
                listener.listen(line, typed, end)
            return 0
        except ports.PortError as error:
            print(f"{_sentence(error)} Waiting for it ...", file=sys.stderr)
        while True:
            time.sleep(_AGAIN)
            if end is not None and time.monotonic() > end:
                return 0
            try:
                line = ports.open_port(spec, settings)
                break
            except ports.PortError:
                continue


class Raw:
    """Bytes as they are."""

    def listen(self, line: ports.Line, typed: queue.SimpleQueue[str], end: float | None) -> None:
        """Until the end. Raises PortError."""
        while end is None or time.monotonic() < end:
            while not typed.empty():
                line.write(typed.get().encode() + b"\r\n")
            if data := line.read():
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()


class Decoded:
    """Frames, and the console between them."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._commands = 0

    def listen(self, line: ports.Line, typed: queue.SimpleQueue[str], end: float | None) -> None:
        """Until the end. Raises PortError."""
        talk = Talk(line, self._printer)
        while end is None or time.monotonic() < end:
            while not typed.empty():
                try:
                    command = command_of(typed.get())
                    if command:
                        self._commands += 1
                        talk.link.tell({"t": "do", "id": self._commands} | command)
                except ValueError as error:
                    print(f"{show.plain(str(error))}.", file=sys.stderr)
            talk.turn()


class Talk:
    """Our side of a line: says hello, answers pings, acknowledges nothing. All that goes over it is printed."""

    def __init__(self, line: ports.Line, printer: Printer) -> None:
        self._line = line
        self._printer = printer
        self._decoder = frame.Decoder()
        self._decoder.agree(frame.MAX_LINE)
        about = {"firmware": f"mailwire {__version__}", "board": "monitor"}
        self.link = link.Link(ports.boot_id(), about, ports.milliseconds())

    def turn(self) -> list[dict[str, Any]]:
        """Write what there is to write, read what has come; the answers to commands among it. Raises PortError."""
        while out := self.link.take(ports.milliseconds()):
            self._line.write(out)
            self._printer.frame(json.loads(out[1:-6]), ours=True)
        data = self._line.read()
        for kind, value in self._decoder.feed(data):
            if kind == frame.FRAME:
                self._printer.frame(value)
            else:
                self._printer.console(value.decode("utf-8", "replace"))
        events = self.link.feed(data, ports.milliseconds())
        return [event[1] for event in events if event[0] == link.CONSOLE and event[1]["t"] == "done"]


class Printer:
    """Writes what goes over the line: for people, or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def frame(self, message: Mapping[str, Any], *, ours: bool = False) -> None:
        if self.as_json:
            self._object({"from": "us" if ours else "board", "frame": message})
            return
        kind = str(message.get("t"))
        self._line(f"{'>' if ours else '<'} {kind:<6} {told(message)}", _colour_of(kind, message))

    def console(self, text: str) -> None:
        if self.as_json:
            self._object({"from": "board", "console": text})
        else:
            self._line(f"  {text}", None)

    def _object(self, what: Mapping[str, Any]) -> None:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        print(show.json_line({"time": moment, **what}), flush=True)

    def _line(self, text: str, colour: str | None) -> None:
        moment = datetime.now().astimezone().isoformat(timespec="milliseconds")[11:23]
        text = show.plain(text)
        if self._colour:
            moment = f"\033[2m{moment}\033[0m"
            text = f"\033[{_COLOURS[colour]}m{text}\033[0m" if colour else text
        print(f"{moment} {text}".rstrip(), flush=True)


def told(message: Mapping[str, Any]) -> str:
    """A message for people, without its type."""
    match message.get("t"):
        case "hello":
            head = " ".join(str(message[key]) for key in ("name", "board", "firmware") if message.get(key))
            return (
                f"{head} (boot {message.get('boot')}, lines of {message.get('line')}, window {message.get('window')})"
            )
        case "event" | "notify" as kind:
            return f"{_number(message)}{_event(message.get(kind))}"
        case "ack" | "nak":
            return f"{_number(message)}{message.get('reason', '')} {message.get('text', '')}".strip()
        case "do":
            rest = {key: value for key, value in message.items() if key not in ("t", "id", "do")}
            return f"{message.get('do')} {_compact(rest) if rest else ''}".strip()
        case "done" if message.get("status") == "error":
            return f"error: {message.get('error')}"
        case "done" if "data" in message:
            return _compact(message["data"])
        case "ping" | "pong":
            return ""
        case _:
            return _compact(message)


def _number(message: Mapping[str, Any]) -> str:
    return f"#{message['n']} " if "n" in message else ""


def _event(body: Any) -> str:
    if not isinstance(body, Mapping):
        return _compact(body)
    device = body.get("device")
    name = device.get("id") if isinstance(device, Mapping) else device
    words = [name, body.get("kind"), body.get("state"), body.get("severity")]
    title = body.get("title") or body.get("message") or body.get("text") or ""
    return f"{' '.join(str(word) for word in words if word)}: {title}"


def _colour_of(kind: str, message: Mapping[str, Any]) -> str | None:
    body = message.get(kind)
    severity = body.get("severity") if isinstance(body, Mapping) else None
    if kind == "nak" or message.get("status") == "error" or severity == "critical":
        return "error"
    if severity == "warning":
        return "warning"
    return "faint" if kind in _FAINT else kind if kind in _COLOURS else None


def command_of(text: str) -> dict[str, Any] | None:
    """What was typed in, as a command: `set mqtt.url mqtt://host`; None for nothing. Raises ValueError."""
    text = text.strip()
    if not text:
        return None
    if text.startswith("{"):
        return dict(json.loads(text))
    verb, *rest = text.split(None, 2)
    keys = _KEYS.get(verb, ())
    if len(rest) > len(keys):
        raise ValueError(f"'{verb}' takes {show.number(len(keys), 'word')} behind it, not '{' '.join(rest)}'")
    return {"do": verb} | {key: _value(word) if key == "value" else word for key, word in zip(keys, rest, strict=False)}


def _value(word: str) -> Any:
    """A number, true, false, or whatever else is JSON; else the text itself."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def _do_one(line: ports.Line, text: str, as_json: bool) -> int:
    """Send one command and print nothing but its answer. 1 if the board says no, or nothing."""
    try:
        command = command_of(text)
    except ValueError as error:
        show.fail(f"{error}.", 2)
    if command is None:
        show.fail("There is no command in this.", 2)
    try:
        answer = _ask(line, command)
    except ports.PortError as error:
        show.fail(_sentence(error))
    if answer is None:
        show.fail(f"{line.where}: nobody answered in {_ANSWER:.0f} s. Does the board run Mailwire, at this speed?")
    if answer.get("status") == "error":
        show.fail(f"The board says: {answer.get('error')}")
    data = answer.get("data")
    if as_json or not isinstance(data, Mapping):
        print(show.json_line(data))
    else:
        show.facts([(str(key), value if isinstance(value, str) else _compact(value)) for key, value in data.items()])
    return 0


def _ask(line: ports.Line, command: Mapping[str, Any]) -> dict[str, Any] | None:
    """Until it is answered; None if it is not. Raises PortError."""
    ours = {"t": "do", "id": ports.boot_id(), **command}
    talk = Talk(line, _Silent(as_json=True))
    end = time.monotonic() + _ANSWER
    due = 0.0
    while (now := time.monotonic()) < end:
        if now >= due:
            talk.link.tell(ours)
            due = now + _REPEAT
        for answer in talk.turn():
            if answer.get("id") == ours["id"]:
                return answer
    return None


class _Silent(Printer):
    def frame(self, message: Mapping[str, Any], *, ours: bool = False) -> None:
        pass

    def console(self, text: str) -> None:
        pass


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _only_port() -> str:
    """The USB device that is there; asks which, if there are several and somebody to ask."""
    found = [port for port in ports.list_ports() if port.vid is not None] or ports.list_ports()
    if not found:
        show.fail(ports.NO_PORT)
    if len(found) == 1:
        return found[0].path
    listed = "\n".join(f"  {number}  {port}" for number, port in enumerate(found, 1))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        show.fail(f"There is more than one port; name the one that is meant:\n{listed}", 2)
    print(f"There is more than one port:\n{show.plain(listed, keep=chr(10))}", file=sys.stderr)
    while True:
        print("Which? ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            raise SystemExit(2)
        if answer.strip().isdigit() and 1 <= int(answer) <= len(found):
            return found[int(answer) - 1].path


def _typed() -> queue.SimpleQueue[str]:
    """The lines of standard input, as they come."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in _lines():
            lines.put(line)

    threading.Thread(target=read, daemon=True, name="typed").start()
    return lines


def _lines() -> Iterator[str]:
    while line := sys.stdin.readline():
        yield line.rstrip("\r\n")


def _sentence(error: Exception) -> str:
    """An error's words, which begin small, as a sentence."""
    text = str(error)
    return text if text.startswith("/") else text[:1].upper() + text[1:]


def _baud(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no speed; write 115200 or 9600, say")
