"""From kept mail to handed-out event: order, backlog, resuming, duplicates, replay, and what is no longer there."""

import asyncio
import json
import random
import sqlite3
import time

import pytest

from gateway import pipeline as module
from gateway.api import Envelope, Target
from gateway.care import Rule
from gateway.deliver import Worker
from gateway.hours import times
from gateway.intake import Intake
from gateway.pipeline import Pipeline, iso_time
from gateway.registry import Registry
from gateway.route import Router
from gateway.store import REPLAY, Mail, Store
from gateway.ulid import UlidMaker
from tests.gateway.test_registry import Learn
from tests.gateway.test_route import Route

new_id = UlidMaker().new


class Listener(Target):
    event_bus = True

    def __init__(self):
        super().__init__(None, None)
        self.heard = []

    async def deliver(self, event):
        self.heard.append(event)


class Bench:
    """A store, a registry and a pipeline with one listening target; `kept` commits a mail as the intake does."""

    def __init__(self, folder):
        self.store = Store(folder)
        self.store.open()
        self.store.start()
        registry = Registry(self.store.save_device)
        registry.configure({}, Learn())
        self.pipeline = Pipeline(self.store, registry)
        self.target = Listener()
        worker = Worker("t", self.target, self.store, self.pipeline.ledger)
        worker.start()
        self.pipeline.workers = {"t": worker}
        self.pipeline.router = Router([], ["t"], lambda _: lambda __: True)

    async def kept(self, content, *, tell=True, received=None, early=False, **said):
        said = {"peer": "192.168.1.2", "helo": "h", "mail_from": "a@b", "rcpt_to": ["c@d"]} | said
        mail = Mail(new_id(), received or time.time(), Envelope("m", **said), len(content), content=content)
        done = asyncio.get_running_loop().create_future()
        self.store.keep(mail, done.set_result)
        if early:
            self.pipeline.begun(mail)
        assert await done is None
        mail.kept = time.monotonic()
        if tell:
            self.pipeline.arrived(mail)
        return mail

    async def heard(self, count):
        await self.until(lambda: len(self.target.heard) >= count)
        return self.subjects()

    async def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.subjects()
            await asyncio.sleep(0.005)

    def subjects(self):
        return [event["mail"]["subject"] for event in self.target.heard]

    async def states(self):
        self.pipeline.ledger.write()
        await self.store.flush()
        return [mail.state for mail in reversed(self.store.mails(10_000))]

    async def close(self):
        await self.pipeline.stop()
        await self.pipeline.workers["t"].stop()
        await self.store.close()


@pytest.fixture
async def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    await made.close()


def mail(subject, size=0):
    return f"From: a@b\r\nSubject: {subject}\r\n\r\n".encode() + b"x" * size + b"\r\n"


async def test_what_was_kept_before_a_crash_is_interpreted_at_the_start_in_order(bench):
    for number in range(50):
        await bench.kept(mail(number), tell=False)
    bench.pipeline.resume()
    assert await bench.heard(50) == [str(number) for number in range(50)]
    assert await bench.states() == ["done"] * 50


async def test_mails_that_come_while_the_backlog_is_read_are_interpreted_once(bench):
    for number in range(20):
        await bench.kept(mail(number), tell=False)
    bench.pipeline.resume()
    for number in range(20, 40):
        await bench.kept(mail(number))
    assert await bench.heard(40) == [str(number) for number in range(40)]
    await asyncio.sleep(0)
    assert len(await bench.heard(40)) == 40


async def test_mails_are_not_passed_over_because_another_process_kept_one(bench):
    """`mailwire sendmail`, while the gateway started: its mail had a higher number than all that came after it."""
    other = Store(bench.store.folder)
    other.open()
    other.start()
    kept = asyncio.get_running_loop().create_future()
    envelope = Envelope("sendmail", "127.0.0.1", "h", "a@b", ["c@d"])
    other.keep(Mail(new_id(), time.time(), envelope, 0, state="replay", content=mail("theirs")), kept.set_result)
    assert await kept is None
    await other.close()
    bench.pipeline.resume()
    assert await bench.heard(1) == ["theirs"]
    await bench.kept(mail("ours"))
    assert await bench.heard(2) == ["theirs", "ours"]


