"""Rows of growth: the same job with more mails in the store, more devices, and more routes. The gateway alone."""

from __future__ import annotations

import itertools
import json
import sqlite3
import statistics
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import prefill
import servers
from load import quantile, smtp_source, timed
from measure import NUMBERS, Bench, Tally
from process import Failed, Server, free_port
from ways import TOPIC

STORED = (0, 100_000, 1_000_000)
DEVICES = (1, 10, 100, 1000)
ROUTES = (1, 20, 200)
PRUNED = 10_000  # mails that are dropped while lone mails come in
PRUNE_RATE = 20  # lone mails a second then
PRUNE_LIMIT = 60  # seconds that it may take


def store(bench: Bench) -> dict[str, Any]:
    """With 0, 100,000 and 1,000,000 mails kept: start, the whole way, listing, memory, dropping the oldest."""
    bench.progress("growth: a template of real mails")
    source = prefill.template(bench.kit, bench.folder)
    ports: dict[int, int] = {}
    found: dict[str, Any] = {}
    for count in STORED:
        ports[count] = free_port()
        if count:
            prefill.fill(servers.data_of(bench.folder, ports[count]), source, count, bench.progress)
    broker = {count: servers.mosquitto(bench.kit, bench.folder) for count in STORED}

    starts: dict[int, list[float]] = {count: [] for count in STORED}
    for turn in range(bench.rounds + 1):
        for count in STORED:
            bench.progress(f"growth, start with {count:,} mails: {turn} of {bench.rounds}")
            server = servers.start_mailwire(bench.folder, broker[count], port=ports[count])
            server.connect(b"220").close()
            if turn:
                starts[count].append(time.perf_counter() - server.started)
            server.settle(60)
            server.stop()

    running = {count: servers.start_mailwire(bench.folder, broker[count], port=ports[count]) for count in STORED}
    way = _Way(bench, {count: (server, broker[count]) for count, server in running.items()})
    way.measure("growth, mails in the store")
    received: dict[int, list[float]] = {count: [] for count in STORED}
    for _, count in bench.turns("growth, receiving", list(STORED)):
        mails = max(200, int(way.tallies[count].count))
        received[count].append(mails / smtp_source(bench.kit, running[count], mails, 10, "1k"))
        running[count].settle()
    for count, server in running.items():
        bench.progress(f"growth, listing {count:,} mails")
        data = servers.data_of(bench.folder, ports[count])
        found[str(count)] = {
            "start_s": statistics.median(starts[count]),
            **way.figures(count),
            "received": statistics.median(received[count]),
            "memory_mib": server.memory(),
            "disk_mib": sum(path.stat().st_size for path in data.glob(f"{prefill.FILE}*")) / (1 << 20),
            **{f"{command}_s": _command(bench, ports[count], command) for command in ("events", "mails")},
        }
        server.stop()
        if count > PRUNED:
            bench.progress(f"growth, dropping {PRUNED:,} of {count:,} mails")
            found[str(count)] |= _prune(bench.folder, broker[count], ports[count])
    return {"stored": found}


def devices(bench: Bench) -> dict[str, Any]:
    """The whole way with mails of 1 to 1,000 devices in turn."""
    way = _Way(bench, {count: _with_broker(bench) for count in DEVICES}, {count: count for count in DEVICES})
    way.measure("growth, devices")
    return {"devices": {str(count): way.figures(count) | {"memory_mib": way.memory(count)} for count in DEVICES}}


def routes(bench: Bench) -> dict[str, Any]:
    """The whole way with 1 to 200 routes, of which the last one matches; with patterns, and with templates."""
    running = {}
    for count in ROUTES:
        running[f"{count} with patterns"] = _with_broker(bench, [_PATTERNS.format(n=n) for n in range(1, count)])
    for count in ROUTES[1:]:
        running[f"{count} with templates"] = _with_broker(bench, [_TEMPLATES.format(n=n) for n in range(1, count)])
    way = _Way(bench, running)
    way.measure("growth, routes")
    return {"routes": {name: way.figures(name) for name in running}}


_PATTERNS = '{{if: {{from: "*@plant-{n}.example", severity: [warning, critical]}}, to: [broker]}}'
_TEMPLATES = "{{if: {{template: \"data.line == {n} and severity == 'critical'\"}}, to: [broker]}}"
_LAST_ROUTE = '{if: {subject: "Status*"}, to: [broker]}'


