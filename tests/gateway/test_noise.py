"""What people are told, how often and when: decided, kept over a restart, told together, gone on with."""

import asyncio
import math
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway import care
from gateway.api import Target
from gateway.care import Escalation, Memory, Rule, decide
from gateway.cli import ack
from gateway.deliver import Worker
from gateway.hours import hours, times
from gateway.pipeline import Pipeline, iso_time
from gateway.registry import Registry
from gateway.route import Router
from gateway.store import Store
from tests.gateway.test_registry import Learn
from tests.gateway.test_route import Condition, Route

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=BERLIN).timestamp()
NIGHT = NOON + 11 * 3600


def event(number=1, device="cam", title="Motion", kind="motion", state="on", severity="warning", now=NOON):
    facts = {"id": device, "name": device.title(), "manufacturer": None, "model": None, "profile": None}
    return {
        "v": 1, "id": f"E{number:04}", "time": iso_time(now), "source": "lan-mail", "device": facts, "kind": kind,
        "state": state, "severity": severity, "title": title, "text": "", "data": {}, "attachments": [], "mail": None,
    }  # fmt: skip


def says(seconds):
    return datetime.fromtimestamp(seconds, BERLIN).strftime("%a %H:%M")


# --- decided ---------------------------------------------------------------------------------------------------


def test_what_repeats_is_told_once_in_that_time():
    rule, memory = Rule(repeat=600), Memory()
    assert decide(rule, memory, event(1), NOON, BERLIN) == care.NOW
    again = decide(rule, memory, event(2), NOON + 599, BERLIN)
    assert again == (0, "told by event E0001 less than 10 minutes ago")
    assert decide(rule, memory, event(3, state="off"), NOON + 1, BERLIN) == care.NOW
    assert decide(rule, memory, event(4, device="door"), NOON + 1, BERLIN) == care.NOW
    assert decide(rule, memory, event(5), NOON + 600, BERLIN) == care.NOW
    assert decide(rule, memory, event(6), NOON - 9999, BERLIN) == care.NOW  # the clock was put back


def test_the_same_event_asked_again_is_no_repeat_of_itself():
    rule, memory = Rule(repeat=600, at_most=(1, 3600)), Memory()
    for _ in range(2):
        assert decide(rule, memory, event(1), NOON, BERLIN) == care.NOW
        memory = care.loads(care.dumps(memory))
    assert decide(rule, memory, event(2, title="Other"), NOON, BERLIN).due == NOON + 3600


def test_what_is_too_much_waits_for_the_end_of_that_time():
    rule, memory = Rule(at_most=(2, 3600)), Memory()
    said = [decide(rule, memory, event(number), NOON + number, BERLIN) for number in range(4)]
    assert said == [care.NOW, care.NOW] + [(NOON + 3600, "because 2 went out in 1 hour")] * 2
    assert decide(rule, memory, event(9), NOON + 3600, BERLIN) == care.NOW


def test_quiet_hours_hours_and_digest_put_each_other_off():
    quiet, only, digest = hours(["22:00-07:00"]), hours(["mon-fri 06:00-18:00"]), times(["daily 23:30"])
    due, why = decide(Rule(quiet=quiet), Memory(), event(), NIGHT, BERLIN)
    assert (says(due), why) == ("Thu 07:00", "for the end of quiet hours (22:00-07:00)")
    due, why = decide(Rule(quiet=quiet, only=only, digest=digest), Memory(), event(), NIGHT + 2 * 86400, BERLIN)
    assert (says(due), why) == ("Mon 07:00", "for the end of quiet hours (22:00-07:00)")
    assert says(decide(Rule(digest=digest), Memory(), event(), NOON, BERLIN).due) == "Wed 23:30"
    assert decide(Rule(quiet=quiet), Memory(), event(), NOON, BERLIN) == care.NOW


def test_what_is_urgent_waits_for_nothing_but_is_told_once():
    rule = Rule(
        repeat=60, at_most=(1, 60), quiet=hours(["22:00-07:00"]), digest=times(["hourly"]), urgent=("critical",)
    )
    memory = Memory()
    assert decide(rule, memory, event(1, severity="critical"), NIGHT, BERLIN) == care.NOW
    assert decide(rule, memory, event(2, severity="critical"), NIGHT, BERLIN).due == 0
    assert decide(rule, memory, event(3, title="Else"), NIGHT, BERLIN).due > NIGHT


def test_a_memory_is_bounded():
    rule, memory = Rule(repeat=600), Memory()
    for number in range(1500):
        decide(rule, memory, event(number, title=f"T{number}"), NOON, BERLIN)
    assert len(memory.told) == 1000
    decide(rule, memory, event(9999, title="late"), NOON + 700, BERLIN)
    assert len(memory.told) == 1