async def test_more_than_memory_holds_waits_in_the_store(bench, monkeypatch):
    monkeypatch.setattr(module, "_BACKLOG", 10)
    monkeypatch.setattr(module, "_BACKLOG_BYTES", 500)
    bench.pipeline.resume()
    await asyncio.gather(*[bench.kept(mail(number, 100)) for number in range(200)])
    assert sorted(await bench.heard(200)) == sorted(str(number) for number in range(200))
    assert len(bench.target.heard) == 200
    assert bench.pipeline._queued_bytes == 0


async def test_a_mail_that_we_fail_on_holds_up_no_other(bench, monkeypatch, caplog):
    identify = bench.pipeline.registry.identify

    def fails(envelope, sender, subject, now):
        if subject == "poison":
            raise RuntimeError(subject)
        return identify(envelope, sender, subject, now)

    monkeypatch.setattr(bench.pipeline.registry, "identify", fails)
    for subject in ("before", "poison", "after"):
        await bench.kept(mail(subject), tell=False)
    bench.pipeline.resume()
    assert await bench.heard(2) == ["before", "after"]
    assert await bench.states() == ["done", "received", "done"]
    assert "stays as it is: no event could be made of it" in caplog.text
    assert "RuntimeError: poison" in caplog.text
    assert bench.pipeline.interpreter.restarts == 0


@pytest.mark.parametrize("failures", [1, 3, 50])
async def test_a_mail_for_whose_event_there_is_no_memory_is_finished_later_in_its_turn(bench, monkeypatch, failures):
    monkeypatch.setattr(module, "_AGAIN", 0.01)
    identify, troubles = bench.pipeline.registry.identify, [MemoryError()] * failures
    chance = random.Random(failures)

    def reluctant(*words):
        if troubles and chance.random() < 0.5:
            raise troubles.pop()
        return identify(*words)

    monkeypatch.setattr(bench.pipeline.registry, "identify", reluctant)
    for number in range(200):
        await bench.kept(mail(number), tell=False)
    bench.pipeline.resume()
    assert await bench.heard(200) == [str(number) for number in range(200)]


async def test_a_small_mail_never_overtakes_a_large_one_of_its_peer(bench):
    bench.pipeline.resume()
    for number in range(6):
        await bench.kept(mail(number, 0 if number % 2 else 2_000_000))
        await bench.kept(mail(f"other {number}"), peer="192.168.1.3")
    subjects = await bench.heard(12)
    assert [one for one in subjects if "other" not in one] == [str(number) for number in range(6)]


async def test_the_same_bytes_within_the_window_are_one_event(bench):
    bench.pipeline.resume()
    now = time.time()
    await bench.kept(mail("x"), received=now)
    await bench.kept(mail("x"), received=now + 59)
    await bench.kept(mail("x"), received=now + 59, peer="192.168.1.3")
    await bench.kept(mail("x"), received=now + 61)
    assert len(await bench.heard(3)) == 3
    assert await bench.states() == ["done", "duplicate", "done", "done"]


@pytest.mark.parametrize("other", [{"helo": "cam2"}, {"rcpt_to": ["other@gw"]}, {"mail_from": "other@lan"}], ids=str)
async def test_the_same_bytes_in_another_envelope_are_another_mail(bench, other):
    bench.pipeline.resume()
    await bench.kept(mail("x"))
    await bench.kept(mail("x"), **other)
    assert len(await bench.heard(2)) == 2


async def test_repeats_are_looked_for_among_so_many_mails(bench, monkeypatch):
    monkeypatch.setattr(module, "_RECENT", 2)
    bench.pipeline.resume()
    for subject in "aabca":
        await bench.kept(mail(subject))
    assert await bench.heard(4) == ["a", "b", "c", "a"]
    assert len(bench.pipeline._recent) == 2


async def test_a_repeat_is_known_across_a_restart(bench):
    bench.pipeline.resume()
    await bench.kept(mail("x"))
    await bench.heard(1)
    await bench.states()
    bench.pipeline._recent.clear()
    await bench.kept(mail("x"), tell=False)
    again = Pipeline(bench.store, bench.pipeline.registry)
    again.resume()
    await bench.until(lambda: again.duplicates)
    await again.stop()
    assert await bench.states() == ["done", "duplicate"]


