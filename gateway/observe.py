"""What the gateway tells of itself: whether it is well and why not, how much and how fast, for people and monitoring.

Each part counts for itself, on its way (`stats`); here it is put together when somebody asks. Once a second a watch
measures how late the event loop is; every few seconds it asks the writer of the store for a sign, and counts what is
owed.

Three words. **failing**: starting anew may help (the store can't write, no source of mail runs). **degraded**: it needs
a person or time, and starting anew would only make it worse (a broker that is away, a full disk, one source of
several). **ok**. Beside it, `ready`: would a mail be taken now?
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway import __version__
from gateway.api import Distribution, Integration, Metric, Source, StoreFull
from gateway.config import IntegrationSetting
from gateway.deliver import Worker
from gateway.intake import Intake
from gateway.pipeline import Pipeline
from gateway.registry import Registry
from gateway.stats import Histogram, quantile
from gateway.store import FILE, Store, total
from gateway.ulid import time_of

log = logging.getLogger(__name__)

Kind = Literal["counter", "gauge", "histogram"]

_LOOK = 5.0  # seconds between two looks at the store
_SILENCE = 30.0  # seconds that its writer may take for a sign
_SHARE = 100  # of the time at most one part in so many goes into counting what is owed


@dataclass(slots=True)
class Running:
    """One integration of the configuration, and how it is."""

    name: str
    setting: IntegrationSetting
    instance: Integration
    worker: Worker | None = None
    state: str = "starting"  # starting, running, retrying, refused, broken
    error: str | None = None
    trouble: tuple[float, str] | None = None  # the newest error, and when, also after it is over
    task: asyncio.Task[None] | None = None
    first_try: asyncio.Event = field(default_factory=asyncio.Event)
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, error: str | None, state: str | None = None) -> None:
        """How it is now."""
        self.state = state or self.state
        self.error = error
        if error:
            self.trouble = (time.time(), error)

    def newest(self) -> tuple[float, str] | None:
        """Its newest error, or its deliveries', and when that was."""
        found = [trouble for trouble in (self.trouble, self.worker and self.worker.trouble) if trouble]
        return max(found, default=None)


