"""Listening sockets: from `host:port` in the configuration to sockets, or to words that say what to do.

A socket that systemd has opened already at such an address is taken over (socket activation).
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Sequence
from typing import Any

from gateway.api import Broken, NotReady, systemd

BACKLOG = 1024
"""Connections that the system completes while we are busy: a whole plant may come back after a power cut."""

_OTHER_FILES = 128  # that this program has open beside connections: store, logs, other integrations


def connections_possible(wanted: int) -> int:
    """As many of the wanted connections as the system has files for; raises our own limit (`ulimit -n`) if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_FILES))


def split(address: str) -> tuple[str, int]:
    """`host:port` or `[host]:port` -> (host, port); raises ValueError with what is wrong."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"'{address}': an IPv6 address goes in brackets: '[{host}]:{port}'")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"'{address}' is not an address and a port: write it like '0.0.0.0:2525' or '[::]:2525'")
    return host, int(port)


def joined(host: str, port: int) -> str:
    """(host, port) as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def bind(addresses: Sequence[str]) -> list[socket.socket]:
    """A bound TCP socket for each address. Raises NotReady or Broken, and then leaves none open.

    `[::]` is passed over in silence on a machine without IPv6, as long as something else is left to listen on.
    """
    sockets: list[socket.socket] = []
    no_ipv6: OSError | None = None
    try:
        for address in addresses:
            host, port = split(address)
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
                )
                sockets += [_bound(family, place) for family, _, _, _, place in found if not _have(sockets, place)]
            except OSError as error:
                if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    no_ipv6 = error
                else:
                    raise trouble(address, error) from error
        if no_ipv6 and not sockets:
            raise Broken(
                "this machine has no IPv6: add an IPv4 address such as '0.0.0.0:2525' to 'listen'"
            ) from no_ipv6
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _have(sockets: list[socket.socket], place: tuple[Any, ...]) -> bool:
    """Take over what systemd has opened there; one socket of its may stand for IPv4 and IPv6."""
    passed = systemd.passed.take(place[0], place[1])
    if passed is None:
        return False
    if any(os.path.sameopenfile(passed.fileno(), one.fileno()) for one in sockets):
        passed.close()
    else:
        sockets.append(passed)
    return True


def _bound(family: int, place: tuple[Any, ...]) -> socket.socket:
    # With the protocol named, or asyncio would not set TCP_NODELAY on the connections.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart waits a minute for old connections
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        bound.setblocking(False)
        bound.bind(place)
        bound.listen(BACKLOG)
    except BaseException:
        bound.close()
        raise
    return bound


def trouble(address: str, error: OSError) -> NotReady | Broken:
    """What a person can do about it. NotReady where waiting may help."""
    port = split(address)[1]
    if error.errno == errno.EADDRINUSE:
        return NotReady(
            f"{address} is taken by another program: stop that one, or choose another port under 'listen' "
            f"('ss -ltnp sport = :{port}' shows which it is)"
        )
    if error.errno == errno.EACCES:
        return Broken(
            f"{address} may not be opened: ports below 1024 need a right of their own. Choose a port from 1024 up "
            "under 'listen', or give the right: 'AmbientCapabilities=CAP_NET_BIND_SERVICE' in a systemd unit, or "
            f"'sudo sysctl net.ipv4.ip_unprivileged_port_start={port}'"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return NotReady(
            f"{address} is not an address of this machine (yet): '0.0.0.0' under 'listen' means all of them"
        )
    if isinstance(error, socket.gaierror):
        return NotReady(f"{address} has a name that can't be resolved: write the address in numbers under 'listen'")
    return NotReady(f"{address} can't be opened: {error.strerror or error}")