async def test_no_window_no_duplicates(bench):
    bench.pipeline.duplicate_window = 0
    bench.pipeline.resume()
    for _ in range(3):
        await bench.kept(mail("x"))
    assert len(await bench.heard(3)) == 3


async def test_replay_is_never_a_duplicate_and_keeps_the_id(bench):
    bench.pipeline.resume()
    first = await bench.kept(mail("x"))
    await bench.heard(1)
    await bench.states()
    bench.store.alter("UPDATE mails SET state = 'replay' WHERE id = ?", [first.id])
    bench.pipeline.replay()
    bench.pipeline.replay()
    await bench.heard(2)
    assert {event["id"] for event in bench.target.heard} == {first.id}
    assert await bench.states() == ["done"]


async def test_more_replays_than_memory_holds_all_happen_once(bench):
    """More than 1,000: that many were read at a time, and those behind them stayed marked."""
    count = module._BACKLOG + 100
    made = [await bench.kept(mail(number)) for number in range(count)]
    await bench.heard(count)
    await bench.states()
    bench.store.alter("UPDATE mails SET state = 'replay'")
    bench.pipeline.replay()
    await bench.heard(2 * count)
    assert await bench.states() == ["done"] * count
    assert [event["id"] for event in bench.target.heard[count:]] == [one.id for one in made]
    assert bench.pipeline.depth == 0


async def test_a_start_reads_no_more_of_the_store_than_is_remembered(bench, monkeypatch):
    """What is a repeat of what was kept before the start is known without reading all that is kept."""
    monkeypatch.setattr(module, "_RECENT", 3)
    bench.pipeline.resume()
    for number in range(5):
        await bench.kept(mail(number))
    await bench.heard(5)
    await bench.states()
    bench.pipeline._recent.clear()
    bench.pipeline.resume()
    assert len(bench.pipeline._recent) == 3
    await bench.kept(mail(4))
    await bench.kept(mail(0))  # too long ago
    assert await bench.heard(6) == ["0", "1", "2", "3", "4", "0"]


async def test_a_replay_that_was_asked_for_while_the_gateway_was_away_happens_once(bench):
    first = await bench.kept(mail("x"), tell=False)
    bench.store.alter("UPDATE mails SET state = 'replay' WHERE id = ?", [first.id])
    bench.pipeline._read_more()
    bench.pipeline.replay()
    bench.pipeline.resume()
    await bench.heard(1)
    assert await bench.states() == ["done"]
    assert len(bench.target.heard) == 1


async def test_a_mail_whose_file_is_gone_is_said_and_passed_over(bench, caplog):
    await bench.kept(mail("x"), tell=False)
    bench.store.alter("UPDATE contents SET content = NULL, file = 'gone.eml'")
    await bench.kept(mail("y"), tell=False)
    bench.pipeline.resume()
    assert await bench.heard(1) == ["y"]
    assert await bench.states() == ["lost", "done"]
    assert "is no longer kept" in caplog.text


async def test_an_event_that_did_not_come_by_mail_is_kept_before_it_is_acknowledged(bench):
    event_id = await bench.pipeline.emit("panel", {"kind": "no such kind", "title": "t" * 300, "state": "odd"})
    event = bench.store.event(event_id)
    assert (event["kind"], event["state"], len(event["title"]), event["mail"]) == ("other", None, 200, None)
    assert event["source"] == "panel"


async def test_an_event_that_a_board_made_keeps_its_id_and_its_repeat_is_none(bench):
    draft = {"id": new_id(), "device": {"id": "front_door", "name": "Front door", "model": "X"}, "kind": "door"}
    draft |= {"state": "on", "time": iso_time(time.time() - 3600)}
    assert await bench.pipeline.emit("panel", draft) == draft["id"]
    assert await bench.pipeline.emit("panel", draft) == draft["id"]
    bench.pipeline._emitted.clear()  # as after a crash
    assert await bench.pipeline.emit("panel", draft) == draft["id"]
    ((_, event),) = bench.store.events()
    assert (event["id"], event["time"], event["device"]["model"]) == (draft["id"], draft["time"], "X")
    await bench.until(lambda: bench.target.heard)
    assert len(bench.target.heard) == 1
    device = bench.pipeline.registry.get("front_door")
    assert (device.name, device.states, device.mails) == ("Front door", {"door": "on"}, 1)