class Observer:
    """See the module's text. `watch` runs as long as the gateway does."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        pipeline: Pipeline,
        registry: Registry,
        running: Mapping[str, Running],
    ) -> None:
        assert store.writer
        self._store = store
        self._writer = store.writer
        self._intake = intake
        self._pipeline = pipeline
        self._registry = registry
        self._running = running
        self._started = time.monotonic()  # a machine without a clock of its own has its time set while we run
        self._queues: list[tuple[str, str, int, str]] = []
        self._next_count = 0.0
        self._silent = False
        self._lag = Histogram()
        self._complained: set[tuple[str, str]] = set()
        self.stopping = False
        self.aside: Sequence[str] = ()
        """The folders with damaged databases that were set aside, till somebody has looked at them."""

    async def watch(self) -> None:
        look_at = 0.0
        while True:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK
                await self.look()
            due = time.monotonic() + 1
            await asyncio.sleep(1)
            self._lag.observe(max(0.0, time.monotonic() - due))
            self._pipeline.log_rest()

    async def look(self, count: bool = False) -> None:
        """At the store: does it write, what is owed? `count` it in any case: somebody waits for the answer."""
        if self._writer.trouble:
            self._store.probe()
        try:
            async with asyncio.timeout(_SILENCE):
                await self._store.flush()
            self._silent = False
        except TimeoutError:
            self._silent = True
        began = time.monotonic()
        if count or began >= self._next_count:
            try:
                self._queues = await asyncio.to_thread(self._store.queues)
            except Exception:  # noqa: BLE001  # a store that can't be read must not end the watch over it
                self._complain("the store", "what is owed could not be counted")
            now = time.monotonic()
            self._next_count = now + _SHARE * (now - began)

    # --- how it is ---------------------------------------------------------------------------------------------

    def _failures(self) -> Iterator[str]:
        trouble = self._writer.trouble
        if not self._writer.runs:
            yield "the store's writer has ended"
        elif self._silent:
            yield f"the store's writer has not answered for {_SILENCE:.0f} seconds"
        if trouble and not isinstance(trouble, StoreFull):
            yield f"the store can't write: {trouble}"
        sources = [one for one in self._running.values() if isinstance(one.instance, Source)]
        if sources and all(one.state != "running" for one in sources):
            yield f"no source of mail runs: {'; '.join(f'{one.name} is {one.state}: {one.error}' for one in sources)}"

    def _worries(self) -> Iterator[str]:
        if isinstance(self._writer.trouble, StoreFull) or not self._intake.room():
            yield "the disk is full: mail is answered with 452"
        if self.aside:
            yield f"store: {self._about_aside()}"
        if trouble := self._pipeline.interpreter.trouble:
            yield f"mails wait in the store to be interpreted: {trouble}"
        for one in self._running.values():
            if one.error or one.state != "running":
                yield f"{one.name}: {one.error or one.state}"
            elif one.worker and one.worker.last_error:
                yield f"{one.name}: {one.worker.last_error}"

    def verdict(self) -> dict[str, Any]:
        """`status` (ok, degraded, failing), `ready`, and `reasons` in words."""
        failures, worries = list(self._failures()), list(self._worries())
        ready = (
            not (failures or self.stopping or self._writer.trouble)
            and self._intake.room() > 0
            and all(one.state == "running" for one in self._running.values() if isinstance(one.instance, Source))
        )
        return {
            "status": "failing" if failures else "degraded" if worries else "ok",
            "ready": ready,
            "reasons": failures + worries,
        }

    def health(self) -> dict[str, Any]:
        """The payload of `bridge/health`. Numbers move; words and keys change only when something happens."""
        running = list(self._running.values())
        return {
            **self.verdict(),
            "uptime": round(time.monotonic() - self._started),
            "queue": total(self._queues),
            "problems": {one.name: one.error for one in running if one.error}
            | ({"store": self._about_aside()} if self.aside else {}),
            "targets": {one.name: self._target(one.worker) for one in running if one.worker},
            "last_errors": {
                one.name: {"time": round(trouble[0]), "error": trouble[1]}
                for one in running
                if (trouble := one.newest())
            },
            "counts": {
                "mails": self._intake.received.total(),
                "bytes": self._intake.bytes.total(),
                "not_kept": self._intake.not_kept.total(),
                "duplicates": self._pipeline.duplicates,
                "not_interpreted": self._pipeline.interpreter.not_interpreted,
                "interpreter_restarts": self._pipeline.interpreter.restarts,
                "events": self._pipeline.events.total(),
                "devices": len(self._registry.devices()),
            },
            "latency_ms": {name: _milliseconds(histogram) for name, histogram in self._stages()},
            "disk_free": self._disk_free(),
            "integrations": {one.name: said for one in running if (said := self._ask(one, "health", {}))},
        }

    def _about_aside(self) -> str:
        return f"a damaged database was set aside as {', '.join(self.aside)}; `mailwire doctor` says more"

    def _target(self, worker: Worker) -> dict[str, Any]:
        waiting = next((row for row in self._queues if row[:2] == (worker.name, "waiting")), None)
        return worker.health() | {"waiting": waiting[2] if waiting else 0, "oldest": _age(waiting)}

    def _stages(self) -> Iterator[tuple[str, Histogram]]:
        yield "receive", self._intake.receiving
        yield "store", self._intake.storing
        yield "interpret", self._pipeline.interpreting
        for one in self._running.values():
            if one.worker:
                yield f"deliver {one.name}", one.worker.delivering
                yield f"whole {one.name}", one.worker.whole

    def _ask(self, one: Running, method: str, otherwise: Any) -> Any:
        """What an integration says of itself; a fault in it must not silence the others."""
        try:
            said = getattr(one.instance, method)()
            return said if isinstance(said, dict) else list(said)
        except Exception:  # noqa: BLE001  # whatever its code raises: it is logged
            self._complain(one.name, f"it could not be asked for its {method}")
            return otherwise

    def _complain(self, name: str, text: str) -> None:
        """Log the present exception, once."""
        if (name, text) not in self._complained:
            self._complained.add((name, text))
            log.exception("%s: %s", name, text)

    # --- how much ----------------------------------------------------------------------------------------------

    def metrics(self) -> list[Metric]:
        """All that is counted, a name once; those of integrations have the label `integration`."""
        found: dict[str, Metric] = {}
        for metric in self._own_metrics():
            found[metric.name] = metric
        for one in list(self._running.values()):
            for metric in self._ask(one, "metrics", ()):
                samples = [({"integration": one.name, **labels}, value) for labels, value in metric.samples]
                found.setdefault(metric.name, metric._replace(samples=[])).samples.extend(samples)
        return list(found.values())

    def _own_metrics(self) -> Iterator[Metric]:
        intake, pipeline, writer = self._intake, self._pipeline, self._writer
        verdict = self.verdict()
        workers = [one.worker for one in self._running.values() if one.worker]
        yield Metric("mailwire_info", "gauge", "The version that runs.", [({"version": __version__}, 1)])
        yield _one("mailwire_healthy", "gauge", "1 unless starting anew may help.", verdict["status"] != "failing")
        yield _one("mailwire_ready", "gauge", "1 if a mail would be taken now.", verdict["ready"])
        yield Metric(
            "mailwire_integration_up",
            "gauge",
            "1 if the integration runs and reports no problem.",
            [
                ({"integration": one.name, "type": one.setting.type}, one.state == "running" and not one.error)
                for one in self._running.values()
            ],
        )
        yield _by("mailwire_mails_received_total", "Mails kept and acknowledged.", "source", intake.received)
        yield _by("mailwire_mail_bytes_received_total", "Bytes of these mails.", "source", intake.bytes)
        yield _by("mailwire_mails_not_kept_total", "Mails answered 451 or 452.", "reason", intake.not_kept)
        yield _one("mailwire_mails_duplicate_total", "counter", "Mails that repeated another.", pipeline.duplicates)
        yield _one("mailwire_mails_lost_total", "counter", "Kept mails whose content was removed.", pipeline.lost)
        gave_up = "Mails whose content could not be interpreted, as their event says."
        yield _one("mailwire_mails_not_interpreted_total", "counter", gave_up, pipeline.interpreter.not_interpreted)
        restarts = "Times that the process that interprets mails had to be started again."
        yield _one("mailwire_interpreter_restarts_total", "counter", restarts, pipeline.interpreter.restarts)
        yield _by("mailwire_events_total", "Events made.", "kind", pipeline.events)
        yield Metric(
            "mailwire_stage_seconds",
            "histogram",
            "Time a mail took: receive (first byte to final dot), store (to durable, 250), interpret (to its event).",
            [
                ({"stage": "receive"}, intake.receiving.distribution()),
                ({"stage": "store"}, intake.storing.distribution()),
                ({"stage": "interpret"}, pipeline.interpreting.distribution()),
            ],
        )
        yield Metric(
            "mailwire_delivery_seconds",
            "histogram",
            "Time from an event to its acknowledgement by the target.",
            [({"target": worker.name}, worker.delivering.distribution()) for worker in workers],
        )
        yield Metric(
            "mailwire_whole_seconds",
            "histogram",
            "Time from a mail's final dot to the acknowledgement by the target.",
            [({"target": worker.name}, worker.whole.distribution()) for worker in workers],
        )
        yield Metric(
            "mailwire_deliveries_total",
            "counter",
            "Deliveries by what became of them; retried ones go on.",
            [
                ({"target": worker.name, "outcome": outcome}, count)
                for worker in workers
                for outcome, count in {"done": worker.delivered, "retried": worker.retried, **worker.ended}.items()
            ],
        )
        yield from self._queue_metrics(workers)
        commits = "Time of a commit of mails, its fsync included."
        yield _one("mailwire_store_commit_seconds", "histogram", commits, writer.commits.distribution())
        batches = "Mails that shared a commit."
        yield _one("mailwire_store_commit_mails", "histogram", batches, writer.batches.distribution())
        yield _one("mailwire_store_writable", "gauge", "1 if the newest write succeeded.", not writer.trouble)
        yield _one("mailwire_store_bytes", "gauge", "Size of the database, its log included.", self._size())
        yield _one("mailwire_disk_free_bytes", "gauge", "Free space where the store is.", self._disk_free())
        yield _one("mailwire_devices", "gauge", "Devices known.", len(self._registry.devices()))
        lag = "How late the event loop ran what was due, once a second."
        yield _one("mailwire_loop_lag_seconds", "histogram", lag, self._lag.distribution())

    def _queue_metrics(self, workers: list[Worker]) -> Iterator[Metric]:
        counts = {(target, state): count for target, state, count, _ in self._queues}
        names = {worker.name for worker in workers} | {target for target, _ in counts if target}
        yield _one("mailwire_queue_mails", "gauge", "Mails kept, not interpreted yet.", counts.get(("", ""), 0))
        yield Metric(
            "mailwire_queue_deliveries",
            "gauge",
            "Deliveries owed (waiting), to be told later (held), refused for good (dead), or too late (expired).",
            [
                ({"target": name, "state": state}, counts.get((name, state), 0))
                for name in sorted(names)
                for state in ("waiting", "held", "dead", "expired")
            ],
        )
        oldest = {row[0]: _age(row) for row in self._queues if row[1] in ("", "waiting")}
        yield _one("mailwire_queue_mails_oldest_seconds", "gauge", "Age of the oldest of them.", oldest.get("", 0))
        yield Metric(
            "mailwire_queue_oldest_seconds",
            "gauge",
            "Age of the oldest delivery that waits.",
            [({"target": name}, oldest.get(name, 0)) for name in sorted(names)],
        )

    def _disk_free(self) -> int:
        try:
            return shutil.disk_usage(self._store.folder).free
        except OSError:
            return 0

    def _size(self) -> int:
        size = 0
        for name in (FILE, f"{FILE}-wal"):
            with suppress(OSError):
                size += (self._store.folder / name).stat().st_size
        return size


def _age(row: tuple[str, str, int, str] | None) -> int:
    """Seconds since the oldest event of a row of `Store.queues` came."""
    return max(0, round(time.time() - time_of(row[3]))) if row and row[3] else 0


def _one(name: str, kind: Kind, text: str, value: float | Distribution) -> Metric:
    return Metric(name, kind, text, [({}, value)])


def _by(name: str, text: str, label: str, counts: Counter[str]) -> Metric:
    return Metric(name, "counter", text, [({label: key}, count) for key, count in counts.items()])


def _milliseconds(histogram: Histogram) -> dict[str, float | None]:
    """p50 and p99 of the last minutes; None: there was nothing."""
    counts = histogram.recent()
    return {
        name: None if (value := quantile(histogram.bounds, counts, share)) is None else round(1000 * value, 2)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