@pytest.mark.parametrize(
    ("events", "title", "device", "kind", "severity"),
    [
        ([event(1), event(2)], "Motion (2 times)", "cam", "motion", "warning"),
        ([event(1), event(2, title="Tamper", kind="tamper")], "Cam: Motion, and 1 more", "cam", "report", "warning"),
        ([event(1), event(2, device="door"), event(3, severity="critical")],
         "Motion (Cam), and 2 more of 2 devices", "unknown", "motion", "critical"),
    ],
)  # fmt: skip
def test_a_summary_tells_of_all(events, title, device, kind, severity):
    told = care.summary(events, "S", iso_time(NOON), "waits", BERLIN)
    assert (told["title"], told["device"]["id"], told["kind"], told["severity"]) == (title, device, kind, severity)
    assert told["data"] == {"count": len(events), "events": [one["id"] for one in events], "why": "waits"}
    assert told["text"].startswith("2026-11-25 12:00:00 ")
    assert told["text"].count("\n") == len(events) - 1


def test_a_long_summary_ends_with_a_count():
    told = care.summary([event(number) for number in range(214)], "S", iso_time(NOON), "", BERLIN)
    assert told["text"].splitlines()[-1] == "... and 164 more"
    assert told["data"]["count"] == 214


# --- carried out -----------------------------------------------------------------------------------------------


class Phone(Target):
    def __init__(self):
        super().__init__(None, None)
        self.heard = []

    async def deliver(self, event):
        self.heard.append(event)


class Bench:
    """A gateway's inside, from an event on; `restart` is a new one over the same store."""

    def __init__(self, folder, rule):
        self.folder, self.rule = folder, rule
        self.phone, self.boss = Phone(), Phone()
        self._begin()

    def _begin(self):
        self.store = Store(self.folder)
        self.store.open()
        self.store.start()
        registry = Registry(lambda *_: None)
        registry.configure({}, Learn())
        self.pipeline = Pipeline(self.store, registry)
        self.pipeline.router = Router([Route(["phone"], rule=self.rule)], [], None)
        self.noise = self.pipeline.noise
        self.noise.zone = BERLIN
        self.noise.load()
        for name in ("phone", "boss"):
            worker = Worker(name, getattr(self, name), self.store, self.pipeline.ledger)
            worker.start()
            self.pipeline.workers[name] = worker

    async def restart(self):
        await self.close()
        self._begin()

    async def close(self):
        for worker in self.pipeline.workers.values():
            await worker.stop()
        self.pipeline.ledger.write()
        await self.store.flush()
        await self.store.close()

    async def happens(self, event, monkeypatch, now):
        monkeypatch.setattr(time, "time", lambda: now)
        self.pipeline._hand_out(event, now, 0.0, 0.0)
        await self.wait(now, monkeypatch)

    async def wait(self, now, monkeypatch):
        monkeypatch.setattr(time, "time", lambda: now)
        await self.pipeline.look_at_held()
        self.pipeline.ledger.write()
        for _ in range(2):  # what goes out at once has been heard by the first, and is written off by the second
            await self.store.flush()
        assert not any(worker.depth for worker in self.pipeline.workers.values())

    def rows(self):
        return self.store.rows("SELECT event, target, state FROM deliveries ORDER BY event")

    def titles(self, who="phone"):
        return [event["title"] for event in getattr(self, who).heard]


@pytest.fixture
async def bench(tmp_path):
    made = []

    def make(rule):
        made.append(Bench(tmp_path / "data", rule))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_a_thousand_during_quiet_hours_are_one_in_the_morning_also_over_a_restart(bench, monkeypatch):
    one = bench(Rule(quiet=hours(["22:00-07:00"]), urgent=("critical",)))
    for number in range(1000):
        await one.happens(event(number), monkeypatch, NIGHT + number) if number < 3 else one.pipeline._hand_out(
            event(number), NIGHT + number, 0.0, 0.0
        )
    await one.happens(event(5000, title="Fire", severity="critical"), monkeypatch, NIGHT + 1100)
    assert one.titles() == ["Fire"]
    await one.restart()
    assert [row[2] for row in one.rows()] == ["held"] * 1000
    await one.wait(NIGHT + 7 * 3600, monkeypatch)
    assert one.titles() == ["Fire"]
    await one.wait(NIGHT + 8 * 3600, monkeypatch)
    assert one.titles() == ["Fire", "Motion (1000 times)"]
    assert one.rows() == []
    summary = one.phone.heard[-1]
    assert one.store.event(summary["id"]) == summary
    await one.wait(NIGHT + 32 * 3600, monkeypatch)
    assert len(one.phone.heard) == 2


