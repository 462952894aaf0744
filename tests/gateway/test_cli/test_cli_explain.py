"""`explain`: a dry run from a mail's bytes to its topics."""

import base64
import io
import sys
from types import SimpleNamespace

import pytest

from gateway.store import FILE, Store
from tests.gateway.test_cli.cli_mails import MOTION

DAHUA = (
    b"From: dvr@lan\r\nTo: alarm@gw\r\nSubject: =?gb2312?B?"
    + base64.b64encode("Motion Detected 移动侦测".encode("gb2312"))
    + b"?=\r\n"
    b"Content-Type: text/plain; charset=gb2312\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.b64encode("报警通道: 2\r\n".encode("gb2312"))
    + b"\r\n"
)


@pytest.fixture
def mail(tmp_path):
    path = tmp_path / "dahua.eml"
    path.write_bytes(DAHUA)
    return path


def test_the_words_of_a_base64_mail_are_shown(mailwire, mail):
    result = mailwire("explain", mail)
    assert (result.code, result.err) == (0, "")
    headings = [line for line in result.lines if line and " " not in line and line[0].isupper()]
    assert headings == ["Mail", "Text", "Profile", "Meaning", "Device", "Event", "Routes", "Topics"]
    assert "subject   Motion Detected 移动侦测" in result.lines
    assert "  报警通道: 2" in result.lines
    assert ["kind", "motion"] in map(str.split, result.lines)
    assert ["data.channel", "2", "(the", "line", "channel)"] in map(str.split, result.lines)
    assert "id       dvr_127_0_0_1 (would be learned)" in result.lines
    assert "why      never seen: dvr@lan, at 127.0.0.1" in result.lines
    assert "no routes are configured: every event bus gets everything" in result.lines
    assert "to: broker" in result.lines


def test_as_json_it_is_one_object(mailwire, mail):
    (said,) = mailwire("explain", mail, "--json", "--peer", "192.168.1.9", "--helo", "ipc-77x").documents
    assert said["reading"]["subject"] == "Motion Detected 移动侦测"
    assert said["reading"]["sender"] == "dvr@lan"
    assert said["device"]["new"] is True
    assert said["device"]["id"] == said["event"]["device"]["id"]
    assert said["device"]["why"] == "never seen: dvr@lan, HELO ipc-77x, at 192.168.1.9"
    event = said["event"]
    assert event["kind"] == "motion"
    assert event["source"] == "lan-mail"
    assert event["text"].strip() == "报警通道: 2"
    assert event["mail"]["peer"] == "192.168.1.9"
    assert event["mail"]["to"] == ["alarm@gw"]
    assert said["targets"] == ["broker"]
    device = event["device"]["id"]
    assert said["topics"] == [f"mailwire/{device}/event", f"mailwire/{device}/state"]


def test_routes_say_why_and_why_not(mailwire, here, mail):
    (here / "mailwire.yaml").write_text(
        "integrations:\n"
        "  lan: {type: smtp_server}\n"
        "  broker: {type: mqtt, base_topic: haus}\n"
        "devices:\n"
        "  yard: {name: Yard, match: {from: 'dvr@*'}}\n"
        "routes:\n"
        "  - {name: loud, if: {severity: critical}, to: broker}\n"
        "  - {if: {template: \"'nothing' in title\"}, to: broker}\n"
        "  - {if: {to: '*@gw'}, to: broker, stop: true}\n"
        "  - {to: broker}\n"
    )
    result = mailwire("explain", mail)
    assert "id       yard" in result.lines
    assert "why      configured: from 'dvr@lan' matches 'dvr@*'" in result.lines
    assert result.lines[result.lines.index("Routes") :] == [
        "Routes",
        "routes[0] (loud): no, its severity does not match",
        "routes[1]: no, its template says false",
        "routes[2]: yes, to broker, stop",
        "to: broker",
        "",
        "Topics",
        "haus/yard/event",
        "haus/yard/state",
    ]
    lines = mailwire("explain", mail, "--to", "else@where").lines
    assert "routes[2]: no, its to does not match" in lines
    assert "routes[3]: yes, to broker" in lines