async def test_a_device_is_written_beside_the_event_that_changed_it(bench):
    for state in ("on", "off", "on"):
        event_id = await bench.pipeline.emit("panel", {"device": "door", "kind": "door", "state": state})
        (document,) = bench.store.devices()
        assert document["device"]["states"] == {"door": state}
        assert document["device"]["last_event"]["id"] == event_id


async def test_repeats_that_come_at_once_are_one_event(bench):
    draft = {"id": new_id(), "title": "Water"}
    ids = await asyncio.gather(*[bench.pipeline.emit("panel-1", draft) for _ in range(5)])
    assert set(ids) == {draft["id"]}
    ((_, event),) = bench.store.events()
    assert event["device"]["id"] == "panel_1"  # no device is named: it is the source itself


async def test_what_is_said_of_a_device_is_no_sign_of_its_life(bench):
    await bench.pipeline.emit("panel", {"device": "pump", "kind": "report"})
    known = bench.pipeline.registry.get("pump")
    assert known
    known.online = False
    seen, told = known.last_seen, known.mails
    await bench.pipeline.emit("panel", {"device": "pump", "kind": "test", "title": "Test of Pump", "heard": False})
    assert (known.last_seen, known.mails, known.online) == (seen, told, False)
    assert known.last_event
    assert known.last_event["title"] == "Test of Pump"


async def test_what_names_itself_like_a_topic_of_ours_gets_another_name(bench):
    await bench.pipeline.emit("panel", {"device": "bridge"})
    assert bench.pipeline.registry.get("bridge_2")


async def test_invented_devices_are_bounded(bench):
    for number in range(1 + Learn().per_peer):
        await bench.pipeline.emit("panel", {"device": f"device {number}"})
    (_, last) = bench.store.events()[-1]
    assert last["device"]["id"] == "unknown"
    await bench.pipeline.emit("door", {"device": "another source"})
    assert bench.pipeline.registry.get("another_source")


async def test_latency_counts_the_time_that_a_mail_waited_but_not_its_age_at_a_replay(bench):
    await bench.kept(mail("kept before a crash"), tell=False, received=time.time() - 3600)
    bench.pipeline.resume()
    await bench.heard(1)
    worker = bench.pipeline.workers["t"]
    assert bench.pipeline.interpreting.sum == pytest.approx(3600, abs=60)
    assert worker.whole.sum == pytest.approx(3600, abs=60)
    assert worker.delivering.sum < 60
    assert bench.pipeline.events == {"other": 1}

    await bench.states()
    bench.store.alter("UPDATE mails SET state = 'replay'")
    bench.pipeline.replay()
    await bench.heard(2)
    assert worker.whole.sum == pytest.approx(3600, abs=120)
    assert sum(worker.whole.counts) == sum(worker.delivering.counts) == 2


@pytest.mark.parametrize("size", [0, 300_000])
@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
async def test_a_mail_that_can_not_be_read_now_is_interpreted_later_in_its_turn(bench, monkeypatch, error, size):
    monkeypatch.setattr(module, "_AGAIN", 0.01)
    troubles, content = [error] * 3, bench.store.content

    def reluctant(mail):
        if troubles:
            raise troubles.pop()
        return content(mail)

    monkeypatch.setattr(bench.store, "content", reluctant)
    bench.pipeline.resume()
    for number in range(3):
        await bench.kept(mail(number, size))
    assert await bench.heard(3) == ["0", "1", "2"]
    assert await bench.states() == ["done"] * 3


async def test_a_store_that_can_not_be_read_now_is_read_later(bench, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 0.01)
    troubles, rows = [sqlite3.OperationalError("unable to open database file")] * 3, bench.store.rows

    def reluctant(sql, *values):
        if troubles and "FROM mails" in sql:
            raise troubles.pop()
        return rows(sql, *values)

    await bench.kept(mail("x"), tell=False)
    bench.pipeline.resume()
    monkeypatch.setattr(bench.store, "rows", reluctant)
    assert await bench.heard(1) == ["x"]
    assert not troubles


