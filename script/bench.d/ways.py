"""Rows of the whole way, from a mail's final dot to a QoS 1 subscriber; also on a slow disk."""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mails
import servers
from load import Times, quantile, smtp_source, timed
from measure import NUMBERS, Bench, Row, Tally
from process import Failed, Server
from servers import OURS, STORING

OBVIOUS = "aiosmtpd + paho + policy.default"
TOPIC = "mailwire/+/event"
WAYS: dict[str, tuple[Callable[[Server, Path], Server], str]] = {
    OBVIOUS: (servers.obvious, "bench/+/event"),
    OURS: (servers.mailwire_mqtt, TOPIC),
}
GOAL_OF_THE_WAY = 4  # times the obvious build
LONE_RATE = 30  # lone mails a second: each is long done before the next one comes
SLOW_RATE = 10  # the same where a mail takes two fsyncs of 30 ms
SLOW_COUNT = 1200  # mails over 100 connections then
MOST_BYTES = 160 << 20  # that one run may send


def whole_way(kind: str) -> Row:
    """Ten connections, kept: as fast as it goes, then at the goal's rate."""

    def measure(bench: Bench) -> dict[str, Any]:
        row = f"the whole way, {kind}"
        most = min(MOST_BYTES // mails.SIZES[kind], NUMBERS)
        first = itertools.count(0, NUMBERS)
        late: dict[str, list[float]] = {name: [] for name in WAYS}
        paced: list[Times] = []

        def send(name: str, count: int, rate: int = 0) -> Times:
            server, broker = running[name]
            topic = WAYS[name][1]
            times = timed(server, count, 10, rate=rate, kind=kind, first=next(first), broker=broker, topic=topic)
            server.settle()
            return times

        bench.progress(f"{row}: starting")
        running = _start_all(bench)
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
        return {
            "servers": {
                name: tally.figures() | {"ratio": tally.ratio(tallies[OBVIOUS])} | _percentiles(late[name])
                for name, tally in tallies.items()
            },
            "paced": {
                "asked": goal,
                "rate": statistics.median(times.rate for times in paced),
                **_percentiles([ms for times in paced for ms in times.arrived]),
            },
        }

    return measure


def lone(bench: Bench) -> dict[str, Any]:
    """One mail at a time."""
    late: dict[str, list[float]] = {name: [] for name in WAYS}
    count = LONE_RATE if bench.quick else 2 * LONE_RATE
    running = _start_all(bench)
    for name, (server, broker) in running.items():  # a device that is new waits for Home Assistant, once
        timed(server, 5, 1, broker=broker, topic=WAYS[name][1])
    for turn, name in bench.turns("a lone mail", list(WAYS)):
        server, broker = running[name]
        first = (turn + 1) * NUMBERS
        late[name] += timed(server, count, 1, rate=LONE_RATE, first=first, broker=broker, topic=WAYS[name][1]).arrived
    return {"servers": {name: _percentiles(ms) for name, ms in late.items()}}


def slow_disk(bench: Bench) -> dict[str, Any]:
    """Where every fsync takes 30 ms longer: a lone mail to its 250 and to a subscriber, and 100 connections."""
    if not bench.kit.slow_fsync:
        raise Failed("the shim that slows fsync could not be compiled")
    bench.progress("slow disk: starting")
    broker = servers.mosquitto(bench.kit, bench.folder)
    shim = shutil.copy(bench.kit.slow_fsync, bench.folder)
    env = {"LD_PRELOAD": f"./{Path(shim).name}"}  # a blank would end a path
    slow: dict[str, tuple[Server, Server | None]] = {OURS: (servers.mailwire_mqtt(broker, bench.folder, env), broker)}
    if not bench.quick:
        slow[STORING] = (servers.aiosmtpd_storing(bench.kit, bench.folder, env), None)
    answered: dict[str, list[float]] = {name: [] for name in slow}
    rates: dict[str, list[float]] = {name: [] for name in slow}
    arrived: list[float] = []
    for server, its_broker in slow.values():
        timed(server, 5, 1, broker=its_broker, topic=TOPIC)
    for turn, name in bench.turns("slow disk", list(slow)):
        server, its_broker = slow[name]
        server.settle()
        times = timed(server, 20, 1, rate=SLOW_RATE, first=(turn + 1) * NUMBERS, broker=its_broker, topic=TOPIC)
        answered[name] += times.answered
        arrived += times.arrived
        rates[name].append(SLOW_COUNT / smtp_source(bench.kit, server, SLOW_COUNT, 100, "1k"))
    found = {
        name: {"answered_p50_ms": quantile(answered[name], 0.5), "rate": statistics.median(rates[name])}
        for name in slow
    }
    found[OURS]["arrived_p50_ms"] = quantile(arrived, 0.5)
    return {"servers": found}


def _start_all(bench: Bench) -> dict[str, tuple[Server, Server]]:
    """Each way to a subscriber: its server and its broker."""
    running = {}
    for name, (start, _) in WAYS.items():
        broker = servers.mosquitto(bench.kit, bench.folder)
        running[name] = (start(broker, bench.folder), broker)
    return running


def _percentiles(late: list[float]) -> dict[str, float]:
    return {"p50_ms": quantile(late, 0.5), "p99_ms": quantile(late, 0.99)}