def test_what_nobody_wants_goes_nowhere(mailwire, here, mail):
    (here / "mailwire.yaml").write_text("routes:\n  - {if: {device: other}, to: broker}\n")
    result = mailwire("explain", mail)
    assert result.lines[-2:] == ["routes[0]: no, its device does not match", "to: nobody"]


def test_a_kept_mail_by_its_id_and_devices_that_are_known(mailwire, data, ids, tmp_path):
    before = (data / FILE).read_bytes()
    (said,) = mailwire("explain", ids[0], "--data", data, "--json").documents
    store = Store(data)
    assert said["event"] == store.event(ids[0])
    assert said["device"]["new"] is False
    assert said["device"]["why"] == "seen before from cam@lan, HELO cam-20, at 192.168.1.20"
    assert said["topics"][-1] == "mailwire/front_door/image"
    (tmp_path / "other.eml").write_bytes(MOTION[1])
    words = ["--peer", "192.168.1.20", "--helo", "cam-20", "--data", data, "--json"]
    assert mailwire("explain", tmp_path / "other.eml", *words).documents[0]["device"]["new"] is False
    assert (data / FILE).read_bytes() == before
    assert len(list(store.devices())) == 3


def test_standard_input(mailwire, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(DAHUA)))
    assert "subject   Motion Detected 移动侦测" in mailwire("explain", "-").lines


def test_nothing_to_explain(mailwire, here, data):
    result = mailwire("explain", "01NOPE", "--data", data)
    assert (result.code, result.err) == (2, "01NOPE: there is no such file, and no mail of that id is kept.\n")
    result = mailwire("explain", here)
    assert (result.code, result.err) == (2, f"{here}: can't be read: Is a directory.\n")
    assert not data.exists()


def test_a_hostile_mail_is_shown_harmlessly(mailwire, tmp_path):
    path = tmp_path / "hostile.eml"
    path.write_bytes(
        b"From: =?utf-8?q?=1B[31mroot=C2=9B?= <a@b>\r\nSubject: x\x1b]0;owned\x07\r\n"
        b'Content-Type: text/plain; name="\x1b[2J"\r\n\r\n\x1b[1A\x9b2Kgone\xe2\x80\xae\r\n'
    )
    for words in ([], ["--json"]):
        result = mailwire("explain", path, *words)
        assert result.code == 0
        assert all(letter.isprintable() or letter == "\n" for letter in result.out)


def test_a_muted_device_is_said_to_be_muted(mailwire, data, ids, here):
    (here / "mailwire.yaml").write_text(
        "integrations:\n"
        "  broker: {type: mqtt}\n"
        "  phone: {type: apprise, urls: ['json://localhost']}\n"
        "routes:\n"
        "  - {to: [broker, phone], repeat: 10 min}\n"
    )
    words = ["--data", data]
    assert mailwire("devices", "mute", "front_door", "soon", *words).code == 2
    assert mailwire("devices", "mute", "nobody", *words).code == 1
    assert "was not muted" in mailwire("devices", "unmute", "front_door", *words).out
    said = mailwire("devices", "mute", "front_door", "30 min", *words)
    assert said.code == 0
    assert said.out.startswith("People are not told of front_door until 20")
    result = mailwire("explain", ids[0], *words)
    assert any(line.startswith("phone: would not be told: the device is muted till 20") for line in result.lines)
    assert "broker: would be told now" in result.lines
    (device,) = [one for one in mailwire("devices", "--json", *words).documents if one["id"] == "front_door"]
    assert list(device["muted"]) == [""]
    assert "till 20" in mailwire("devices", *words).out
    assert "again" in mailwire("devices", "unmute", "front_door", *words).out
    assert "phone: would be told now" in mailwire("explain", ids[0], *words).lines
