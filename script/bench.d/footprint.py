"""Rows of what the gateway takes: memory, and the time to its first 220."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Any

import servers
from load import smtp_source, timed
from measure import Bench
from process import free_port
from ways import TOPIC


def memory(bench: Bench) -> dict[str, Any]:
    """MiB: idle with SMTP and MQTT, what 1,000 idle connections add, what five mails of 20 MB at once add."""
    bench.progress("memory")
    broker = servers.mosquitto(bench.kit, bench.folder)
    server = servers.mailwire_mqtt(broker, bench.folder)
    timed(server, 10, 1, broker=broker, topic=TOPIC)
    server.settle()
    idle = server.memory()
    with ExitStack() as held:
        for _ in range(1000):
            held.enter_context(server.connect(b"220"))
        server.settle()
        connections = server.memory() - idle
    server.settle()
    before = server.memory()
    server.forget_peak()
    smtp_source(bench.kit, server, 5, 5, "scan", kept=False)
    until_250 = server.peak() - before
    server.settle(60)
    return {
        "idle_mib": idle,
        "connections_mib": connections,
        "big_mails_until_250_mib": until_250,
        "big_mails_mib": server.peak() - before,
    }


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
