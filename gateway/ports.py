"""The door to serial ports: which there are, which one is meant, opening it, reading and writing; pyserial's only user.

A port is named by its path (`/dev/ttyUSB0`), by any URL of pyserial's (`socket://host:port`, `rfc2217://host:port`,
`loop://`, `hwgrep://text`), or by what is plugged in, whichever path that has today: the serial number of a USB
device, or its vendor and product (`10C4:EA60`). Every trouble is a `PortError` with words that a person can act on.

Opening a port resets no board. Most take a change of the lines DTR and RTS for their reset button, so both are left as
the system raises them, together, and are not dropped when the port is closed. All here blocks: it is for threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import secrets
import select
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import serial
from serial.tools import list_ports as usb

import gateway
from gateway.wire import link

PATIENCE = 0.2  # seconds that a read waits; a port that is to be closed is waited for as long
_WRITING = 10.0  # seconds without progress after which the other side is taken for stuck
_READ = 4096
_PULSE = 0.1  # seconds
NO_PORT = "No serial port is there at all. Is the board plugged in, with a cable that carries data and not just power?"
_IDS = re.compile("([0-9A-Fa-f]{4}):([0-9A-Fa-f]{4})")
_PATH = re.compile(r"[./~]|COM\d+$")


class PortError(Exception):
    """A port can't be used; the text says why, and what to do."""


class NoSuchPort(PortError):
    """It is not there (now)."""


class PortGone(PortError):
    """It was there, and is no more: unplugged, or the connection has ended."""


class Port(NamedTuple):
    """A port of this machine. `vid`, `pid` and `serial` are of a USB device, else None."""

    path: str
    name: str
    vid: int | None
    pid: int | None
    serial: str | None

    def __str__(self) -> str:
        about = [self.name] if self.name else []
        if self.vid is not None and self.pid is not None:
            about.append(f"{self.vid:04X}:{self.pid:04X}")
        if self.serial:
            about.append(f"serial number {self.serial}")
        return f"{self.path} ({', '.join(about)})" if about else self.path


class Settings(NamedTuple):
    """How the line is spoken. `flow`: `rtscts` by wires of its own, `xonxoff` by control characters."""

    baud: int = 115200
    bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stop: Literal[1, 2] = 1
    flow: Literal["none", "rtscts", "xonxoff"] = "none"

    def __str__(self) -> str:
        return f"{self.baud} {self.bits}{self.parity[0].upper()}{self.stop}"

    @property
    def rate(self) -> float:
        """Octets a second."""
        return self.baud / (1 + self.bits + (self.parity != "none") + self.stop)


def list_ports() -> list[Port]:
    """Those of this machine, USB devices first."""
    found = [Port(one.device, _name(one), one.vid, one.pid, one.serial_number or None) for one in usb.comports()]
    return sorted(found, key=lambda port: (port.vid is None, port.path))


def find(spec: str) -> str:
    """The path or URL of the port that is meant. Raises NoSuchPort, or PortError where several could be meant."""
    if "://" in spec or _PATH.match(spec):
        return os.path.expanduser(spec)  # noqa: PTH111  # a URL is no path
    if spec.startswith("tty") and Path("/dev", spec).exists():
        return f"/dev/{spec}"
    ports = list_ports()
    ids = _IDS.fullmatch(spec)
    if ids:
        wanted = int(ids[1], 16), int(ids[2], 16)
        found = [port for port in ports if (port.vid, port.pid) == wanted]
    else:
        found = [port for port in ports if port.serial == spec]
    if not found:
        what = f"no USB device {spec}" if ids else f"no USB device with the serial number '{spec}'"
        raise NoSuchPort(f"there is {what}. {_there(ports)}")
    if len(found) > 1:
        raise PortError(f"'{spec}' may mean {_listed(found)}. Name one by its serial number or its path.")
    return found[0].path


def look(spec: str) -> str:
    """The path or URL of the port that is meant, which is there and may be opened, as far as can be seen from outside.

    Raises PortError.
    """
    where = find(spec)
    if "://" not in where:
        if not os.path.exists(where):  # noqa: PTH110
            raise NoSuchPort(f"there is no port {where}. {_there(list_ports())}")
        if not os.access(where, os.R_OK | os.W_OK):
            raise PortError(_no_right(where))
    return where


