"""The rows: what is measured, each a function that starts its servers, measures them in turn and ends them.

A row's servers run side by side and take turns within each round, so that a machine that drifts drifts for all. What
a function returns is plain data, ready for JSON; `report.py` reads it.
"""

from __future__ import annotations

import base64
import itertools
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import servers
from kit import Kit
from load import Times, quantile, smtp_source, timed
from process import Failed, Server, free_port
from servers import MAILRISE, NULL, OURS, SINK, STORING

RECEIVERS: dict[str, servers.Start] = {
    SINK: servers.smtp_sink,
    NULL: servers.aiosmtpd_null,
    STORING: servers.aiosmtpd_storing,
    MAILRISE: servers.mailrise,
    OURS: servers.mailwire,
}
OBVIOUS = "aiosmtpd + paho + policy.default"
WAYS: dict[str, tuple[Callable[[Server, Path], Server], str]] = {
    OBVIOUS: (servers.obvious, "bench/+/event"),
    OURS: (servers.mailwire_mqtt, "mailwire/+/event"),
}
GOAL_OF_THE_WAY = 4  # times the obvious build
LONE_RATE = 30  # lone mails a second: each is long done before the next one comes
NUMBERS = 90_000  # mails in one run at most, so that each run has numbers of its own
SIZES = {"1k": 1024, "8k": 8 * 1024, "200k": 200 * 1024}
MOST_BYTES = 160 << 20  # that one run may send: what is stored for all rounds must fit on the disk
FREE_DISK = 4 << 30


@dataclass(slots=True)
class Bench:
    """How to measure: the programs, a folder for the row's data, rounds, and seconds for each run of a load."""

    kit: Kit
    folder: Path
    rounds: int
    seconds: float
    progress: Callable[[str], None]

    def turns(self, row: str, names: list[str]) -> Iterator[tuple[int, str]]:
        """Every name once a round, each round beginning with another one."""
        for turn in range(self.rounds):
            for i in range(len(names)):
                name = names[(turn + i) % len(names)]
                self.progress(f"{row}: round {turn + 1} of {self.rounds}, {name}")
                yield turn, name

    def ways(self) -> dict[str, tuple[Server, Server]]:
        """Each way to a subscriber, started: its server and its broker."""
        running = {}
        for name, (start, _) in WAYS.items():
            broker = servers.mosquitto(self.kit, self.folder)
            running[name] = (start(broker, self.folder), broker)
        return running

    def measure(self, row: str) -> dict[str, Any]:
        """One row's result, `{"failed": reason}` if there is none; its servers are ended and its data is removed."""
        if shutil.disk_usage(self.folder.parent).free < FREE_DISK:
            return {"failed": f"less than {FREE_DISK >> 30} GiB are free"}
        self.folder.mkdir()
        try:
            return ROWS[row][1](self)
        except Failed as failure:
            return {"failed": str(failure)}
        finally:
            Server.end_all()
            shutil.rmtree(self.folder)


Row = Callable[[Bench], dict[str, Any]]


@dataclass(slots=True)
class Tally:
    """What one receiver did, an item a round: mails per second, and CPU in µs for each mail."""

    server: Server
    count: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def ratio(self, other: Tally) -> float:
        """The median of each round's ratio: what slows the machine for both falls out."""
        return statistics.median(a / b for a, b in zip(self.rates, other.rates, strict=True))


