"""From a message on MQTT, or a command, to those who are told: a real gateway, a real Mosquitto, real files."""

import base64
import json

import pytest

from gateway import draft, interpret
from tests.live import Gateway, until
from tests.mosquitto import Listener, mosquitto

__all__ = ["mosquitto"]

CONFIG = """
integrations:
  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{port}"}}
  post: {{type: archive}}
routes:
  - {{if: {{severity: critical}}, to: [post]}}
"""


def told(gateway):
    path = gateway.data / "integrations" / "post" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_message_on_mqtt_is_told(tmp_path, mosquitto):
    picture = base64.b64encode(b"\xff\xd8\xff\xe0 jpeg").decode()
    with Gateway(tmp_path / "a b", CONFIG.format(port=mosquitto.port)) as gateway:
        with Listener(mosquitto.port, "mailwire/#") as someone:
            someone.publish("mailwire/notify/post", "Wet\nThe cellar")
            file = {"name": "a.jpg", "type": "image/jpeg", "content": picture}
            someone.publish("mailwire/notify/post", json.dumps({"message": "Look", "attachments": [file]}))
            someone.publish("mailwire/notify", json.dumps({"message": "Fire", "severity": "critical"}))
            someone.publish("mailwire/notify", "by no route")
            until(lambda: len(told(gateway)) == 3, "three notifications")
            assert not [topic for topic, _, _ in someone.messages if topic.endswith("/event")]
        events = told(gateway)
        assert [(event["title"], event["text"]) for event in events] == [
            ("Wet", "The cellar"), ("Look", "Look"), ("Fire", "Fire"),
        ]  # fmt: skip
        assert [event["device"]["id"] for event in events] == ["unknown", "unknown", "broker"]
        assert events[1]["attachments"][0]["name"] == "a.jpg"
        assert events[1]["attachments"][0]["size"] == 9
        raw = gateway.cli("mails", events[1]["id"], "--raw").stdout
        assert interpret.attachment(raw, 0) == b"\xff\xd8\xff\xe0 jpeg"
        assert gateway.terminate() == 0


def test_what_was_published_while_the_gateway_was_away_is_told_and_once(tmp_path, mosquitto):
    gateway = Gateway(tmp_path, CONFIG.format(port=mosquitto.port)).start()
    gateway.kill()
    with Listener(mosquitto.port, "none") as someone:
        for number in range(5):
            someone.publish("mailwire/notify/post", f"number {number}")
    with gateway:
        until(lambda: len(told(gateway)) == 5, "five notifications")
    with gateway:
        pass
    assert [event["title"] for event in told(gateway)] == [f"number {number}" for number in range(5)]


def test_the_command_tells_a_running_gateway_and_one_that_starts(tmp_path):
    picture = tmp_path / "a b.jpg"
    picture.write_bytes(b"\xff\xd8\xff\xe0")
    gateway = Gateway(tmp_path, "integrations:\n  post: {type: archive}\n")
    with gateway:
        said = gateway.cli("notify", "post", "The", "cellar", "is", "wet", "--attach", str(picture)).stdout.decode()
        assert said.startswith("post is told within a second: ")
        until(lambda: told(gateway), "a notification")
    gateway.cli("notify", "post", "--title", "Fire", "--severity", "critical", "run\nnow")
    with gateway:
        until(lambda: len(told(gateway)) == 2, "another")
    first, second = told(gateway)
    assert (first["title"], first["attachments"][0]["name"]) == ("The cellar is wet", "a b.jpg")
    assert (second["title"], second["text"], second["severity"]) == ("Fire", "run\nnow", "critical")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fone", "x"], "There is no target 'fone'. Did you mean 'phone'?\n"),
        (["phone"], "There is nothing to tell: write it after the target, or give it on standard input.\n"),
        (["phone", "x", "--attach", "/nothing/here"], "/nothing/here: can't be attached: No such file or directory.\n"),
    ],
)
def test_what_the_command_refuses(tmp_path, words, said):
    gateway = Gateway(tmp_path, "integrations:\n  phone: {type: archive}\n")
    done = gateway.cli("notify", *words, check=False)
    assert (done.returncode, done.stderr.decode()) == (2, said)


def test_a_mail_that_holds_attachments_gives_them_back():
    event = {"title": "Ü \ud800 \x1b[0m =?utf-8?q?=0D=0ABcc:_x@y?=", "text": "a\nb\udc00"}
    files = [
        ("=?utf-8?q?=0D=0ABcc:_x@y?=", "image/jpeg", b"\xff\xd8"),
        ("a\r\nBcc: x@y", "image/jpeg", b"\xff\xd8"),
        ("b.txt", "text/plain", b"\xfftext"),
        ("c", "message/rfc822", b"Subject: x\r\n\r\n"),
        ("d\ud800", "no type", b""),
    ]
    content = draft.to_mail(event, files)
    assert b"\nBcc:" not in content
    attachments = interpret.read(content).attachments
    assert len(attachments) == 5
    assert [interpret.attachment(content, number) for number in range(5)] == [data for _, _, data in files]
