"""The commands that look into the store of a gateway, and those that change it."""

import asyncio
import hashlib
import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime

import pytest

from gateway.store import LOCK, Store
from tests.gateway.test_cli.cli_mails import CHINESE, MOTION, NASTY, Away, again

COMMAND = [sys.executable, "-m", "gateway"]


def reading(data):
    store = Store(data)
    store.open()
    return store


class Running:
    """Holds the gateway's lock, as a running gateway does."""

    def __init__(self, data):
        self.store = Store(data)

    def __enter__(self):
        self.store.open(exclusive=True)

    def __exit__(self, *_):
        asyncio.run(self.store.close())


# --- events --------------------------------------------------------------------------------------------------------


def test_events_are_listed_with_the_newest_last(mailwire, data, ids):
    result = mailwire("events", "--data", data)
    assert result.code == 0
    assert result.lines[0].split() == ["TIME", "DEVICE", "KIND", "STATE", "SEVERITY", "TITLE"]
    store = reading(data)
    for line, mail_id in zip(result.lines[1:], ids, strict=True):
        event = store.event(mail_id)
        assert line.split()[2] == event["device"]["id"]
        assert line.split()[3] == event["kind"]
        when = datetime.fromisoformat(event["time"]).astimezone()
        assert line.startswith(when.strftime("%Y-%m-%d %H:%M:%S  "))


def test_events_as_json_are_the_events_themselves(mailwire, data, ids):
    result = mailwire("events", "--data", data, "--json")
    assert result.documents == [reading(data).event(mail_id) for mail_id in ids]
    assert "移动侦测报警" in result.out


def test_events_of_one_device_and_of_a_limit(mailwire, data, ids):
    device = reading(data).event(ids[1])["device"]["id"]
    assert [event["id"] for event in mailwire("events", "--data", data, "--json", "--device", device).documents] == [
        ids[1]
    ]
    assert [event["id"] for event in mailwire("events", "--data", data, "--json", "-n", "2").documents] == ids[1:]
    assert mailwire("events", "--data", data, "--json", "-n", "0").out == ""
    refused = mailwire("events", "--data", data, "-n", "many")
    assert refused.code == 2
    assert "argument --limit/-n: 'many' is no count; write 0 or more" in refused.err


@pytest.mark.parametrize(
    "words", [["events"], ["events", "--json"], ["mails"], ["mails", "--json"], ["queue"], ["devices"]]
)
def test_what_came_by_mail_never_reaches_the_terminal_raw(mailwire, data, ids, words):
    out = mailwire(*words, "--data", data).out
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert len(out.splitlines()) == len(ids) * (2 if words == ["queue"] else 1) + ("--json" not in words)


def test_without_a_store_there_is_a_clear_word_and_nothing_is_made(mailwire, data):
    for words in (["events"], ["mails"], ["queue"], ["devices"], ["replay", "X"], ["queue", "retry", "--all"]):
        result = mailwire(*words, "--data", data)
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            f"{data}: there is no store here yet. It is made when the gateway runs for the first time "
            "(`mailwire run`); if it keeps its data elsewhere, name that folder with --data.\n"
        )
    assert not data.exists()


def test_a_file_that_is_no_store_is_said_to_be_none(mailwire, data):
    data.mkdir()
    (data / "mailwire.db").write_bytes(b"not a database at all" * 100)
    result = mailwire("events", "--data", data)
    assert result.code == 1
    assert f"{data}/mailwire.db: the database is damaged: file is not a database." in result.err


def test_a_store_that_was_damaged_is_no_traceback(mailwire, data, ids):
    with (data / "mailwire.db").open("r+b") as file:  # the first page and its list of tables stay as they are
        file.seek(0, 2)
        length = file.tell()
        file.seek(4096)
        file.write(b"\xff" * (length - 4096))
    result = mailwire("events", "--data", data)
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"{data}/mailwire.db: the database is damaged: database disk image is malformed. "
        "The gateway sets it aside when it starts (it deletes nothing), begins a new one, and brings over what is "
        "owed.\n"
    )