def receive(size: int, connections: int, *, kept: bool) -> Row:
    """Mails per second, CPU and memory of each receiver."""

    def measure(bench: Bench) -> dict[str, Any]:
        row = f"{size // 1024} KiB, {connections} connections"
        few = max(2 * connections, 20)
        tallies: dict[str, Tally] = {}
        failed: dict[str, str] = {}

        def send(server: Server, count: int) -> float:
            return count / smtp_source(bench.kit, server, count, connections, kept=kept, content=size)

        for name, start in RECEIVERS.items():
            bench.progress(f"{row}: starting {name}")
            try:
                server = start(bench.kit, bench.folder)
                send(server, few)  # warms it up
                rate = send(server, 3 * few)
                server.settle()
                tallies[name] = Tally(server, max(few, min(int(rate * bench.seconds), MOST_BYTES // size)))
            except Failed as failure:
                failed[name] = str(failure)
        for _, name in bench.turns(row, list(tallies)):
            if not (tally := tallies.get(name)):
                continue
            try:
                before = tally.server.cpu()
                tally.rates.append(send(tally.server, tally.count))
                tally.server.settle()  # what is done after the last 250 counts as well
                tally.cpu.append((tally.server.cpu() - before) / tally.count * 1e6)
            except Failed as failure:
                failed[name] = str(failure)
                del tallies[name]
        peers = {"to_sink": SINK, "to_storing": STORING, "to_mailrise": MAILRISE}
        return {
            "servers": {
                name: {
                    "rates": tally.rates,
                    "rate": statistics.median(tally.rates),
                    "spread": (max(tally.rates) - min(tally.rates)) / statistics.median(tally.rates) / 2,
                    "cpu_us": statistics.median(tally.cpu),
                    "peak_mib": tally.server.peak(),
                    **{key: tally.ratio(tallies[peer]) for key, peer in peers.items() if peer in tallies},
                }
                for name, tally in tallies.items()
            },
            "failed": failed,
        }

    return measure


def whole_way(size: int) -> Row:
    """From the final dot to a QoS 1 subscriber, 10 connections: as fast as it goes, then at the goal's rate."""

    def measure(bench: Bench) -> dict[str, Any]:
        row = f"the whole way, {size // 1024} KiB"
        most = min(MOST_BYTES // size, NUMBERS)
        first = itertools.count(0, NUMBERS)
        late: dict[str, list[float]] = {name: [] for name in WAYS}
        paced: list[Times] = []

        def send(name: str, count: int, rate: int = 0) -> Times:
            server, broker = running[name]
            topic = WAYS[name][1]
            times = timed(server, count, 10, rate=rate, size=size, first=next(first), broker=broker, topic=topic)
            server.settle()
            return times

        bench.progress(f"{row}: starting")
        running = bench.ways()
        for name in WAYS:
            send(name, 20)
        tallies = {name: Tally(running[name][0], min(int(send(name, 100).rate * bench.seconds), most)) for name in WAYS}
        for _, name in bench.turns(row, list(WAYS)):
            tally = tallies[name]
            before = tally.server.cpu()
            times = send(name, tally.count)
            tally.rates.append(times.rate)
            tally.cpu.append((tally.server.cpu() - before) / tally.count * 1e6)
            late[name] += times.arrived
        goal = int(GOAL_OF_THE_WAY * statistics.median(tallies[OBVIOUS].rates))
        for turn in range(bench.rounds):
            bench.progress(f"{row}: round {turn + 1} of {bench.rounds}, {OURS} at {goal}/s")
            paced.append(send(OURS, min(int(goal * bench.seconds), most), goal))
        paced_arrived = [ms for times in paced for ms in times.arrived]
        return {
            "servers": {
                name: {
                    "rates": tally.rates,
                    "rate": statistics.median(tally.rates),
                    "ratio": tally.ratio(tallies[OBVIOUS]),
                    "p50_ms": quantile(late[name], 0.5),
                    "p99_ms": quantile(late[name], 0.99),
                    "cpu_us": statistics.median(tally.cpu),
                    "peak_mib": tally.server.peak(),
                }
                for name, tally in tallies.items()
            },
            "paced": {
                "asked": goal,
                "rate": statistics.median(times.rate for times in paced),
                "p50_ms": quantile(paced_arrived, 0.5),
                "p99_ms": quantile(paced_arrived, 0.99),
            },
        }

    return measure


def lone_way(bench: Bench) -> dict[str, Any]:
    """One mail at a time from the final dot to the subscriber."""
    late: dict[str, list[float]] = {name: [] for name in WAYS}
    count = int(LONE_RATE * max(bench.seconds, 1) * 2)
    running = bench.ways()
    for turn, name in bench.turns("a lone mail", list(WAYS)):
        server, broker = running[name]
        first = turn * NUMBERS
        late[name] += timed(server, count, 1, rate=LONE_RATE, first=first, broker=broker, topic=WAYS[name][1]).arrived
    return {"servers": {name: {"p50_ms": quantile(ms, 0.5), "p99_ms": quantile(ms, 0.99)} for name, ms in late.items()}}


def slow_disk(bench: Bench) -> dict[str, Any]:
    """Where every fsync takes 30 ms longer: a lone mail to its 250 and to a subscriber, and 100 connections."""
    if not bench.kit.slow_fsync:
        raise Failed("the shim that slows fsync could not be compiled")
    bench.progress("slow disk: starting")
    broker = servers.mosquitto(bench.kit, bench.folder)
    shim = shutil.copy(bench.kit.slow_fsync, bench.folder)
    slow = servers.mailwire_mqtt(
        broker, bench.folder, {"LD_PRELOAD": f"./{Path(shim).name}"}
    )  # a blank would end a path
    topic = WAYS[OURS][1]
    timed(slow, 5, 1, broker=broker, topic=topic)
    answered: list[float] = []
    arrived: list[float] = []
    rates: list[float] = []
    for turn in range(1, bench.rounds + 1):
        bench.progress(f"slow disk: round {turn} of {bench.rounds}")
        slow.settle()
        times = timed(slow, 20, 1, rate=5, first=turn * NUMBERS, broker=broker, topic=topic)
        answered += times.answered
        arrived += times.arrived
        count = int(1200 * max(bench.seconds, 1))
        rates.append(count / smtp_source(bench.kit, slow, count, 100))
    return {
        "answered_p50_ms": quantile(answered, 0.5),
        "arrived_p50_ms": quantile(arrived, 0.5),
        "rate": statistics.median(rates),
    }


def memory(bench: Bench) -> dict[str, Any]:
    """MiB: idle with SMTP and MQTT, what 1,000 idle connections add, what five mails of 20 MB at once add."""
    bench.progress("memory")
    broker = servers.mosquitto(bench.kit, bench.folder)
    server = servers.mailwire_mqtt(broker, bench.folder)
    timed(server, 10, 1, broker=broker, topic=WAYS[OURS][1])
    server.settle()
    idle = server.memory()
    with ExitStack() as held:
        for _ in range(1000):
            held.enter_context(server.connect(b"220"))
        server.settle()
        connections = server.memory() - idle
    server.settle()
    scan = bench.folder / "scan.eml"
    scan.write_bytes(_scan(20_000_000))
    before = server.memory()
    server.forget_peak()
    smtp_source(bench.kit, server, 5, 5, kept=False, content=scan)
    until_250 = server.peak() - before
    server.settle(60)
    return {
        "idle_mib": idle,
        "connections_mib": connections,
        "big_mails_until_250_mib": until_250,
        "big_mails_mib": server.peak() - before,
    }


def _scan(size: int) -> bytes:
    """A scanner's mail of about `size` bytes, with LF as smtp-source wants it."""
    document = base64.encodebytes(b"%PDF-1.4\n" + random.Random(2).randbytes(size * 57 // 78))
    return (
        b"From: scanner@bench.example\nTo: gw@bench.example\nSubject: Scan\nMIME-Version: 1.0\n"
        b'Content-Type: multipart/mixed; boundary="frontier"\n\n--frontier\n\nA scan is attached.\n--frontier\n'
        b'Content-Type: application/pdf; name="scan.pdf"\nContent-Transfer-Encoding: base64\n\n'
        + document
        + b"--frontier--\n"
    )


def start_up(bench: Bench) -> dict[str, Any]:
    """Seconds from the start of the program to its first 220, in a data folder that was used before."""
    seconds: list[float] = []
    broker = servers.mosquitto(bench.kit, bench.folder)
    port = free_port()
    for turn in range(bench.rounds + 1):
        bench.progress(f"start: {turn} of {bench.rounds}")
        server = servers.start_mailwire(bench.folder, broker, port=port)
        server.connect(b"220").close()
        if turn:  # the first makes the database, the certificate and the compiled modules
            seconds.append(time.perf_counter() - server.started)
        server.settle()
        server.stop()
    return {"median_s": statistics.median(seconds), "longest_s": max(seconds)}


ROWS: dict[str, tuple[str, Row]] = {
    **{
        f"receive-{size}-{connections}-{'kept' if kept else 'each'}": (
            f"{SIZES[size] // 1024} KiB, {connections} connection{'s' if connections > 1 else ''}, "
            f"{'kept' if kept else 'one mail each'}",
            receive(SIZES[size], connections, kept=kept),
        )
        for size in SIZES
        for connections in (10, 1, 100)
        for kept in (True, False)
    },
    **{f"way-{size}": (f"{SIZES[size] // 1024} KiB", whole_way(SIZES[size])) for size in SIZES},
    "way-lone": ("a lone mail of 1 KiB", lone_way),
    "slow-disk": ("every fsync 30 ms slower", slow_disk),
    "memory": ("memory", memory),
    "start": ("start to first 220", start_up),
}
QUICK = (
    "receive-1k-10-kept",
    "receive-1k-10-each",
    "receive-200k-10-kept",
    "way-1k",
    "way-lone",
    "slow-disk",
    "memory",
    "start",
)
