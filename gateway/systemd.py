"""What systemd and a service tell each other: `sd_notify` and socket activation, without its library.

Both are a few lines of protocol (sd_notify(3), sd_listen_fds(3)). Without systemd nothing here does anything.
"""

from __future__ import annotations

import contextlib
import os
import socket

_FIRST = 3  # the number of the first file that is passed (SD_LISTEN_FDS_START)


def notify(*lines: str) -> None:
    """Tell the service manager, for example `READY=1`. Never fails: nobody there is as good as nobody asked."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.settimeout(1)
        door.sendto("\n".join(lines).encode(), address)


def watchdog_seconds() -> float | None:
    """Within how many seconds the service manager wants a sign of life; None: it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) else None


class Passed:
    """The listening sockets that systemd has opened for us. Kept to the end: a successor may want them again."""

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._copies: dict[socket.socket, socket.socket] = {}  # the newest of each that was taken
        count = os.environ.get("LISTEN_FDS", "") if os.environ.get("LISTEN_PID") == str(os.getpid()) else ""
        for descriptor in range(_FIRST, _FIRST + int(count) if count.isdigit() else _FIRST):
            with contextlib.suppress(OSError):  # no socket at all
                os.set_inheritable(descriptor, False)
                one = socket.socket(fileno=descriptor)
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    self._add(one)
                else:
                    one.detach()

    def _add(self, one: socket.socket) -> None:
        host, port = one.getsockname()[:2]
        self._sockets[host, port] = one
        # `ListenStream=25` opens one socket for both, unless the unit or the system says otherwise (systemd.socket(5)).
        if host == "::" and not one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            self._sockets.setdefault(("0.0.0.0", port), one)  # noqa: S104  # systemd has bound it

    def take(self, host: str, port: int) -> socket.socket | None:
        """A copy of the one that listens there, if there is one; closing it does not stop the listening."""
        one = self._sockets.get((host, port))
        if one is None:
            return None
        copy = self._copies[one] = one.dup()
        copy.setblocking(False)
        return copy

    def unused(self) -> list[tuple[str, int]]:
        """Where connections would wait for ever, because nobody has taken the socket, or has it any more."""
        used = {one for one, copy in self._copies.items() if copy.fileno() >= 0}
        return [place for place, one in self._sockets.items() if one not in used]


passed = Passed()