class Following:
    """`mailwire events --follow --json` in a process of its own."""

    def __init__(self, data, *words):
        command = [*COMMAND, "events", "--follow", "--json", "--data", str(data), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.thread = threading.Thread(target=lambda: [self.lines.put(line) for line in self.process.stdout])

    def __enter__(self):
        self.thread.start()
        return self

    def next(self, patience=30):
        return json.loads(self.lines.get(timeout=patience))

    def end(self):
        """What Ctrl-C does: (exit code, standard error)."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30), self.process.stderr.read()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


def test_followed_events_come_as_they_are_made(data, ids, fill):
    with Following(data) as following:
        assert [following.next()["id"] for _ in ids] == ids
        (new,) = fill(again(MOTION))
        assert following.next()["id"] == new
        more = fill(again(NASTY), again(CHINESE))
        assert [following.next()["id"] for _ in more] == more
        assert following.end() == (0, "")


def test_following_one_device_passes_over_the_others(data, ids, fill):
    device = reading(data).event(ids[0])["device"]["id"]
    with Following(data, "--device", device, "--limit", "1") as following:
        assert following.next()["id"] == ids[0]
        _, new = fill(again(NASTY), again(MOTION))
        assert following.next()["id"] == new
        assert following.end() == (0, "")


def test_a_reader_that_has_seen_enough_is_no_error(data, ids):
    line = f"'{sys.executable}' -m gateway events --json --data '{data}' | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["id"] == ids[0]


# --- mails ---------------------------------------------------------------------------------------------------------


def test_mails_as_json_have_exactly_these_keys(mailwire, data, ids):
    documents = mailwire("mails", "--data", data, "--json").documents
    assert [document["id"] for document in documents] == ids
    first = documents[0]
    assert list(first) == ["id", "received", "mail_from", "rcpt_to", "size", "sha256", "peer", "helo", "state"]
    assert first["mail_from"] == "cam@lan"
    assert first["rcpt_to"] == ["motion@gw"]
    assert first["size"] == len(MOTION[1])
    assert first["sha256"] == hashlib.sha256(MOTION[1]).hexdigest()
    assert (first["peer"], first["helo"], first["state"]) == ("192.168.1.20", "cam-20", "done")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["received"])
    assert documents[1]["helo"] == NASTY[0].helo


def test_mails_are_listed_in_columns(mailwire, data, ids):
    result = mailwire("mails", "--data", data)
    assert result.lines[0].split() == ["ID", "RECEIVED", "FROM", "TO", "SIZE", "PEER", "HELO", "STATE"]
    assert [line.split()[0] for line in result.lines[1:]] == ids
    assert "nas@lan   a@gw, b@gw" in result.lines[2]
    assert r"\x1b]0;owned\x07nas9\u202e" in result.lines[2]
    assert len({line.index("192.168.1") for line in result.lines[1:]}) == 1


def test_mails_of_a_device(mailwire, data, ids):
    device = reading(data).event(ids[2])["device"]["id"]
    assert [mail["id"] for mail in mailwire("mails", "--data", data, "--json", "--device", device).documents] == [
        ids[2]
    ]
    assert mailwire("mails", "--data", data, "--device", "nobody").out == "No mails are kept.\n"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_bytes_of_a_mail_are_the_bytes_that_came(data, ids, number):
    result = subprocess.run(
        [*COMMAND, "mails", ids[number], "--raw", "--data", str(data)], capture_output=True, timeout=60, check=True
    )
    assert result.stdout == (MOTION, NASTY, CHINESE)[number][1]


def test_a_large_mail_that_lies_in_a_file_is_written_whole(data, fill):
    content = b"Subject: large\r\n\r\n" + bytes(range(256)) * 12_000
    (mail_id,) = fill((MOTION[0], content))
    assert reading(data).mail(mail_id).file
    command = [*COMMAND, "mails", mail_id, "--raw", "--data", str(data)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == content


def test_one_mail_with_all_that_is_known(mailwire, data, ids):
    result = mailwire("mails", ids[0], "--data", data)
    assert result.code == 0
    known = dict(line.split("  ", 1) for line in result.lines)
    known = {key.strip(): value.strip() for key, value in known.items()}
    assert known["from"] == "cam@lan"
    assert known["tls"] == "TLSv1.3"
    assert known["user"] == "cam"
    assert known["subject"] == "Motion detected"
    assert known["size"] == f"{len(MOTION[1])} bytes"
    assert known["attachment 0"] == "ch01.png, image/png, 1.3 KiB"
    assert known["owed to siren"] == "dead: no such siren"
    assert known["owed to broker"] == "waiting"
    assert reading(data).event(ids[0])["device"]["id"] in known["event"]
    (document,) = mailwire("mails", ids[0], "--data", data, "--json").documents
    assert document["sha256"] == hashlib.sha256(MOTION[1]).hexdigest()
    assert document["details"] == {"tls": "TLSv1.3", "user": "cam"}
    assert document["event"] == reading(data).event(ids[0])
    assert [(owed["target"], owed["state"]) for owed in document["owed"]] == [("broker", "waiting"), ("siren", "dead")]


def test_a_mail_that_is_not_there(mailwire, data, ids):
    for words in (["mails", "01XY"], ["mails", "01XY", "--raw"]):
        result = mailwire(*words, "--data", data)
        assert (result.code, result.err) == (1, "01XY: no such mail is kept. `mailwire mails` lists those that are.\n")
    result = mailwire("mails", "--raw", "--data", data)
    assert (result.code, result.err) == (2, "Which mail? Write: mailwire mails ID --raw\n")
    for words in (["--anonymous"], ["01XY", "--anonymous", "--raw"]):
        result = mailwire("mails", *words, "--data", data)
        assert (result.code, result.err) == (2, "Which mail? Write: mailwire mails ID --anonymous\n")


# --- replay --------------------------------------------------------------------------------------------------------


def states(data):
    return dict(reading(data).rows("SELECT id, state FROM mails"))


def test_replay_marks_mails_and_says_when_they_are_taken(mailwire, data, ids):
    result = mailwire("replay", ids[0], ids[2], "--data", data)
    assert result.out == "2 mails to be interpreted once more, when the gateway runs again: it does not run now.\n"
    assert result.code == 0
    assert states(data) == {ids[0]: "replay", ids[1]: "done", ids[2]: "replay"}
    with Running(data):
        assert (
            mailwire("replay", ids[1], "--data", data).out == "1 mail to be interpreted once more, within a second.\n"
        )


def test_replay_lists_ids_that_are_unknown(mailwire, data, ids):
    result = mailwire("replay", "01NOPE", ids[1], "--data", data)
    assert result.code == 1
    assert result.lines[0] == "01NOPE: no such mail is kept"
    assert states(data)[ids[1]] == "replay"


def test_replay_by_time_and_by_device(mailwire, data, ids):
    device = reading(data).event(ids[1])["device"]["id"]
    assert mailwire("replay", "--since", "2020-01-01", "--device", device, "--data", data).code == 0
    assert states(data) == {ids[0]: "done", ids[1]: "replay", ids[2]: "done"}
    assert mailwire("replay", "--since", "2120-01-01T10:00", "--data", data).code == 1
    assert mailwire("replay", "--since", "2020-01-01", "--data", data).code == 0
    assert set(states(data).values()) == {"replay"}


def test_replay_wants_to_know_which(mailwire, data, ids):
    result = mailwire("replay", "--data", data)
    assert result.code == 2
    assert result.err == (
        "Which mails? Name their ids (`mailwire mails` lists them), or say --since TIME or --device ID.\n"
    )
    result = mailwire("replay", "--since", "yesterday", "--data", data)
    assert result.code == 2
    assert "'yesterday' is no time; write 2026-11-22 or 2026-11-22T19:11" in result.err


# --- queue ---------------------------------------------------------------------------------------------------------


def owed(data):
    return sorted((row.event_id, row.target, row.state) for row in reading(data).deliveries())


def test_the_queue_is_listed_with_its_reasons(mailwire, data, ids):
    result = mailwire("queue", "--data", data)
    assert result.code == 1  # some of it has failed
    assert mailwire("queue", "--target", "broker", "--data", data).code == 0
    assert result.lines[0].split() == ["ID", "TARGET", "DEVICE", "STATE", "TRIES", "NEXT", "TRY", "REASON"]
    assert len(result.lines) == 7
    assert result.lines[2].split()[-3:] == ["no", "such", "siren"]
    documents = mailwire("queue", "list", "--state", "dead", "--json", "--data", data).documents
    assert [document["id"] for document in documents] == ids
    assert list(documents[0]) == ["id", "target", "device", "state", "attempts", "due", "expires", "reason"]
    assert (documents[0]["target"], documents[0]["reason"], documents[0]["due"]) == ("siren", "no such siren", None)
    assert len(mailwire("queue", "list", ids[0], "--target", "broker", "--json", "--data", data).documents) == 1


def test_an_empty_queue_is_good_news(mailwire, data, fill):
    fill(MOTION)
    assert mailwire("queue", "--data", data).out == "Nothing is owed: all targets have had what they should.\n"
    assert mailwire("queue", "--json", "--data", data).out == ""


def test_retry_makes_them_due_and_gives_the_expired_new_time(mailwire, data, ids):
    store = reading(data)
    store.alter("UPDATE deliveries SET state = 'expired', expires = 1 WHERE event = ? AND target = 'broker'", [ids[0]])
    before = {row.event_id: row.expires for row in store.deliveries(target="siren")}
    result = mailwire("queue", "retry", ids[0], "--data", data)
    assert result.out == "2 deliveries tried again when the gateway runs again: it does not run now.\n"
    rows = {row.target: row for row in store.deliveries() if row.event_id == ids[0]}
    assert {(row.state, row.due) for row in rows.values()} == {("waiting", 0)}
    assert rows["siren"].expires == before[ids[0]]
    assert time.time() + 23 * 3600 < rows["broker"].expires < time.time() + 25 * 3600
    with Running(data):
        result = mailwire("queue", "retry", "--state", "dead", "--target", "siren", "--data", data)
    assert result.out == "2 deliveries tried again within a second.\n"
    assert {row.state for row in store.deliveries()} == {"waiting"}


def test_drop_wants_a_yes(mailwire, data, ids, monkeypatch):
    result = mailwire("queue", "drop", ids[0], "--data", data)
    assert result.code == 2
    assert result.err == "2 deliveries would be dropped for good. Say --yes where nobody can be asked.\n"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = []
    answers = iter(["n", "y"])
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or next(answers))
    result = mailwire("queue", "drop", ids[0], "--data", data)
    assert (result.code, result.out) == (1, "Nothing was dropped.\n")
    assert asked == ["Drop 2 deliveries for good? [y/N] "]
    assert len(owed(data)) == 6
    assert mailwire("queue", "drop", ids[0], "--data", data).out == "2 deliveries dropped.\n"
    assert (
        mailwire("queue", "drop", ids[1], "--target", "siren", "--yes", "--data", data).out == "1 delivery dropped.\n"
    )
    assert owed(data) == [(ids[1], "broker", "waiting"), (ids[2], "broker", "waiting"), (ids[2], "siren", "dead")]


def test_the_queue_knows_what_it_does_not_know(mailwire, data, ids):
    result = mailwire("queue", "retry", "01NOPE", ids[0], "--data", data)
    assert result.code == 1
    assert result.lines[0] == "01NOPE: nothing like that is owed"
    assert result.lines[1].startswith("2 deliveries tried again")
    assert mailwire("queue", "retry", "--data", data).err == "Retry what? Name ids, --target, --state, or --all.\n"
    assert mailwire("queue", "drop", "--data", data).code == 2
    assert mailwire("queue", "retry", "--all", "--data", data).out.startswith("6 deliveries")


# --- devices -------------------------------------------------------------------------------------------------------


def test_devices_are_listed(mailwire, data, ids):
    known = [reading(data).event(mail_id)["device"]["id"] for mail_id in ids]
    result = mailwire("devices", "--data", data)
    assert result.lines[0].split() == [
        *("ID", "NAME", "MANUFACTURER", "MODEL", "PROFILE", "KINDS", "LAST", "SEEN", "MAILS", "STATES")
    ]
    assert {line.split()[0] for line in result.lines[1:]} == set(known)
    documents = {document["id"]: document for document in mailwire("devices", "--json", "--data", data).documents}
    assert documents[known[0]]["mails"] == 1
    assert documents[known[0]]["last_event"]["id"] == ids[0]
    assert documents[known[0]]["last_seen"] == mailwire("mails", "--json", "--data", data).documents[0]["received"]


def test_a_device_is_renamed_and_forgotten_while_no_gateway_runs(mailwire, data, ids):
    first, second, _ = (reading(data).event(mail_id)["device"]["id"] for mail_id in ids)
    result = mailwire("devices", "rename", first, "Garden gate", "--data", data)
    assert (result.code, result.out) == (0, f"{first} is now called Garden gate.\n")
    assert mailwire("devices", "forget", second, "--data", data).out == f"{second} is forgotten.\n"
    names = {device["id"]: device["name"] for device in mailwire("devices", "--json", "--data", data).documents}
    assert names[first] == "Garden gate"
    assert second not in names
    assert len(names) == 2


def test_a_running_gateway_is_asked_over_mqtt(mailwire, data, ids):
    with Running(data):
        result = mailwire("devices", "rename", "cam", "It's mine", "--data", data)
    assert result.code == 1
    assert result.err == (
        "The gateway runs, and holds its devices in memory. Ask it over MQTT (or stop it first):\n"
        "  mosquitto_pub -t mailwire/bridge/request/rename "
        """-m '{"device": "cam", "name": "It'"'"'s mine"}'\n"""
    )


def test_devices_that_can_not_be_changed(mailwire, data, ids, here):
    assert mailwire("devices", "rename", "nobody", "N", "--data", data).err == (
        "nobody: no such device is known. `mailwire devices` lists those that are.\n"
    )
    (here / "mailwire.yaml").write_text("devices:\n  gate: {match: {from: gate@lan}}\n")
    result = mailwire("devices", "rename", "gate", "Gate", "--data", data)
    assert (result.code, result.err) == (1, "gate is named in the configuration; change its name there.\n")
    assert mailwire("devices", "rename", "gate", "--data", data).err == "Write: mailwire devices rename ID NAME\n"
    assert mailwire("devices", "forget", "--data", data).err == "Write: mailwire devices forget ID\n"
    assert mailwire("devices", "list", "gate", "--data", data).code == 2
    assert not (data / LOCK).read_bytes()


# --- together with a gateway ---------------------------------------------------------------------------------------


def test_what_was_retried_is_delivered_by_the_next_gateway(mailwire, data, ids, fill):
    delivered = []

    class Taking(Away):
        async def deliver(self, event):
            delivered.append(event["id"])

    mailwire("queue", "retry", "--state", "dead", "--data", data)
    mailwire("replay", ids[1], "--data", data)
    fill(siren=Taking)
    assert set(delivered) == set(ids)
    assert states(data)[ids[1]] == "done"


def test_an_anonymous_mail_says_what_it_is_taken_for(ids, data):
    done = subprocess.run(
        [*COMMAND, "mails", ids[0], "--anonymous", "--data", str(data)], capture_output=True, timeout=60, check=True
    )
    assert b"Front door" not in done.stdout
    assert b"@lan" not in done.stdout
    assert done.stderr.decode() == (
        "It is motion on, warning, by the profile generic, as before. Read it before you give it away: a name in a "
        "sentence may be left.\n"
    )