async def test_a_single_one_that_waited_is_told_as_it_is(bench, monkeypatch):
    one = bench(Rule(digest=times(["hourly"])))
    await one.happens(event(1), monkeypatch, NOON)
    assert one.titles() == []
    await one.wait(NOON + 3600, monkeypatch)
    assert [told["id"] for told in one.phone.heard] == ["E0001"]


async def test_five_and_then_fourteen_more(bench, monkeypatch):
    one = bench(Rule(at_most=(5, 3600)))
    for number in range(19):
        await one.happens(event(number), monkeypatch, NOON + number)
    assert one.titles() == ["Motion"] * 5
    await one.wait(NOON + 3600, monkeypatch)
    assert one.titles() == ["Motion"] * 5 + ["Motion (14 times)"]


async def test_repeats_are_counted_and_not_told(bench, monkeypatch):
    one = bench(Rule(repeat=600))
    for number in range(4):
        await one.happens(event(number), monkeypatch, NOON + number)
        await one.restart()
    assert one.titles() == ["Motion"]
    assert one.rows() == []
    assert len(one.store.events()) == 4


async def test_a_summary_is_held_until_it_is_in_the_store(bench, monkeypatch):
    """The end of a gateway between the two is no loss: rows that are held are told, or told once more."""
    one = bench(Rule(digest=times(["hourly"])))
    await one.happens(event(1), monkeypatch, NOON)
    await one.happens(event(2), monkeypatch, NOON)
    one.noise.release = lambda *_: None  # it ends before it could hand it to the worker
    await one.wait(NOON + 3600, monkeypatch)
    assert one.titles() == []
    await one.restart()
    await one.wait(NOON + 3601, monkeypatch)
    assert one.titles() == ["Motion (2 times)"]


async def test_what_the_store_could_not_write_at_once_is_told_when_it_has(bench, monkeypatch):
    one = bench(Rule(digest=times(["hourly"])))
    await one.happens(event(1), monkeypatch, NOON)
    flush, answers = one.store.flush, [True, False]

    async def fails_second():
        return await flush() and (answers.pop(0) if answers else True)

    monkeypatch.setattr(one.store, "flush", fails_second)
    await one.wait(NOON + 3600, monkeypatch)
    assert one.titles() == []
    await one.wait(NOON + 3601, monkeypatch)
    assert one.titles() == ["Motion"]
    assert one.rows() == []