class Line:
    """An open port. Made by `open_port`; one thread may read while another writes."""

    def __init__(self, port: serial.SerialBase, where: str) -> None:
        self.where = where
        self._port: Any = port
        self._descriptor = _descriptor(port)
        self._direct = type(port) is serial.Serial  # pyserial's own reading can't do with a descriptor above 1023

    def read(self) -> bytes:
        """What has come; waits for something, but not for long. Raises PortGone."""
        with self._going():
            if self._descriptor is None:
                return bytes(self._port.read(max(1, self._port.in_waiting)))
            if not _wait(self._descriptor, select.POLLIN, PATIENCE):
                return b""
            if not self._direct:
                return bytes(self._port.read(_READ))
            data = os.read(self._descriptor, _READ)
            if not data:
                raise OSError("it says that there is something to read, and there is nothing")
            return data

    def write(self, data: bytes) -> None:
        """All of it. Raises PortGone, or PortError when the other side takes nothing for too long."""
        with self._going():
            while data and self._descriptor is not None:
                if not _wait(self._descriptor, select.POLLOUT, _WRITING):
                    raise serial.SerialTimeoutException
                if not self._direct:
                    break
                data = data[os.write(self._descriptor, data) :]
            if data:
                self._port.write(data)

    def reset(self) -> None:
        """Press the board's reset button, where it has its wires on RTS and DTR."""
        with self._going():
            self._port.dtr, self._port.rts = False, True
            time.sleep(_PULSE)
            self._port.rts = False
            self._port.dtr = True
            self._port.rts = True

    def close(self) -> None:
        """Nobody may be reading or writing: the descriptor's number is soon another file's."""
        self._descriptor = -1 if self._direct else None
        connection = getattr(self._port, "_socket", None)
        with contextlib.suppress(Exception):  # it may be gone
            self._port.close()
        if connection:  # pyserial leaves it open where the other side has gone first
            connection.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _going(self) -> Iterator[None]:
        try:
            yield
        except serial.SerialTimeoutException:
            raise PortError(f"{self.where}: the other side takes nothing. Does it hold back by flow control?") from None
        except (OSError, TypeError, ValueError) as error:  # of a port that another thread closes: TypeError, ValueError
            raise PortGone(f"{self.where}: the port is gone: was it unplugged?") from error


def open_port(spec: str, settings: Settings = Settings(), *, reset: bool = False) -> Line:  # noqa: B008  # immutable
    """Open the port that is meant, for us alone. With `reset` the board's reset button is pressed. Raises PortError."""
    where = find(spec)
    try:
        port = serial.serial_for_url(
            where,
            do_not_open=True,
            baudrate=settings.baud,
            bytesize=settings.bits,
            parity=settings.parity[0].upper(),
            stopbits=settings.stop,
            rtscts=settings.flow == "rtscts",
            xonxoff=settings.flow == "xonxoff",
            timeout=PATIENCE,
            write_timeout=None if where.startswith("rfc2217:") else _WRITING,  # it has none
        )
        if _local(port):
            port.exclusive = True
        port.open()
        if _descriptor(port) is not None:
            port.timeout = 0  # it is waited for by `poll`
    except termios.error as error:
        raise PortError(f"{where} can't do {settings}: {error.args[-1]}") from error
    except (OSError, ValueError, AttributeError, TypeError, NotImplementedError) as error:  # pyserial's, of bad URLs
        raise _explained(where, error) from error
    line = Line(port, where)
    try:
        if _local(port):
            _keep_lines(port.fileno(), where)
        if reset:
            line.reset()
    except OSError as error:
        line.close()
        raise _explained(where, error) from error
    except PortError:
        line.close()
        raise
    return line


def wait_for_hello(
    line: Line, seconds: float, noise: Callable[[bytes], None] = lambda _: None
) -> dict[str, Any] | None:
    """Ask who is there until somebody says `hello` (`gateway.wire.link`); None if nobody did.

    `noise` is given each line that is no frame: what the board prints meanwhile. Raises PortGone.
    """
    end = time.monotonic() + seconds
    ours = link.Link(boot_id(), {"firmware": f"mailwire {gateway.__version__}"}, milliseconds())
    while time.monotonic() < end:
        while out := ours.take(milliseconds()):
            line.write(out)
        for kind, *values in ours.feed(line.read(), milliseconds()):
            if kind == link.NOISE:
                noise(values[0])
            elif kind == link.HELLO:
                return dict(values[0])
    return None


