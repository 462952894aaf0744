"""The law, at a real gateway with a real broker: 250 means stored, and what is stored becomes an event."""

import contextlib
import json
import random
import smtplib
import socket
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.live import DEFAULT, Gateway, until
from tests.mosquitto import Listener, Mosquitto, free_port

WITH_BROKER = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{port}"}}
"""

NUMBERS = """\
title = "Acme counters"
group = "plant"
manufacturer = "Acme"
sources = ["the manual"]
[[clue]]
in = "subject"
words = "number"
points = 10
[[pattern]]
in = "subject"
regex = '^number (?P<job>\\d{1,9})$'
[fields]
size = { type = "number" }
[[mail]]
name = "job"
when = [{ subject = "number" }]
kind = "job"
title = "Job {job}"
data = { size = 10 }
"""


def mail(number, body="Input 3 active"):
    return f"From: plc@lan.example\r\nSubject: number {number}\r\n\r\n{body}\r\n".encode()


def send(port, numbers, acknowledged=None):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        for number in numbers:
            smtp.sendmail("plc@lan.example", ["alerts@gw"], mail(number))
            if acknowledged is not None:
                acknowledged.append(number)


def heard(listener):
    """The events that a listener got so far."""
    return [json.loads(payload) for topic, payload, _ in list(listener.messages) if topic.endswith("/event")]


def send_without_end(port, acknowledged, target, enough, chance, number):
    """Numbered mails until the gateway is gone; `enough` is set when `target` of all were acknowledged."""
    with contextlib.suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        while True:
            smtp.sendmail("plc@lan.example", ["alerts@gw"], mail(number, "x" * chance.randrange(5000)))
            acknowledged.append(number)
            if len(acknowledged) >= target:
                enough.set()
            number += 1


def subjects(events):
    return Counter(event["mail"]["subject"] for event in events)


@pytest.fixture
def broker(tmp_path):
    running = Mosquitto(tmp_path / "broker").start()
    yield running
    running.stop()


def test_what_was_acknowledged_is_listed_and_becomes_an_event(tmp_path):
    with Gateway(tmp_path / "a b") as gateway:
        send(gateway.port, range(20))
        events = gateway.settled(20)
        assert subjects(events) == Counter(f"number {number}" for number in range(20))
        row = gateway.mails()[0]
        assert sorted(row) == sorted(
            ["id", "received", "mail_from", "rcpt_to", "size", "sha256", "peer", "helo", "state"]
        )
        assert (row["mail_from"], row["rcpt_to"], row["peer"]) == ("plc@lan.example", ["alerts@gw"], "127.0.0.1")
        assert gateway.cli("mails", events[0]["id"], "--raw").stdout == mail(0)
        assert gateway.terminate() == 0


def test_an_event_has_the_shape_that_others_rely_on(tmp_path):
    with Gateway(tmp_path) as gateway:
        send(gateway.port, [7])
        event = gateway.settled(1)[0]
    assert list(event) == [
        "v", "id", "time", "source", "device", "kind", "state", "severity", "title", "text", "data", "attachments",
        "mail",
    ]  # fmt: skip
    assert event["device"]["id"] == "plc"
    assert event["source"] == "lan-mail"
    assert event["text"].strip() == "Input 3 active"
    assert event["mail"] == {
        "from": "plc@lan.example",
        "to": ["alerts@gw"],
        "subject": "number 7",
        "message_id": None,
        "helo": event["mail"]["helo"],
        "peer": "127.0.0.1",
    }


def test_broker_away_gateway_killed_and_everything_still_arrives(tmp_path, broker):
    gateway = Gateway(tmp_path, WITH_BROKER.format(port=broker.port)).start()
    broker.stop()
    send(gateway.port, range(20))
    gateway.kill()
    broker.start()
    with Listener(broker.port, "mailwire/+/event") as subscriber, gateway:
        until(lambda: len({event["id"] for event in heard(subscriber)}) == 20, "20 events")
        events = {event["id"]: event for event in heard(subscriber)}
    assert subjects(events.values()) == Counter(f"number {number}" for number in range(20))


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_in_the_middle_of_load_loses_nothing_acknowledged(tmp_path, broker, seed):
    chance = random.Random(seed)
    gateway = Gateway(tmp_path, WITH_BROKER.format(port=broker.port))
    acknowledged: list[int] = []
    with Listener(broker.port, "mailwire/+/event") as subscriber:
        for round_ in range(3):
            gateway.start()
            enough = threading.Event()
            target = len(acknowledged) + chance.randrange(20, 200)
            load = partial(send_without_end, gateway.port, acknowledged, target, enough, chance)
            threads = [threading.Thread(target=load, args=((round_ * 10 + lane) * 100_000,)) for lane in range(4)]
            for thread in threads:
                thread.start()
            assert enough.wait(30)
            gateway.kill()
            for thread in threads:
                thread.join()
        with gateway:
            wanted = {f"number {number}" for number in acknowledged}
            until(lambda: wanted <= {event["mail"]["subject"] for event in heard(subscriber)})
            until(lambda: all(row["state"] == "done" for row in gateway.mails()))
            kept = gateway.events()
    assert wanted <= set(subjects(kept))
    assert max(subjects(kept).values()) == 1
    ids: dict[str, set[str]] = {}
    for event in heard(subscriber):
        ids.setdefault(event["mail"]["subject"], set()).add(event["id"])
    assert {len(one) for one in ids.values()} == {1}, "an event was given a second id"


def test_a_peer_that_hangs_up_after_its_final_dot_loses_nothing(tmp_path):
    lines = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + mail(1) + b".\r\n"
    with Gateway(tmp_path) as gateway:
        for how in ("close", "reset"):
            with socket.create_connection(("127.0.0.1", gateway.port)) as peer:
                if how == "reset":
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    peer.recv(100)
                peer.sendall(lines.replace(b"number 1", b"number " + how.encode()))
                if how == "reset":
                    answers = b""
                    while b"250 2.0.0" not in answers:
                        answers += peer.recv(4096)
        assert set(subjects(gateway.settled(2))) == {"number close", "number reset"}


def test_the_same_mail_twice_is_one_event_and_two_250s(tmp_path):
    with Gateway(tmp_path) as gateway:
        send(gateway.port, [1, 1, 2])
        events = gateway.settled(3)
        assert subjects(events) == {"number 1": 1, "number 2": 1}
        assert [row["state"] for row in gateway.mails()].count("duplicate") == 1


def test_a_replayed_mail_is_interpreted_once_more_with_its_id(tmp_path, broker):
    with Gateway(tmp_path, WITH_BROKER.format(port=broker.port)) as gateway:
        with Listener(broker.port, "mailwire/+/event") as subscriber:
            send(gateway.port, [1])
            event = gateway.settled(1)[0]
            until(lambda: len(subscriber.messages) == 1)
            gateway.cli("replay", event["id"])
            until(lambda: len(subscriber.messages) == 2)
        assert heard(subscriber)[1]["id"] == event["id"]


def test_the_picture_the_state_and_the_discovery_are_there(tmp_path, broker):
    picture = b"\xff\xd8\xff\xe0picture"
    with Gateway(tmp_path, WITH_BROKER.format(port=broker.port)) as gateway:
        with Listener(broker.port, "mailwire/#", "homeassistant/#") as subscriber:
            file = tmp_path / "snap.jpg"
            file.write_bytes(picture)
            gateway.cli("send", f"127.0.0.1:{gateway.port}", "--subject", "Motion detected", "--picture", str(file))
            until(
                lambda: any(
                    topic.endswith("/state") and topic.startswith("mailwire/") and "bridge" not in topic
                    for topic, _, _ in subscriber.messages
                )
            )
            until(lambda: any(topic.endswith("/event") for topic, _, _ in subscriber.messages))
        topics = {topic: payload for topic, payload, _ in subscriber.messages}
        device = next(topic.split("/")[1] for topic in topics if topic.endswith("/event"))
        order = [topic for topic, _, _ in subscriber.messages]
        assert topics[f"mailwire/{device}/image"] == picture
        assert order.index(f"mailwire/{device}/image") < order.index(f"mailwire/{device}/event")
        config = f"homeassistant/device/mailwire_{device}/config"
        assert order.index(config) < order.index(f"mailwire/{device}/event")
        assert {part["platform"] for part in json.loads(topics[config])["components"].values()} >= {
            "event",
            "sensor",
            "image",
        }
        assert json.loads(topics["mailwire/bridge/state"]) == {"state": "online"}
        with Listener(broker.port, "mailwire/bridge/state") as late:
            gateway.kill()
            until(lambda: late.newest("mailwire/bridge/state") == {"state": "offline"})


def test_reload_restarts_what_changed_and_keeps_connections(tmp_path):
    with Gateway(tmp_path) as gateway, contextlib.closing(smtplib.SMTP("127.0.0.1", gateway.port, timeout=30)) as smtp:
        old, new = gateway.port, free_port()
        smtp.ehlo()
        smtp.mail("plc@lan.example")
        smtp.rcpt("a@gw")
        gateway.config.write_text(f'integrations:\n  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:{new}"]}}\n')
        gateway.hang_up()
        gateway.logged("configuration read again: restarted lan-mail")
        send(new, [2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", old))
        assert smtp.data(mail(1))[0] == 250
        assert smtp.getreply()[0] == 421
        assert set(subjects(gateway.settled(2))) == {"number 1", "number 2"}


def test_ones_own_profile_counts_and_is_read_again(tmp_path):
    with Gateway(tmp_path) as gateway:
        folder = gateway.config.parent / "profiles"
        folder.mkdir()
        profile = folder / "numbers.toml"
        profile.write_text(NUMBERS, encoding="utf-8")
        gateway.hang_up()
        gateway.logged("configuration read again")
        send(gateway.port, [1])
        (event,) = gateway.settled(1)
        assert (event["kind"], event["title"], event["data"]["size"]) == ("job", "Job 1", 10)
        assert (event["device"]["manufacturer"], event["device"]["profile"]) == ("Acme", "numbers")
        profile.write_text(NUMBERS.replace('"job"', '"jobb"'), encoding="utf-8")
        gateway.hang_up()
        gateway.logged("the new configuration is refused, the old one goes on")
        gateway.logged(r"numbers.toml:14: mail\[0\].kind: 'jobb' is no kind of event. Did you mean 'job'")
        send(gateway.port, [2])
        assert {event["title"] for event in gateway.settled(2)} == {"Job 1", "Job 2"}


def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(tmp_path):
    with Gateway(tmp_path) as gateway:
        gateway.config.write_text("integrations:\n  lan-mail: {type: smtp_sever}\nrutes: []\n")
        gateway.hang_up()
        gateway.logged("the new configuration is refused, the old one goes on")
        gateway.logged(r"mailwire.yaml:2: .*smtp_sever.*smtp_server")
        gateway.logged(r"mailwire.yaml:3: .*rutes.*routes")
        send(gateway.port, [1])
        gateway.settled(1)


def test_a_graceful_stop_finishes_what_is_in_flight(tmp_path):
    with Gateway(tmp_path) as gateway, contextlib.closing(smtplib.SMTP("127.0.0.1", gateway.port, timeout=30)) as smtp:
        smtp.ehlo()
        smtp.mail("plc@lan.example")
        smtp.rcpt("a@gw")
        assert smtp.docmd("DATA")[0] == 354
        gateway.process.terminate()
        gateway.logged("stopping: what is in flight is finished first")
        smtp.send(mail(1) + b".\r\n")
        assert smtp.getreply()[0] == 250
        assert smtp.getreply()[0] == 421
        assert gateway.process.wait(30) == 0
    assert [row["state"] for row in gateway.mails()] == ["done"]


def test_a_port_in_use_is_said_and_taken_when_it_is_free(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = Gateway(
            tmp_path, f'integrations:\n  m: {{type: smtp_server, listen: ["127.0.0.1:{port}"]}}\n'
        ).start()
        assert f"retrying: 127.0.0.1:{port} is taken by another program: stop that one, or choose" in gateway.greeting
    until(lambda: _answers(port), "listening")
    send(port, [1])
    gateway.settled(1)
    assert gateway.terminate() == 0


def _answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_gateway_that_can_never_listen_ends_and_says_why(tmp_path):
    missing = tmp_path / "no.pem"
    gateway = Gateway(
        tmp_path, f'integrations:\n  m: {{type: smtp_server, listen: ["127.0.0.1:0"], certificate: "{missing}"}}\n'
    )
    done = gateway.cli("run", check=False)
    assert done.returncode == 1
    assert str(missing) in done.stderr.decode()


BOTH = """
from gateway.api import ConfigModel, ConfigPath, NotReady, Source, Target

