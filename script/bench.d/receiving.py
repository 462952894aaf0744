"""Rows of receiving alone: every peer, with nobody to tell. And what connections cost that say nothing."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mails
import servers
from load import quantile, smtp_source, timed
from measure import Bench, Row, Tally
from process import Failed, Server
from servers import HARAKA, HARAKA_QUEUE, MAILRISE, NULL, OURS, POSTFIX, RAW, SINK, STORING

RECEIVERS: dict[str, servers.Start] = {
    SINK: servers.smtp_sink,
    RAW: servers.raw,
    OURS: servers.mailwire,
    STORING: servers.aiosmtpd_storing,
    HARAKA_QUEUE: servers.haraka_queue,
    POSTFIX: servers.postfix,
    MAILRISE: servers.mailrise,
    NULL: servers.aiosmtpd_null,
    HARAKA: servers.haraka,
}
SIDE = (SINK, OURS, STORING, HARAKA_QUEUE, POSTFIX)
QUICK = (SINK, OURS, STORING, POSTFIX)  # and mailrise where there is a goal that names it
MOST_BYTES = 160 << 20  # that one run may send: what is stored for all rounds must fit on the disk
WARM_UP = 0.3  # seconds that the last run before the first round takes: what compiles as it goes has done so then
IDLE = (1000, 5000)
IDLERS = (SINK, OURS, NULL, HARAKA)  # Postfix has a process for each connection, and a limit of a hundred
FREE_MEMORY = 4096  # MiB; smtp-sink alone takes more than one GiB for 5,000


def receive(kind: str, connections: int, *, kept: bool) -> Row:
    """Mails per second, CPU and memory of each receiver. Ten connections are the main case: more rounds and peers."""
    main = connections == 10

    def measure(bench: Bench) -> dict[str, Any]:
        row = f"receive {kind}, {connections} connections, {'kept' if kept else 'one mail each'}"
        if bench.quick:
            wanted = {*QUICK, MAILRISE} if kind == "1k" and kept else {*QUICK}
        else:
            wanted = {*RECEIVERS} if main else {*SIDE}
        names = [name for name in RECEIVERS if name in wanted]
        rounds = bench.rounds if main else min(bench.rounds, 3)
        seconds = bench.seconds if main else bench.seconds / 2
        few, most = max(2 * connections, 20), MOST_BYTES // mails.SIZES[kind]
        tallies: dict[str, Tally] = {}
        failed: dict[str, str] = {}

        def send(server: Server, count: int) -> float:
            return count / smtp_source(bench.kit, server, count, connections, kind, kept=kept)

        for name in names:
            bench.progress(f"{row}: starting {name}")
            try:
                server = RECEIVERS[name](bench.kit, bench.folder)
                count = few
                while (rate := send(server, count)) * WARM_UP > count < most:
                    count = min(2 * count, most)
                server.settle()
                tallies[name] = Tally(server, max(few, min(int(rate * seconds), most)))
            except Failed as failure:
                failed[name] = str(failure)
        for _, name in bench.turns(row, list(tallies), rounds):
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
                name: tally.figures()
                | {key: tally.ratio(tallies[peer]) for key, peer in peers.items() if peer in tallies}
                for name, tally in tallies.items()
            },
            "failed": failed,
        }

    return measure


def idle(bench: Bench) -> dict[str, Any]:
    """MiB that connections add which say nothing, and how soon an honest mail is answered beside them."""
    found: dict[str, Any] = {"servers": {}, "failed": {}}
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < IDLE[-1] + 200:
        raise Failed(f"this user may not open {IDLE[-1]:,} files at once (see ulimit -n)")
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    if int(memory["MemAvailable"].split()[0]) / 1024 < FREE_MEMORY:
        raise Failed(f"less than {FREE_MEMORY} MiB of memory are free")
    for name in IDLERS:
        try:
            server = RECEIVERS[name](bench.kit, bench.folder)
            timed(server, 20, 1)
            server.settle()
            before = server.memory()
            added = {}
            opened = 0
            with ExitStack() as held:
                for count in IDLE:
                    bench.progress(f"idle connections: {name}, {count:,}")
                    while opened < count:
                        held.enter_context(server.connect(b"220"))
                        opened += 1
                    server.settle()
                    added[f"added_{count}_mib"] = server.memory() - before
                answered = timed(server, 50, 1, rate=50).answered
            found["servers"][name] = {
                **added,
                "each_kib": added[f"added_{IDLE[-1]}_mib"] * 1024 / IDLE[-1],
                "answered_p50_ms": quantile(answered, 0.5),
                "answered_p99_ms": quantile(answered, 0.99),
            }
        except Failed as failure:
            found["failed"][name] = str(failure)
        finally:
            Server.end_all()
    return found