def boot_id() -> str:
    """A new one, of this start."""
    return secrets.token_hex(4)


def milliseconds() -> int:
    """The clock that links are given."""
    return time.monotonic_ns() // 1_000_000


# --- inside ----------------------------------------------------------------------------------------------------


def _name(port: Any) -> str:
    """`CP2102N USB to UART Bridge`; nothing where pyserial has only `n/a` or the name of the device to say."""
    text = port.product or port.description or ""
    return "" if text in ("n/a", port.name) else str(text)


def _there(ports: list[Port]) -> str:
    if ports:
        return f"There is {_listed(ports)}."
    if os.environ.get("INVOCATION_ID"):  # a service of systemd's
        return f"{NO_PORT} If it is: `mailwire service install` lets the service see the ports of its configuration."
    return NO_PORT


def _listed(ports: list[Port]) -> str:
    return ", ".join(str(port) for port in ports)


def _local(port: serial.SerialBase) -> bool:
    return isinstance(port, serial.Serial)


def _wait(descriptor: int, what: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, what)
    return bool(poll.poll(seconds * 1000))


def _descriptor(port: serial.SerialBase) -> int | None:
    """Of ports that can be waited for by `poll`; rfc2217:// and loop:// have none."""
    try:
        return int(port.fileno())
    except (AttributeError, OSError):
        return None


def _keep_lines(descriptor: int, where: str) -> None:
    """Closing is to drop neither DTR nor RTS, and nobody is to open it beside us.

    A pseudo-terminal would stay closed to others even after we crashed, as long as its other end is open.
    """
    attributes = termios.tcgetattr(descriptor)
    attributes[2] &= ~termios.HUPCL
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
    if not os.path.realpath(where).startswith("/dev/pts/"):
        fcntl.ioctl(descriptor, termios.TIOCEXCL)


def _explained(where: str, error: Exception) -> PortError:
    number = getattr(error, "errno", None)
    if "://" in where:
        text = str(error.__cause__ or error).removeprefix(f"Could not open port {where}: ")
        return NoSuchPort(f"{where} can't be opened: {text}")
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return NoSuchPort(f"there is no port {where}. {_there(list_ports())}")
    if number in (errno.EACCES, errno.EPERM):
        return PortError(_no_right(where))
    if number in (errno.EBUSY, errno.EAGAIN):
        return PortError(f"{where} is in use{_by_whom(where)}. Only one program can read a port: end that one.")
    if number in (None, errno.ENOTTY) and not Path(where).is_char_device():
        return PortError(f"{where} is no serial port. {_there(list_ports())}")
    return PortError(f"{where} can't be opened: {os.strerror(number) if number else error}")


def _no_right(where: str) -> str:
    user = str(os.geteuid())
    with contextlib.suppress(KeyError):  # in a container users and groups need have no names
        user = pwd.getpwuid(os.geteuid()).pw_name
    number = os.stat(where).st_gid  # noqa: PTH116
    begin = f"the user {user} may not open {where}"
    try:
        group = grp.getgrgid(number)
    except KeyError:
        return (
            f"{begin}, which belongs to the group {number}. Run this with that group (docker run --group-add {number})."
        )
    if user in group.gr_mem:
        return f"{begin} yet: it is in the group {group.gr_name} since it logged in. Log out and in again."
    if group.gr_name == "root":
        return f"{begin}: it belongs to root alone."
    return (
        f"{begin}, which belongs to the group {group.gr_name}. "
        f"Add the user to it: sudo usermod -aG {group.gr_name} {user}, then log out and in again."
    )


def _by_whom(where: str) -> str:
    """` by minicom (process 123)`, as far as this user may know."""
    real = os.path.realpath(where)
    own = os.getpid()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            pid = descriptor.parts[2]
            if int(pid) != own and str(descriptor.readlink()) == real:
                return f" by {Path('/proc', pid, 'comm').read_text().strip()} (process {pid})"
    return ""