class Config(ConfigModel):
    notes: ConfigPath

class Both(Source, Target):
    def note(self, text):
        with self.config.notes.open("a") as notes:
            notes.write(text + "\\n")

    async def start(self):
        if not (self.config.notes.parent / "go").exists():
            raise NotReady("it waits for a sign")
        self.note("start")

    async def stop(self):
        self.note("stop")

    async def deliver(self, event):
        self.note(event["title"])
"""


def test_an_integration_may_be_source_and_target_at_once_and_is_given_nothing_before_its_start(tmp_path):
    folder = tmp_path / "custom_integrations" / "both"
    folder.mkdir(parents=True)
    manifest = {"domain": "both", "name": "Both", "version": "1", "provides": ["source", "target"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "__init__.py").write_text(BOTH)
    config = DEFAULT + "  both: {type: both, notes: notes.txt}\nroutes: [{to: both}]\n"
    with Gateway(tmp_path, config) as gateway:
        send(gateway.port, [1])
        until(lambda: [row["target"] for row in gateway.json("queue")] == ["both"], "it is owed")
        (tmp_path / "go").touch()
        until(lambda: (tmp_path / "notes.txt").exists() and "number 1" in (tmp_path / "notes.txt").read_text())
    assert (tmp_path / "notes.txt").read_text().split("\n") == ["start", "number 1", "stop", ""]


def test_two_gateways_do_not_share_a_data_folder(tmp_path):
    with Gateway(tmp_path) as gateway:
        done = gateway.cli("run", check=False)
        assert done.returncode == 1
        assert "another gateway already runs with this data folder" in done.stderr.decode()


# --- memory budgets (DESIGN: at most 60 MiB idle, five 20 MB mails add at most 16 MiB) --------------------------------


def memory(pid, field="VmRSS"):
    """KiB, of the gateway's process alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(field + ":")[1].split()[0])


def test_memory_idle_and_under_five_large_mails(tmp_path, broker):
    with Gateway(tmp_path, WITH_BROKER.format(port=broker.port)) as gateway:
        send(gateway.port, range(50))
        gateway.settled(50)
        idle = memory(gateway.pid)
        assert idle <= 60 * 1024
        content = mail("big") + (b"x" * 76 + b"\r\n") * (20 * 1024 * 1024 // 78)

        def large(lane):
            with smtplib.SMTP("127.0.0.1", gateway.port, timeout=60) as smtp:
                smtp.sendmail("plc@lan.example", ["a@gw"], content.replace(b"big", b"big %d" % lane))

        threads = [threading.Thread(target=large, args=(lane,)) for lane in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gateway.settled(55)
        # A memory map of a spooled mail is counted as resident, but it is the page cache's; anonymous memory is ours.
        grown = memory(gateway.pid, "VmHWM") - idle
        mapped = memory(gateway.pid, "RssFile")
        assert grown <= 16 * 1024, f"peak grew by {grown} KiB ({mapped} KiB of files mapped now)"