async def test_others_are_told_until_somebody_acknowledges(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",), 600, 2)))
    await one.happens(event(1), monkeypatch, NOON)
    await one.happens(event(2, state="off"), monkeypatch, NOON + 1)  # its all-clear: over
    await one.wait(NOON + 901, monkeypatch)
    assert one.titles("boss") == []
    await one.happens(event(3), monkeypatch, NOON + 1000)
    await one.restart()
    for wait in (899, 900, 1499, 1500, 9999):
        await one.wait(NOON + 1000 + wait, monkeypatch)
    assert one.titles("boss") == [
        "Not acknowledged for 15 minutes: Motion",
        "Not acknowledged for 25 minutes: Motion",
    ]
    assert one.noise.acknowledge([one.boss.heard[0]["id"]]) == ["E0003"]
    await one.restart()
    assert one.noise.acknowledge(everything=True) == []


async def test_an_all_clear_counts_also_where_its_own_routes_ask_for_no_care(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    critical = Route(["phone"], Condition({"severity": ["critical"]}), rule=one.rule)
    one.pipeline.router = Router([critical], [], None)
    await one.happens(event(1, severity="critical"), monkeypatch, NOON)
    await one.happens(event(2, state="off", severity="info"), monkeypatch, NOON + 1)
    await one.wait(NOON + 901, monkeypatch)
    assert one.titles("boss") == []


async def test_what_is_acknowledged_at_the_last_moment_is_told_nobody_else(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)
    find = one.store.event

    def found(event_id):
        asyncio.run_coroutine_threadsafe(acknowledged(), loop).result()
        return find(event_id)

    async def acknowledged():
        assert one.noise.acknowledge(device="cam") == ["E0001"]

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patch:
        patch.setattr(one.store, "event", found)
        await one.wait(NOON + 900, monkeypatch)
    assert one.titles("boss") == []
    await one.restart()
    assert one.noise.acknowledge(everything=True) == []


async def test_an_event_that_is_not_written_yet_is_not_taken_for_gone(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(0, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)
    await one.wait(NOON + 1, monkeypatch)
    assert one.titles("boss") == ["Not acknowledged for 0 seconds: Motion"]


async def test_what_begins_to_wait_while_others_are_looked_for_is_told_at_its_time(bench, monkeypatch):
    one = bench(Rule(digest=times(["hourly"])))
    await one.wait(NOON, monkeypatch)
    await one.happens(event(1), monkeypatch, NOON)
    rows = one.store.rows

    def found(sql, *values):
        if "min(due)" in sql:
            asyncio.run_coroutine_threadsafe(another(), loop).result()
        return rows(sql, *values)

    async def another():
        monkeypatch.setattr(one.store, "rows", rows)
        one.pipeline._hand_out(event(2), NOON + 3600, 0.0, 0.0)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(one.store, "rows", found)
    await one.wait(NOON + 3600, monkeypatch)
    await one.wait(NOON + 7200, monkeypatch)
    assert [told["id"] for told in one.phone.heard] == ["E0001", "E0002"]


async def test_a_command_line_makes_it_forget_nothing_that_is_on_its_way_to_the_store(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    flush = one.store.flush

    async def while_something_happens():
        written = await flush()
        one.pipeline._hand_out(event(1), NOON, 0.0, 0.0)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(one.store, "flush", while_something_happens)
        assert not await one.noise.load_again()
    assert await one.noise.load_again()
    assert one.noise.acknowledge(everything=True) == ["E0001"]


@pytest.mark.parametrize("data", [{"events": 3, "of": 4}, {"events": "E0001", "of": None}])
async def test_other_data_of_the_same_names_tells_of_no_other_event(bench, monkeypatch, data):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)
    assert not one.noise.waits({**event(2), "data": data})
    spoofed = {**event(3), "data": {"events": ["E0001"], "of": "E0001"}, "mail": {"from": "a@b"}}
    assert not one.noise.waits(spoofed)


async def test_the_end_of_one_service_s_alarm_is_not_another_s(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    for number, service in ((1, "HTTP"), (2, "SMTP")):
        alarm = event(number, device="nagios", title=service, kind="alarm")
        await one.happens({**alarm, "data": {"host": "web1", "service": service}}, monkeypatch, NOON)
    await one.restart()  # the parts come from the store
    well = {**event(3, device="nagios", kind="alarm", state="off"), "data": {"host": "web1", "service": "HTTP"}}
    await one.happens(well, monkeypatch, NOON + 1)
    await one.wait(NOON + 901, monkeypatch)
    assert one.titles("boss") == ["Not acknowledged for 15 minutes: SMTP"]


async def test_acknowledge_by_event_by_summary_by_device(bench, monkeypatch):
    one = bench(Rule(digest=times(["hourly"]), urgent=("critical",), escalate=Escalation(900, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)
    await one.happens(event(2), monkeypatch, NOON)
    await one.happens(event(3, severity="critical"), monkeypatch, NOON)
    await one.happens(event(4, device="door", severity="critical"), monkeypatch, NOON)
    await one.wait(NOON + 3600, monkeypatch)
    (summary,) = [told for told in one.phone.heard if "events" in told["data"]]
    assert one.noise.acknowledge([summary["id"]]) == ["E0001", "E0002"]
    assert one.noise.acknowledge(["E0003"]) == ["E0003"]
    assert one.noise.acknowledge(device="door") == ["E0004"]


async def test_the_command_beside_a_gateway(bench, monkeypatch, capsys):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)

    def run(*words):
        import argparse

        from gateway.cli import common

        parser = argparse.ArgumentParser()
        common.add_options(parser)
        ack.add(parser)
        code = ack.run(parser.parse_args(["--data", str(one.folder), *words]))
        return code, capsys.readouterr().out

    assert run()[1].splitlines()[0].split() == ["ID", "DEVICE", "KIND", "SINCE", "NEXT", "THEN", "TOLD"]
    next_one = datetime.fromtimestamp(NOON + 900, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert f'"next": "{next_one}"' in run("--json")[1] or f'"next":"{next_one}"' in run("--json")[1]
    assert run("E9999") == (1, "0 events acknowledged.\n")
    code, said = run("E0001")
    assert (code, said.startswith("1 event acknowledged ")) == (0, True)
    assert run() == (0, "Nothing waits to be acknowledged.\n")
    one.noise.load()
    await one.wait(NOON + 901, monkeypatch)
    assert one.titles("boss") == []


# --- muted -----------------------------------------------------------------------------------------------------


async def test_alerts_that_are_off_stay_off_over_a_restart_till_they_are_on(bench, monkeypatch):
    one = bench(None)
    one.noise.people = {"phone"}
    one.noise.mute("cam", math.inf, NOON)
    await one.restart()
    one.noise.people = {"phone"}
    assert one.noise.muted_until("cam", NOON + 1e9) == math.inf
    assert one.noise.muted_until("door", NOON) == 0
    await one.happens(event(1), monkeypatch, NOON + 1)
    await one.happens(event(2, device="door", title="Open"), monkeypatch, NOON + 1)
    assert one.titles() == ["Open"]
    one.noise.mute("cam", 0, NOON)
    await one.happens(event(3), monkeypatch, NOON + 2)
    assert one.titles() == ["Open", "Motion"]


async def test_end_of_a_mute_is_told_once(bench):
    one = bench(None)
    one.noise.mute("cam", 60, NOON)
    one.noise.mute("door", 60, NOON, "phone")
    one.noise.mute("gate", math.inf, NOON)
    assert one.noise.ended(NOON + 59) == set()
    assert one.noise.ended(NOON + 60) == {"cam", "door"}
    assert one.noise.ended(NOON + 61) == set()
    assert one.noise.muted() == {"gate"}
    await one.restart()
    assert one.noise.muted() == {"gate"}


async def test_device_that_is_forgotten_takes_its_mute_with_it(bench):
    one = bench(None)
    one.noise.mute("cam", math.inf, NOON)
    one.noise.mute("cam", 60, NOON, "phone")
    one.noise.forget("cam")
    await one.restart()
    assert one.noise.muted() == set()


async def test_others_are_not_told_either_while_a_device_is_muted(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss",))))
    await one.happens(event(1), monkeypatch, NOON)
    one.noise.mute("cam", 3600, NOON + 1)
    await one.wait(NOON + 901, monkeypatch)
    assert one.titles("boss") == []
    await one.wait(NOON + 3601, monkeypatch)
    assert one.titles("boss") == ["Not acknowledged for 15 minutes: Motion"]


async def test_nor_is_the_one_through_whom_it_is_muted(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(900, ("boss", "phone"))))
    await one.happens(event(1), monkeypatch, NOON)
    one.noise.mute("cam", 3600, NOON + 1, "boss")
    await one.wait(NOON + 901, monkeypatch)
    assert (one.titles("boss"), one.titles()[1:]) == ([], ["Not acknowledged for 15 minutes: Motion"])


async def test_a_muted_device_is_not_told_of_till_its_time_is_over_also_over_a_restart(bench, monkeypatch):
    one = bench(None)
    one.noise.people = {"phone"}
    one.noise.mute("cam", 3600, NOON)
    await one.happens(event(1), monkeypatch, NOON)
    await one.happens(event(2, device="door"), monkeypatch, NOON)
    await one.restart()
    one.noise.people = {"phone"}
    await one.happens(event(3), monkeypatch, NOON + 3599)
    await one.happens(event(4), monkeypatch, NOON + 3600)
    assert [event["id"] for event in one.phone.heard] == ["E0002", "E0004"]
    assert one.noise.suppressed["phone"] == 1
    assert one.rows() == []


async def test_a_mute_concerns_people_and_of_them_the_one_that_it_names(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(60, ("boss",))))
    one.pipeline.router = Router([Route(["phone", "boss"])], [], None)
    one.noise.people = {"phone"}  # the boss is a program
    one.noise.mute("cam", 3600, NOON)
    await one.happens(event(1), monkeypatch, NOON)
    one.noise.people = {"phone", "boss"}
    one.noise.mute("cam", 0, NOON)
    one.noise.mute("cam", 3600, NOON, "boss")
    await one.happens(event(2), monkeypatch, NOON)
    one.noise.mute("cam", 0, NOON, "boss")
    await one.happens(event(3), monkeypatch, NOON)
    assert [event["id"] for event in one.phone.heard] == ["E0002", "E0003"]
    assert [event["id"] for event in one.boss.heard] == ["E0001", "E0003"]
    assert not one.noise.muted()


async def test_what_is_not_told_because_it_is_muted_waits_for_nobody_to_acknowledge_it(bench, monkeypatch):
    one = bench(Rule(escalate=Escalation(60, ("boss",))))
    one.noise.people = {"phone", "boss"}
    one.noise.mute("cam", 3600, NOON)
    await one.happens(event(1), monkeypatch, NOON)
    await one.wait(NOON + 61, monkeypatch)
    assert one.titles() == one.titles("boss") == []
