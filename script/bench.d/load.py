"""The two loads: postfix's smtp-source for rates, our own sender beside a subscriber for times."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import mails
from kit import Kit
from process import HOST, Failed, Server
from servers import PEERS

LIMIT = 120  # seconds that one run of a load may take
PATIENCE = 30  # seconds that all mails of a run have to reach the subscriber


def smtp_source(kit: Kit, server: Server, count: int, connections: int, kind: str, *, kept: bool = True) -> float:
    """Send `count` mails of that kind (see `mails`), `connections` at a time; seconds until the last 250.

    1 KiB is smtp-source's own text, as in other people's measurements.
    """
    command = [*kit.postfix_program("sbin/smtp-source"), "-4", "-s", str(connections), "-m", str(count), "-C", "10"]
    command += ["-l", "1024"] if kind == "1k" else ["-F", str(mails.whole(server.folder, kind))]
    command += ["-d"] if kept else []
    command += ["-M", "bench.example", "-f", "camera@bench.example", "-t", "gw@bench.example"]
    start = time.perf_counter()
    _run([*command, f"{HOST}:{server.port}"], server)
    return time.perf_counter() - start


@dataclass(slots=True)
class Times:
    """What the sender and the subscriber noted. Times in ms; `rate` is mails per second up to the last arrival."""

    rate: float
    answered: list[float]
    arrived: list[float]


def timed(
    server: Server, count: int, connections: int, *, rate: int = 0, kind: str = "1k", first: int = 0, devices: int = 1,
    broker: Server | None = None, topic: str = "",
) -> Times:  # fmt: skip
    """Send numbered mails and note when each was answered and, with `broker`, when it reached a QoS 1 subscriber."""
    head, rest = server.folder / "head.eml", server.folder / f"{kind}-rest.eml"
    if not rest.exists():
        head.write_text(mails.HEAD)
        rest.write_bytes(mails.rest(kind))
    words = map(str, (server.port, count, connections, rate, first, devices, head, rest))
    command = [sys.executable, str(PEERS / "sender.py"), *words]
    arrivals: dict[int, int] = {}
    if not broker:
        notes = _numbers(_run(command, server))
    else:
        listener = subprocess.Popen(
            [sys.executable, str(PEERS / "subscriber.py"), str(broker.port), topic, str(count), str(PATIENCE)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert listener.stdout
            if listener.stdout.readline() != "ready\n":
                raise Failed("the subscriber was not let in")
            notes = _numbers(_run(command, server))
            arrivals = dict(_numbers(listener.communicate(timeout=LIMIT)[0]))
        finally:
            listener.kill()
            listener.wait()
        if len(arrivals) < count:
            lost = count - len(arrivals)
            raise Failed(f"{lost} of {count} mails did not reach the subscriber in time: {server.last_words()}")
    ends = arrivals.values() if broker else [answer for _, _, answer in notes]
    return Times(
        rate=count / ((max(ends) - min(dot for _, dot, _ in notes)) / 1e9),
        answered=[(answer - dot) / 1e6 for _, dot, answer in notes],
        arrived=[(arrivals[number] - dot) / 1e6 for number, dot, _ in notes if broker],
    )


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _numbers(text: str) -> Any:
    """A tuple of the numbers in each line."""
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def _run(command: list[str], server: Server) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise Failed(f"{server.name} did not take the load within {LIMIT} s: {server.last_words()}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise Failed(f"the load on {server.name} ended early: {words[-1]}")
    return done.stdout