async def test_a_mail_whose_news_got_lost_is_interpreted_at_the_second_look(bench, caplog):
    bench.pipeline.resume()
    await bench.kept(mail("x"))
    await bench.heard(1)
    await bench.until(lambda: not bench.pipeline._behind)
    forgotten = await bench.kept(mail("y"), tell=False)
    await bench.pipeline.catch_up()
    assert await bench.heard(1) == ["x"]
    await bench.pipeline.catch_up()
    assert await bench.heard(2) == ["x", "y"]
    assert await bench.states() == ["done", "done"]
    assert f"mail {forgotten.id} was kept, but not interpreted yet: doing so now" in caplog.text
    for _ in range(3):
        await bench.pipeline.catch_up()
    assert await bench.heard(2) == ["x", "y"]


async def test_a_mail_is_interpreted_while_it_is_being_kept_and_is_an_event_when_it_is(bench):
    bench.pipeline.resume()
    await bench.until(lambda: not bench.pipeline._behind)
    early = Mail(new_id(), time.time(), Envelope("m", "192.0.2.1", "h", "a@b", ["c@d"]), 9, content=mail("early"))
    bench.pipeline.begun(early)
    await bench.until(lambda: not bench.pipeline.interpreter.depth)
    assert not bench.target.heard
    done = asyncio.get_running_loop().create_future()
    bench.store.keep(early, done.set_result)
    assert await done is None
    bench.pipeline.arrived(early)
    assert await bench.heard(1) == ["early"]
    assert await bench.states() == ["done"]
    assert bench.pipeline._queued_bytes == 0


async def test_mails_that_are_interpreted_early_keep_their_order_and_are_events_once(bench, monkeypatch):
    monkeypatch.setattr(module, "_BACKLOG", 10)
    bench.pipeline.resume()
    for number in range(100):
        await bench.kept(mail(number), early=True)
    await asyncio.gather(*[bench.kept(mail(number), early=True) for number in range(100, 300)])
    await bench.heard(300)
    assert await bench.states() == ["done"] * 300
    assert bench.subjects()[:100] == [str(number) for number in range(100)]
    assert len(bench.target.heard) == len(set(bench.subjects())) == 300
    assert bench.pipeline._queued_bytes == 0


async def test_of_a_mail_that_could_not_be_kept_nothing_is_left(bench):
    bench.pipeline.resume()
    await bench.until(lambda: not bench.pipeline._behind)
    bench.pipeline.begun(
        Mail(new_id(), time.time(), Envelope("m", "192.0.2.1", "h", "a@b", ["c@d"]), 9, content=mail("refused"))
    )
    await bench.kept(mail("kept"), early=True)
    assert await bench.heard(1) == ["kept"]
    assert not bench.pipeline.interpreter.depth


async def test_mails_that_wait_go_on_when_those_before_them_could_not_be_kept(bench, monkeypatch):
    bench.pipeline.resume()
    await bench.until(lambda: not bench.pipeline._behind)
    envelope = Envelope("m", "192.0.2.1", "h", "a@b", ["c@d"])
    while bench.pipeline.interpreter.room:  # a full disk, say
        bench.pipeline.begun(Mail(new_id(), time.time(), envelope, 9, content=mail("refused")))
    await bench.kept(mail("kept"))
    assert await bench.heard(1) == ["kept"]


async def test_a_target_may_claim_an_event_that_no_route_gives_it(bench):
    bench.pipeline.router = Router([], [], None)
    bench.target.claims = lambda event: event["title"] == "mine"
    bench.pipeline.claimants = {"t": bench.target}
    await bench.kept(b"Subject: not mine\n\n")
    await bench.kept(b"Subject: mine\n\n")
    assert await bench.heard(1) == ["mine"]


async def test_what_a_target_claims_is_not_held_back_as_what_people_are_told_is(bench):
    """A report of a mail that came back: within a summary, or as a repeat of another, nobody would read it."""
    rule = Rule(repeat=600, digest=times(["hourly"]))
    bench.pipeline.router = Router([Route(["t"], rule=rule)], [], None)
    bench.target.claims = lambda event: event["title"] == "mine"
    bench.pipeline.claimants = {"t": bench.target}
    await bench.kept(b"Subject: not mine\n\n")
    await bench.kept(b"Subject: mine\n\n1")
    await bench.kept(b"Subject: mine\n\n2")
    assert await bench.heard(2) == ["mine", "mine"]
    assert await bench.states() == ["done"] * 3
    assert [(one.state, one.event["title"]) for one in bench.store.deliveries()] == [("held", "not mine")]


