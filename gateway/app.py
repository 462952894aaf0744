"""Starts what the configuration names, joins the steps, and stops in reverse.

Order matters: the store first, then the targets' workers, then the sources, so that nothing is accepted before it can
be kept; to stop, the sources first, so that what was accepted is still written. A new configuration restarts only
what changed; a bad one is refused as a whole and the old one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway import __version__, care, interpret, rescue, template
from gateway.api import (
    Broken,
    Context,
    CredentialsRefused,
    Device,
    Envelope,
    Event,
    Metric,
    NotReady,
    RequestRefused,
    Source,
    StoreTrouble,
    Target,
)
from gateway.api import seconds as seconds_of
from gateway.config import ConfigErrors, IntegrationSetting, Settings, load
from gateway.deliver import Worker
from gateway.failures import SOURCE, Failures
from gateway.hours import zone_of
from gateway.intake import Intake
from gateway.interpret.families import OWN
from gateway.loader import Loader
from gateway.noise import told_of
from gateway.observe import Observer, Running
from gateway.pipeline import Pipeline, iso_time
from gateway.registry import Registry
from gateway.route import Router
from gateway.store import REPLAY, LogDamaged, Mail, Store, StoreBroken, StoreDamaged

log = logging.getLogger(__name__)

_PRUNE_EVERY = 600.0  # seconds
_CATCH_UP_EVERY = 30.0
_LOOK_THROUGH = 60.0  # seconds at most that the store is looked through after it was left open
_FIRST_RETRY, _LONGEST_RETRY = 2.0, 300.0  # seconds between attempts to start an integration
_MUTE, _LONGEST_MUTE = 3600.0, 365 * 86400.0  # seconds
_ATTACHMENT_IN_THREAD = 64 * 1024  # bytes of mail


class App:
    """The running gateway; implements `gateway.api.Gateway`."""

    def __init__(
        self, settings: Settings, loader: Loader, folder: Path, config_file: Path | None = None, condemned: str = ""
    ) -> None:
        """`condemned`: what an earlier one met in the store, which is set aside for it (`damage`)."""
        self.settings = settings
        self.loader = loader
        self.folder = folder
        self.config_file = config_file
        self.store = Store(folder)
        self.registry = Registry(self.store.save_device)
        self.pipeline = Pipeline(self.store, self.registry)
        self.pipeline.interpreter.profiles = config_file.parent / OWN if config_file else None
        self.failures = Failures(lambda draft, name: self.pipeline.emit(SOURCE, {**draft, "apart_from": name}))
        self.running: dict[str, Running] = {}
        self.damage = ""
        self.is_damaged = asyncio.Event()
        """Set when the store turns out to be damaged, as `damage` says: only a new start can set it aside."""
        self._condemned = condemned
        self._bringing: asyncio.Task[None] | None = None
        self._intake: Intake | None = None
        self._observer: Observer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._noise_changed = False  # somebody else has changed what noise control knows

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises StoreBroken; integrations that can't start say so in their `Running`."""
        loop = asyncio.get_running_loop()
        self.store.damaged = lambda damage: loop.call_soon_threadsafe(self._met_damage, damage)
        devices = self._open_store()
        self.store.start()
        strays = await asyncio.to_thread(self.store.sweep_spool)
        if strays:
            log.info("removed %d unfinished mails that were never acknowledged", strays)
        self.registry.load(devices)
        self.failures.load(self.registry.devices())
        self.pipeline.noise.load()
        self.pipeline.on_device = self._device_changed
        self._configure()
        self._intake = Intake(self.store, self.pipeline.arrived, self.settings.store.reserve)
        self._intake.begun = self.pipeline.begun
        self._intake.behind = lambda: self.pipeline.depth
        self._observer = Observer(self.store, self._intake, self.pipeline, self.registry, self.running)
        self._note_aside()
        self._watch = asyncio.create_task(self._observer.watch(), name="watch")
        self.store.changed_elsewhere = self._changed_elsewhere
        for name, setting in self.settings.integrations.items():
            self._make(name, setting)
        self._rebuild_router()
        everyone = list(self.running.values())
        for targets in (True, False):
            await asyncio.gather(
                *[self._launch(one) for one in everyone if isinstance(one.instance, Target) == targets]
            )
        self.pipeline.resume()
        self._bringing = asyncio.create_task(self._look_after_damage(), name="rescue")
        self._ticker = asyncio.create_task(self._tick(), name="ticker")

    async def stop(self) -> None:
        if self._observer:
            self._observer.stopping = True
        for task in filter(None, (self._ticker, self._watch, self._bringing)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        everyone = list(self.running.values())
        sources = [one for one in everyone if isinstance(one.instance, Source) and not isinstance(one.instance, Target)]
        await asyncio.gather(*[self._stop_one(one) for one in sources])
        if self._leaving:
            await asyncio.gather(*self._leaving, return_exceptions=True)
        await self.pipeline.stop()
        await asyncio.gather(*[self._stop_one(one) for one in everyone if one not in sources])
        self.registry.save_all()
        await self.store.close()
        if self._intake:
            self._intake.close()

    # --- a damaged store ---------------------------------------------------------------------------------------

    def _open_store(self) -> list[dict[str, Any]]:
        """Open it, or a new one in its place. The devices that were in it."""
        try:
            self.store.open(exclusive=True, condemned=self._condemned)
            return list(self.store.devices())
        except StoreDamaged as damage:
            log_only = isinstance(damage, LogDamaged)
            try:
                aside = rescue.set_aside(self.folder, str(damage), log_only=log_only)
            except OSError as error:
                raise StoreBroken(f"{damage} But it can't be set aside now: {error}.") from None
            if not log_only:
                log.error("%s It is in %s now.", damage, aside)
            self.store.open(exclusive=True, without_log=True)
            return list(self.store.devices()) if log_only else rescue.devices(aside)

    def _met_damage(self, damage: str) -> None:
        self.damage = self.damage or damage
        self.is_damaged.set()

    async def _look_after_damage(self) -> None:
        """In the background: bring over what is owed, and look for damage where the last end was not a good one."""
        for aside in self._note_aside():
            if aside.brought_over is None:
                await self._bring_over(aside)
        self._note_aside()
        if self.store.ended_unclean:
            await asyncio.to_thread(self.store.look_through, _LOOK_THROUGH)

    def _note_aside(self) -> list[rescue.Aside]:
        """What was set aside is said till somebody has removed it."""
        assert self._observer
        aside = rescue.all_aside(self.folder)
        self._observer.aside = [one.folder.name for one in aside]
        return aside

    async def _bring_over(self, aside: rescue.Aside) -> None:
        """What could not be kept this time (the disk is full, say) is tried at the next start."""
        with contextlib.closing(await asyncio.to_thread(rescue.Salvage, aside.folder)) as salvage:
            pieces = salvage.read()
            mails = events = 0
            while owed := await asyncio.to_thread(next, pieces, None):
                if owed.mail and not self.store.mail(owed.mail.id):
                    mails += owed.event is None
                    if trouble := await self._keep_again(owed.mail, aside, is_open=owed.event is None):
                        log.error("mail %s can't be brought over now: %s", owed.mail.id, trouble)
                        return
                if owed.event and not self.store.event(owed.event["id"]):
                    events += 1
                    self.pipeline.take_over(owed.event, owed.targets)
            for device_id, document in salvage.devices.items():
                if not self.registry.get(device_id):
                    self.registry.load([document])
                    self.store.save_device(device_id, document)
            if not await self.store.flush():
                return
            if not mails and not events and aside.is_log:
                await asyncio.to_thread(shutil.rmtree, aside.folder)
                log.info("the end of the store's log was not whole, as after a power cut; nothing is missing for it")
                return
            told = f"{mails} mails and {events} events that were owed were brought over"
            told += f"; {salvage.unreadable} could not be read." if salvage.unreadable else "."
            await asyncio.to_thread((aside.folder / rescue.DONE).write_text, f"{told}\n")
            log.warning("%s %s It is in %s now.", aside.why, told, aside.folder)

    async def _keep_again(self, mail: Mail, aside: rescue.Aside, *, is_open: bool) -> StoreTrouble | None:
        try:
            if mail.file:
                await asyncio.to_thread(rescue.give_back, aside.folder, self.folder, mail.file)
        except OSError as error:
            return StoreTrouble(str(error))
        kept: asyncio.Future[StoreTrouble | None] = asyncio.get_running_loop().create_future()
        mail.dot = mail.kept = time.monotonic()  # its wait in the old store is not ours

        def done(trouble: StoreTrouble | None) -> None:
            if is_open and not trouble:
                self.pipeline.arrived(mail)  # now: told after a mail that was kept after it, it would be passed over
            kept.set_result(trouble)

        self.store.keep(mail, done)
        return await kept

    def _configure(self) -> None:
        """Take from the settings what is not an integration."""
        self.pipeline.duplicate_window = self.settings.duplicates
        zone = zone_of(self.settings.timezone) if self.settings.timezone else None
        self.pipeline.noise.zone = self.registry.zone = zone
        for device in self.registry.configure(self.settings.devices, self.settings.learn):
            self._device_changed(device)

    def _hide(self, text: str) -> str:
        return self.settings.hide(text)

    def _rebuild_router(self) -> None:
        buses = [
            one.name
            for one in self.running.values()
            if isinstance(one.instance, Target) and one.instance.takes_all(one.setting.config)
        ]
        workers = {one.name: one.worker for one in self.running.values() if one.worker}
        patience = {name: worker.target.patience for name, worker in workers.items()}
        self.pipeline.router = Router(self.settings.routes, buses, template.condition, patience)
        self.pipeline.workers = workers
        self.pipeline.noise.people = {name for name, worker in workers.items() if worker.target.for_people}
        self.pipeline.claimants = {
            name: worker.target for name, worker in workers.items() if type(worker.target).claims is not Target.claims
        }

    # --- integrations ------------------------------------------------------------------------------------------

    def _make(self, name: str, setting: IntegrationSetting) -> Running:
        assert self._intake
        folder = self.folder / "integrations" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        context = Context(
            name=name,
            data_dir=folder,
            log=logging.getLogger(f"mailwire.{name}"),
            gateway=self,
            intake=self._intake,
            emit=lambda draft: self.pipeline.emit(name, draft),
            ready=lambda: self._ready(name),
            problem=lambda text: self._problem(name, text),
        )
        instance = self.loader.load(setting.type).factory(context, setting.config)
        one = self.running[name] = Running(name, setting, instance)
        if isinstance(instance, Target):
            one.worker = Worker(name, instance, self.store, self.pipeline.ledger, self._hide)
            one.worker.not_yet = "it is not started yet"
            one.worker.look_at_clock = self.pipeline.clock.look
        return one

    async def _launch(self, one: Running) -> None:
        """Begin starting it; return after the first attempt."""
        if one.worker:
            one.worker.start()
        one.task = asyncio.create_task(self._keep_starting(one), name=f"start {one.name}")
        await one.first_try.wait()

    async def _keep_starting(self, one: Running) -> None:
        wait = _FIRST_RETRY
        about = {"integration": one.name}
        while one.state in ("starting", "retrying"):
            before = one.error
            try:
                await one.instance.start()
                # What it reported meanwhile, a port that is not there say, stays true.
                one.note(one.error if one.error != before else None, "running")
                if one.worker:  # not before: a target may not know yet whom it has to tell, and call that done
                    one.worker.not_yet = None
                    one.worker.ready()
                log.debug("%s: %s", one.name, one.instance.describe(), extra=about)
            except NotReady as error:
                if one.state != "retrying":
                    log.warning("%s: not ready: %s; trying again", one.name, error, extra=about)
                one.note(self._hide(str(error)), "retrying")
            except CredentialsRefused as error:
                one.note(self._hide(str(error)), "refused")
                log.error("%s: the login was refused: %s", one.name, error, extra=about)
            except Broken as error:
                one.note(self._hide(str(error)), "broken")
                log.error("%s: %s", one.name, error, extra=about)
            except Exception as error:  # a fault in one integration must not stop the others
                one.note(self._hide(f"{type(error).__name__}: {error}"), "broken")
                log.exception("%s: could not be started", one.name, extra=about)
            if one.worker and one.state != "running":
                one.worker.not_yet = one.error
            one.first_try.set()
            if one.state == "retrying":
                await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311  # jitter, not a secret
                wait = min(wait * 2, _LONGEST_RETRY)

    async def _stop_one(self, one: Running) -> None:
        self.running.pop(one.name, None)
        if one.task and not one.task.done():
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)
        if one.worker:
            await one.worker.stop()
        try:
            await one.instance.stop()
        except Exception:  # its fault must not keep the others from stopping
            log.exception("%s: could not be stopped cleanly", one.name, extra={"integration": one.name})

    def _ready(self, name: str) -> None:
        one = self.running.get(name)
        if one:
            one.is_ready.set()
            if one.worker:
                one.worker.ready()

    def _problem(self, name: str, text: str | None) -> None:
        one = self.running.get(name)
        if one and one.error != text:
            (log.warning if text else log.info)("%s: %s", name, text or "well again", extra={"integration": name})
            one.note(self._hide(text) if text else None)

    # --- reload ------------------------------------------------------------------------------------------------

    async def reload(self) -> str:
        """Read the configuration again and restart what changed; what happened, in words. Raises ConfigErrors."""
        async with self._reloading:
            settings = await asyncio.to_thread(load, self.config_file, loader=self.loader)
            old, new = self.settings.integrations, settings.integrations
            gone = [name for name in old if name not in new]
            changed = [
                name
                for name in new
                if name in old and (new[name].type, new[name].config) != (old[name].type, old[name].config)
            ]
            added = [name for name in new if name not in old]
            for name in old:
                if name not in gone + changed and (one := self.running.get(name)):
                    one.instance.reload()
            self.settings = settings
            for name in gone + changed:
                if one := self.running.get(name):
                    await self._retire(one)
            fresh = [self._make(name, new[name]) for name in changed + added]
            self._configure()
            self.pipeline.interpreter.read_profiles()
            self._rebuild_router()
            await asyncio.gather(*[self._launch(one) for one in fresh])
            if self._intake:
                self._intake.reserve = settings.store.reserve
            parts = {"restarted": changed, "started": added, "stopped": gone}
            words = "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts.items() if names)
            log.info("configuration read again: %s", words or "no integration changed")
            return words or "no integration changed"

    async def _retire(self, one: Running) -> None:
        """Stop an integration without waiting for the connections that it still has to finish."""
        task = asyncio.create_task(self._stop_one(one))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        if one.worker:  # a target gives up its socket, port or file before its successor asks for it
            await task
        else:  # a source closes its listening sockets before its first wait
            await asyncio.sleep(0)

    # --- every second ------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        prune_at = time.monotonic()
        catch_up_at = prune_at + _CATCH_UP_EVERY
        while True:
            await asyncio.sleep(1)
            try:
                self.pipeline.clock.look()
                for device in self.registry.tick(time.time()):
                    self._device_changed(device)
                for device_id in self.pipeline.noise.ended(time.time()):
                    self._mute_changed(device_id)
                await self._load_noise()
                await self._look_for_reports()
                await self.pipeline.look_at_held()
                await self.failures.look(self.pipeline.workers)
                if time.monotonic() >= catch_up_at:
                    catch_up_at = time.monotonic() + _CATCH_UP_EVERY
                    await self.pipeline.catch_up()
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + _PRUNE_EVERY
                    await self._clear_out()
            except Exception:  # no memory, no files, a disk that fails: the next round may do better
                log.exception("looking after the store failed; it is tried again")

    async def _look_for_reports(self) -> None:
        """Tell once of a device's report that did not come, and once when it came again."""
        well = self.store.writer is not None and self.store.writer.trouble is None
        changed, drafts = self.registry.look(time.time(), well=well)
        for device in changed:
            self._device_changed(device)
        for draft in drafts:
            try:
                await self.pipeline.emit(SOURCE, draft, heard=False)
            except StoreTrouble as error:  # it goes out all the same
                log.warning("%s: %s, which could not be kept: %s", draft["device"]["id"], draft["title"], error)

    async def _clear_out(self) -> None:
        """Forget what was kept long enough."""
        self._note_aside()
        self.store.expire_orphans(list(self.pipeline.workers), time.time())
        dropped = await self.store.prune(self.settings.store.keep_days * 86400, self.settings.store.keep_size)
        if dropped:
            log.info("dropped %d mails that were kept long enough", dropped)
        for device_id in self.registry.age(time.time()):
            self._device_forgotten(device_id)

    def _changed_elsewhere(self) -> None:
        """A command line changed the store: mails to replay, deliveries retried or dropped."""
        self.pipeline.replay()
        self._noise_changed = True
        for one in self.running.values():
            if one.worker:
                task = asyncio.create_task(one.worker.rescan())
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)

    async def _load_noise(self) -> None:
        """Take note of what a command line has muted and acknowledged."""
        muted = self.pipeline.noise.muted()
        if self._noise_changed and await self.pipeline.noise.load_again():
            self._noise_changed = False
            for device_id in muted | self.pipeline.noise.muted():
                self._mute_changed(device_id)

    def _device_changed(self, device: Device) -> None:
        for one in self.running.values():
            if isinstance(one.instance, Target):
                one.instance.device_changed(device)

    def _mute_changed(self, device_id: str) -> None:
        if device := self.registry.get(device_id):
            self._device_changed(device)

    def _device_forgotten(self, device_id: str) -> None:
        log.info("forgot device %s", device_id, extra={"device": device_id})
        self.pipeline.noise.forget(device_id)
        for one in self.running.values():
            if isinstance(one.instance, Target):
                one.instance.device_forgotten(device_id)

    # --- what integrations may ask (api.Gateway) ---------------------------------------------------------------

    def devices(self) -> list[Device]:
        return self.registry.devices()

    def targets(self) -> dict[str, bool]:
        return {one.name: one.instance.for_people for one in self.running.values() if isinstance(one.instance, Target)}

    def muted_until(self, device_id: str) -> float:
        return self.pipeline.noise.muted_until(device_id, time.time())

    def acknowledge_url(self, event: Event) -> str | None:
        if not self.pipeline.noise.waits(event):
            return None
        urls = (one.instance.acknowledge_url(event["id"]) for one in self.running.values())
        return next(filter(None, urls), None)

    def info(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "config_hash": self.settings.hash(),
            "config_file": str(self.config_file) if self.config_file else None,
            "integrations": {
                one.name: {"type": one.setting.type, "state": one.state, "about": one.instance.describe()}
                for one in self.running.values()
            },
        }

    def health(self) -> dict[str, Any]:
        assert self._observer
        return self._observer.health()

    def metrics(self) -> list[Metric]:
        assert self._observer
        return self._observer.metrics()

    async def attachment(self, event_id: str, index: int) -> bytes:
        _, content = self._stored(event_id)
        if len(content) <= _ATTACHMENT_IN_THREAD:
            return interpret.attachment(content, index)
        return await asyncio.to_thread(interpret.attachment, content, index)

    async def raw_mail(self, event_id: str) -> tuple[Envelope, bytes]:
        envelope, content = self._stored(event_id)
        return envelope, bytes(content)

    async def kept_details(self, source: str, limit: int) -> list[dict[str, Any]]:
        sql = "SELECT details FROM mails WHERE source = ? ORDER BY seq DESC LIMIT ?"
        return [json.loads(row[0]) for row in await asyncio.to_thread(self.store.rows, sql, source, limit)]

    def _stored(self, event_id: str) -> tuple[Envelope, Any]:
        mail = self.store.mail(event_id)
        if mail is None:
            raise LookupError(f"mail {event_id} is no longer kept")
        return mail.envelope, self.store.content(mail)

    def template(self, source: str, *, html: bool = False, more: Sequence[str] = ()) -> template.Text:
        return template.text(source, html=html, more=more)

    async def failed(self, target: str, event_id: str, reason: str, memo: Mapping[str, Any] | None = None) -> bool:
        worker = self.pipeline.workers.get(target)
        return worker is not None and await worker.failed(event_id, reason, memo)

    def summary(self, events: Sequence[Event]) -> Event:
        now = iso_time(time.time())
        return care.summary(events, events[-1]["id"], now, "came together", self.pipeline.noise.zone)

    async def request(self, verb: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        if verb == "reload":
            try:
                return {"changed": await self.reload()}
            except ConfigErrors as error:
                raise RequestRefused(str(error)) from None
        if verb == "info":
            return self.info()
        if verb == "health":
            assert self._observer
            await self._observer.look(count=True)
            return self.health()
        if verb == "devices":
            return {"devices": [device.facts() for device in self.devices()]}
        if verb == "rename":
            device = self._on_device(payload, lambda key: self.registry.rename(key, str(payload.get("name") or key)))
            self._device_changed(device)
            return {"device": device.facts()}
        if verb == "forget":
            self._on_device(payload, self.registry.forget)
            self._device_forgotten(str(payload["device"]))
            return {"forgotten": payload["device"]}
        if verb == "replay":
            if not (ids := _ids(payload)):
                raise RequestRefused('replay what? Say {"id": "…"} with an event\'s id, or {"ids": ["…"]}')
            for mail_id in ids:
                if not self.store.mail(mail_id):
                    raise RequestRefused(f'no mail {mail_id!r} is kept; say {{"id": "…"}} with an event\'s id')
            self.store.note_one(REPLAY, json.dumps(ids))
            await self.store.flush()
            self.pipeline.replay()
            return {"replayed": ids}
        if verb == "ack":
            ids = _ids(payload)
            device, everything = payload.get("device"), payload.get("all") is True
            if not (ids or device or everything):
                raise RequestRefused('acknowledge what? Say {"id": "…"}, {"device": "…"} or {"all": true}')
            return {"acknowledged": await self._acknowledge(ids, device, everything)}
        if verb in ("alerts", "clear", "mute"):
            done = {"alerts": self._alerts, "clear": self._clear, "mute": self._mute}[verb](payload)
            if not await self.store.flush():
                raise RequestRefused("it is done, but the store can't write now: a restart would forget it")
            return done
        raise RequestRefused(
            f"no request {verb!r}; there are ack, alerts, clear, devices, forget, health, info, mute, reload, rename "
            "and replay"
        )

    async def _acknowledge(self, ids: list[str], device: str | None, everything: bool) -> list[str]:
        """Here, and where the events came from: whoever waits for it may be there."""
        done = self.pipeline.noise.acknowledge(ids, device, everything=everything)
        for event_id in {*done, *told_of(self.store, ids)}:
            event = self.store.event(event_id)
            source = self.running.get(event["source"]) if event else None
            if event and source and isinstance(source.instance, Source):
                await source.instance.acknowledged(event)
        return done

    def _mute(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        device = self._on_device(payload, self._known_device)
        target = payload.get("target", "")
        if target and not self.targets().get(target):
            people = ", ".join(name for name, tells in self.targets().items() if tells)
            raise RequestRefused(
                f"no target {target!r} tells people; there are {people}" if people else "nobody is told"
            )
        try:
            seconds = float(str(seconds_of(payload.get("seconds", _MUTE))))
        except (TypeError, ValueError) as error:
            raise RequestRefused(f"seconds {error}") from None
        if not 0 <= seconds <= _LONGEST_MUTE:
            raise RequestRefused("seconds must be between 0, which ends it, and 365 days")
        until = self.pipeline.noise.mute(device.id, seconds, time.time(), target)
        self._device_changed(device)
        return {"device": device.id, "target": target or None, "until": iso_time(until) if seconds else None}

    def _alerts(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Off: people are not told of the device till they are on again."""
        device, on = self._on_device(payload, self._known_device), payload.get("alerts")
        if not isinstance(on, bool):
            raise RequestRefused('say {"device": "…", "alerts": true}, or false')
        self.pipeline.noise.mute(device.id, 0 if on else math.inf, time.time())
        self._device_changed(device)
        return {"device": device.id, "alerts": on}

    def _clear(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        device = self._on_device(payload, self.registry.clear)
        self._device_changed(device)
        return {"device": device.facts()}

    def _known_device(self, device_id: str) -> Device:
        device = self.registry.get(device_id)
        if device is None:
            raise LookupError
        return device

    def _on_device(self, payload: Mapping[str, Any], act: Any) -> Any:
        device_id = str(payload.get("device", ""))
        try:
            return act(device_id)
        except LookupError:
            raise RequestRefused(f'no device {device_id!r}; say {{"device": "…"}} with a device\'s id') from None
        except ValueError as error:
            raise RequestRefused(str(error)) from None


def _ids(payload: Mapping[str, Any]) -> list[str]:
    """The `id` of a request, or its `ids`."""
    said = payload.get("ids") or payload.get("id") or []
    return [str(one) for one in (said if isinstance(said, list) else [said])]