def _with_broker(bench: Bench, routes: list[str] | None = None) -> tuple[Server, Server]:
    broker = servers.mosquitto(bench.kit, bench.folder)
    all_routes = [] if routes is None else [*routes, _LAST_ROUTE]
    return servers.mailwire_mqtt(broker, bench.folder, routes=all_routes), broker


class _Way:
    """The whole way, 1 KiB, ten connections, of gateways that differ in one thing."""

    def __init__(
        self, bench: Bench, running: dict[Any, tuple[Server, Server]], devices: dict[Any, int] | None = None
    ) -> None:
        self._bench = bench
        self._running = running
        self._devices = devices or {}
        self._first = itertools.count(0, NUMBERS)
        self._late: dict[Any, list[float]] = {name: [] for name in running}
        self.tallies: dict[Any, Tally] = {}

    def measure(self, row: str) -> None:
        for name, (server, _) in self._running.items():
            self._bench.progress(f"{row}: {name}, warming up")
            server.connect(b"220").close()
            self._send(name, max(50, self._devices.get(name, 0)))  # every device is learned
            rate = self._send(name, 200)
            self.tallies[name] = Tally(server, min(int(rate * self._bench.seconds), NUMBERS))
        self._late = {name: [] for name in self._running}
        for _, name in self._bench.turns(row, list(self._running)):
            tally = self.tallies[name]
            before = tally.server.cpu()
            tally.rates.append(self._send(name, tally.count))
            tally.cpu.append((tally.server.cpu() - before) / tally.count * 1e6)

    def figures(self, name: Any) -> dict[str, Any]:
        """`ratio`: to the first of them."""
        first = next(iter(self.tallies.values()))
        percentiles = {f"p{share}_ms": quantile(self._late[name], share / 100) for share in (50, 99)}
        return self.tallies[name].figures() | {"ratio": self.tallies[name].ratio(first)} | percentiles

    def memory(self, name: Any) -> float:
        return self.tallies[name].server.memory()

    def _send(self, name: Any, count: int) -> float:
        server, broker = self._running[name]
        devices = self._devices.get(name, 1)
        times = timed(server, count, 10, first=next(self._first), devices=devices, broker=broker, topic=TOPIC)
        server.settle(60)
        self._late[name] += times.arrived
        return times.rate


def _command(bench: Bench, port: int, command: str) -> float:
    """Seconds that it takes to list the newest 50."""
    words = [*servers.MAILWIRE, command, "--json", "--limit", "50"]
    words += ["--config", str(servers.configuration_of(bench.folder, port))]
    seconds = []
    for _ in range(bench.rounds):
        start = time.perf_counter()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        if done.returncode or len(done.stdout.splitlines()) != 50:
            raise Failed(f"mailwire {command} did not list 50: {done.stderr.strip()}")
        json.loads(done.stdout.splitlines()[-1])
    return statistics.median(seconds)


def _prune(folder: Path, broker: Server, port: int) -> dict[str, Any]:
    """Seconds that dropping `PRUNED` old mails takes, and how soon lone mails are answered meanwhile."""
    database = servers.data_of(folder, port) / prefill.FILE
    with closing(sqlite3.connect(database)) as reader:
        size = reader.execute("SELECT sum(size) FROM mails").fetchone()[0]
        first, last, goes = reader.execute(
            "SELECT min(seq), max(seq), sum(size) FROM (SELECT seq, size FROM mails ORDER BY seq LIMIT ?)", (PRUNED,)
        ).fetchone()
    server = servers.start_mailwire(folder, broker, port=port, keep_bytes=size - goes)
    server.connect(b"220").close()
    times: list[float] = []  # when the first was dropped, and the last

    def watch() -> None:
        deadline = time.monotonic() + PRUNE_LIMIT
        with closing(sqlite3.connect(database)) as reader:
            while time.monotonic() < deadline:
                oldest = reader.execute("SELECT min(seq) FROM mails").fetchone()[0]
                if oldest > (last if times else first):
                    times.append(time.monotonic())
                if len(times) == 2:
                    return
                time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    answered: list[float] = []
    while watcher.is_alive():
        answered += timed(server, 10, 1, rate=PRUNE_RATE).answered
    server.settle(60)
    server.stop()
    if len(times) < 2:
        return {}
    return {"drop_s": times[1] - times[0], "answered_while_dropping_p50_ms": quantile(answered, 0.5),
            "answered_while_dropping_longest_ms": max(answered)}  # fmt: skip