async def test_who_is_kept_apart_is_not_told_later_either(bench):
    bench.pipeline.router = Router([Route(["t"], rule=Rule(digest=times(["hourly"])))], [], None)
    await bench.pipeline.emit("mailwire", {"title": "t: deliveries fail", "apart_from": "t"})
    assert bench.store.deliveries() == []


@pytest.mark.parametrize("crashed", [True, False])
async def test_an_event_with_files_that_is_repeated_is_one_and_fails_no_other(bench, crashed):
    """After a crash between its files and itself, or at once: its id was there already, and no mail could be kept."""
    draft = {"id": new_id(), "title": "Door", "files": [("a.txt", "text/plain", b"x")]}
    if crashed:
        await bench.pipeline.emit("m", draft)
        bench.store.alter("DELETE FROM events")
        bench.pipeline._emitted.clear()
        bench.target.heard.clear()
    ids = await asyncio.gather(*[bench.pipeline.emit("m", draft) for _ in range(2)])
    assert set(ids) == {draft["id"]}
    ((_, event),) = bench.store.events()
    assert [one["name"] for one in event["attachments"]] == ["a.txt"]
    await bench.until(lambda: bench.target.heard)
    assert len(bench.target.heard) == 1


async def test_what_came_otherwise_or_waits_anyway_is_not_interpreted_once_more(bench):
    event_id = await bench.pipeline.emit("m", {"title": "Door", "files": [("a.txt", "text/plain", b"x")]})
    waiting = await bench.kept(mail("x"), tell=False)
    assert bench.store.alter(REPLAY, [json.dumps([event_id, waiting.id])]) == 0
    assert await bench.states() == ["done", "received"]


async def test_a_replay_before_one_that_is_tried_again_holds_up_neither(bench, monkeypatch):
    older = await bench.kept(mail("older"))
    await bench.heard(1)
    await bench.states()
    one = await bench.kept(mail("one"), tell=False)
    bench.pipeline._hold_up(one, OSError("no"))
    bench.pipeline._go_on("192.168.1.2")
    bench.store.alter("UPDATE mails SET state = 'replay' WHERE id = ?", [older.id])
    bench.pipeline._give(bench.store.mail(older.id))
    assert await bench.heard(3) == ["older", "one", "older"]
    assert not bench.pipeline._held_up


async def test_a_mail_that_begins_before_the_one_before_it_is_taken_up_does_not_overtake_it(bench):
    first = await bench.kept(mail("first"), tell=False)
    bench.pipeline._behind = False
    bench.pipeline.arrived(first)
    await bench.kept(mail("second"), early=True)  # begun at once: a peer may send many in one go
    assert await bench.heard(2) == ["first", "second"]


async def keep_three(bench, told=lambda _: None):
    """Mails that share a commit: two come through the intake, the middle one is brought over from a store set aside."""
    intake = Intake(bench.store, bench.pipeline.arrived, reserve=0)

    def come(subject):
        receipt = intake.begin()
        receipt.write(mail(subject))
        receipt.commit(Envelope("m", "192.0.2.1", "h", "a@b", ["c@d"]), lambda *_: told(subject))

    content = mail("middle")
    middle = Mail(new_id(), time.time(), Envelope("m", "192.0.2.2", "h", "a@b", ["c@d"]), len(content), content=content)
    come("first")
    bench.store.keep(middle, lambda _: bench.pipeline.arrived(middle))
    come("last")
    await bench.store.flush()
    intake.close()


async def test_of_mails_that_are_kept_together_none_is_passed_over_whichever_way_it_came(bench):
    bench.pipeline.resume()
    await bench.until(lambda: not bench.pipeline._behind)
    await keep_three(bench)
    assert sorted(await bench.heard(3)) == ["first", "last", "middle"]


async def test_of_mails_that_are_kept_together_all_senders_are_told_first(bench, monkeypatch):
    heard = []
    monkeypatch.setattr(bench.pipeline, "_take_up", lambda: heard.append(bench.pipeline._kept.popleft().seq))
    await keep_three(bench, heard.append)
    await bench.until(lambda: len(heard) == 5)
    assert heard[:2] == ["first", "last"]
    assert heard[2:] == sorted(heard[2:])
