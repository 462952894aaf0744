"""What a mail says stays what it says: text that means something to MQTT, Home Assistant, JSON, YAML, a shell, a
terminal, a log or a file system, in every field of a mail, through a real gateway to a real Mosquitto, an archive, the
log and the command line.
"""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.api import Device
from gateway.integrations.mqtt import discovery
from gateway.wire.event import KINDS
from gateway.wire.topics import Topics
from tests.live import PATIENCE, Gateway, until
from tests.mosquitto import Listener, Mosquitto

INJECTIONS = {
    "topic-levels": "a/b/#/+/../$SYS/broker/load",
    "wildcard": "#",
    "plus": "+",
    "dollar": "$SYS",
    "template": "{{ 7 * 7 }}{% for i in range(9) %}{{ i }}{% endfor %}{# x #}{{ states('lock.door') }}",
    "json": '"},"kind":"door","state":"on","x":{"y":["',
    "json-keys": '","event_type":"fire","device_class":"x","icon":"y","~":"z',
    "yaml": "!!python/object/apply:os.system [id]\\n- &a [*a, *a]\\n<<: *a",
    "base-topic": "~/set",
    "log-line": "x\r\n2026-01-01 00:00:00,000 INFO    mailwire: all is well (forged)",
    "json-log-line": 'x\n{"time": "2026-01-01", "level": "info", "message": "forged"}',
    "ansi": "\x1b[2J\x1b[1;1H\x1b[31mred\x1b[0m",
    "osc": "\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x1b\\",
    "c1": "\x9b2J\x85forged\x90q\x9c",
    "separators": "a\u2028b\u2029c\x0bd\x0ce\x1cf",
    "bidi": "\u202egpj.exe\u2066\u2069",
    "invisible": "a\u200b\u200d\ufeff\u00adb",
    "nul": "a\0b",
    "backspace": "safe\b\b\b\bevil\x7f",
    "format": "%s%n%(message)s{0.__class__}{}",
    "path": "../../../../tmp/injected\\..\\..\\injected",
    "shell": "$(touch injected)`touch injected`;touch injected|touch injected&",
    "html": "<script>alert(1)</script><img src=x onerror=y>",
    "long": "long" * 2500,
}
TOPIC = re.compile(
    r"mailwire/(bridge/(state|info|devices|health)|[a-z0-9_]{1,64}/(event|state|image))"
    r"|homeassistant/device/mailwire(_[a-z0-9_]{1,64})?/config"
)
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
CONFIG = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  locked: {{type: smtp_server, listen: ["127.0.0.1:0"], tls: none, users: {{cam: secret}}}}
  broker: {{type: mqtt, url: "{url}"}}
  archive: {{type: archive}}
  evaluated: {{type: archive}}
learn: {{limit: 1000, per_peer: 1000}}
log: debug
log_format: text
routes:
  - {{to: [broker, archive]}}
  - name: a template in a mail was evaluated
    if: {{template: "'49' in mail.subject or '49' in mail.from or '012345678' in text"}}
    to: [evaluated]
"""


def word(text: str) -> bytes:
    """As an encoded word (RFC 2047), which can hold everything."""
    return b"=?utf-8?b?" + base64.b64encode(text.encode()) + b"?="


def raw(text: str) -> bytes:
    """As it stands, as far as a header can hold it."""
    return re.sub(b"[\r\n]+", b" ", text.encode())


def picture(text: str) -> bytes:
    return (
        b"--b\r\nContent-Type: image/png; name="
        + word(text)
        + b"\r\nContent-Disposition: attachment;\r\n filename*=utf-8''"
        b"%s\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n"
        % b"".join(b"%%%02X" % one for one in text.encode())
    )


def typed(text: str) -> bytes:
    return b'--b\r\nContent-Type: image/%s; name="%s"\r\n\r\nx\r\n' % (raw(text)[:200], raw(text).replace(b'"', b'\\"'))


def everything(text: str) -> bytes:
    """A mail that says it in every field."""
    lines = [
        b"From: " + word(text) + b" <" + raw(text) + b"@lan.example>",
        b"To: " + raw(text),
        b"Subject: " + word(text),
        b"Message-ID: <" + raw(text) + b">",
        b"Date: " + raw(text),
        b"X-Mailer: " + word(text),
        b"Organization: " + raw(text),
        b"Reply-To: " + word(text),
        b"Importance: " + raw(text),
        b"Content-Type: multipart/mixed; boundary=b",
        b"",
        b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n",
        base64.b64encode(body(text).encode()),
    ]
    return b"\r\n".join(lines) + b"\r\n" + picture(text) + typed(text) + b"--b--\r\n"


def body(text: str) -> str:
    return f"Event type: {text}\r\nDevice name: {text}\r\nS/N: {text}\r\n{text}: {text}\r\nMotion detected\r\n"


MAILS = {
    "everything": everything,
    "name": lambda text: b'From: "' + word(text) + b'" <cam@lan.example>\r\nSubject: motion\r\n\r\nx\r\n',
    "address": lambda text: (
        b"From: " + raw(text) + b"@lan.example\r\nSubject: " + raw(text) + b"\r\n\r\n" + text.encode()
    ),
    "envelope": lambda text: b"\r\nno header at all: " + text.encode() + b"\r\n",
}


def login(text: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(b"\0" + text.replace("\0", "").encode()[:500] + b"\0x")


class Sender:
    """A device that says it in SMTP's own words, too, wherever these take it."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0))
        self._replies = self._socket.makefile("rb")
        self._reply()

    def _reply(self) -> bytes:
        while (line := self._replies.readline())[3:4] == b"-":
            pass
        return line

    def ask(self, line: bytes) -> bytes:
        self.tell(line)
        return self._reply()

    def say(self, verb: bytes, text: str, instead: bytes) -> None:
        """With the text if the server takes it."""
        if not self.ask(verb % raw(text)).startswith(b"250"):
            assert self.ask(verb % instead).startswith(b"250")

    def tell(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")

    def send(self, text: str, mail: bytes) -> None:
        self.say(b"EHLO %s", text, b"cam")
        assert self.ask(login(text)).startswith(b"235")
        self.say(b"MAIL FROM:<%s@lan.example>", text, b"cam@lan.example")
        self.say(b"RCPT TO:<%s@gw.local>", text, b"alerts@gw.local")
        self.ask(b"DATA")
        mail = re.sub(rb"(?<!\r)\n", b"\r\n", mail)  # else a lone LF would be no line's end
        assert self.ask((b"\r\n" + mail).replace(b"\r\n.", b"\r\n..")[2:] + b"\r\n.").startswith(b"250")

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


class Outcome:
    """All the mails have gone all the way; what is there now."""

    def __init__(self, folder: Path, broker: Mosquitto, gateway: Gateway) -> None:
        self.folder, self.gateway = folder, gateway
        self.sent: list[tuple[str, str]] = []
        ports = [int(port) for port in re.findall(r"127\.0\.0\.1:(\d+) \(", gateway.greeting)]
        with Listener(broker.port) as listener:
            for name, text in INJECTIONS.items():
                for kind, make in MAILS.items():
                    sender = Sender(ports[0])
                    sender.send(text, make(text))
                    sender.close()
                    self.sent.append((name, kind))
                # Each from an address of its own, and none waits for the answer: guessing is slowed down.
                stranger = Sender(ports[1], f"127.2.0.{len(self.sent)}" if sys.platform == "linux" else "127.0.0.1")
                stranger.ask(b"EHLO %s" % raw(text)[:500])
                stranger.tell(login(text))
                stranger.close()
            self.events = gateway.settled(len(self.sent))
            until(lambda: len(self._published(listener)) == len(self.sent), "publishing")
            until(lambda: not gateway.json("queue"), "archiving")
            until(lambda: gateway.log.read_text().count("Login of") >= len(INJECTIONS), "wrong logins")
            until(lambda: self._announced(listener) >= {event["device"]["id"] for event in self.events}, "announcing")
            self.messages = list(listener.messages)

    @staticmethod
    def _published(listener: Listener) -> set[str]:
        return {json.loads(payload)["id"] for topic, payload, _ in listener.messages if topic.endswith("/event")}

    @staticmethod
    def _announced(listener: Listener) -> set[str]:
        return {topic.split("/")[1] for topic, _, _ in listener.messages if topic.endswith("/state")} - {"bridge"}

    def event(self, name: str, kind: str) -> Any:
        return self.events[self.sent.index((name, kind))]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("injection")
    broker = Mosquitto(folder / "mosquitto").start()
    gateway = Gateway(folder / "gateway", CONFIG.format(url=broker.url)).start()
    try:
        yield Outcome(folder, broker, gateway)
        assert gateway.terminate() == 0
    finally:
        gateway.terminate()
        broker.stop()


def test_topics_are_of_our_own_making(outcome: Outcome) -> None:
    assert not {topic for topic, _, _ in outcome.messages if not TOPIC.fullmatch(topic)}


def test_payloads_are_json_and_say_what_the_mail_said(outcome: Outcome) -> None:
    published = {}
    for topic, payload, _ in outcome.messages:
        if not topic.endswith("/image"):
            value = json.loads(payload)
            if topic.endswith("/event"):
                published[value["id"]] = value
    assert published == {event["id"]: event for event in outcome.events}


@pytest.mark.parametrize("name", INJECTIONS)
def test_the_text_is_whole(outcome: Outcome, name: str) -> None:
    text = INJECTIONS[name]
    wanted = body(text).replace("\r\n", "\n").replace("\0", "").strip()
    assert outcome.event(name, "everything")["text"].startswith(wanted[:32768])
    for kind in MAILS:
        event = outcome.event(name, kind)
        assert event.keys() == outcome.events[0].keys()
        assert event["kind"] in ("motion", "other", "alarm")  # by its words, of which "alert" is one
        assert all(re.fullmatch("[a-z0-9_]{1,40}", key) for key in event["data"])
        for line in (event["title"], event["device"]["name"], event["mail"]["subject"] or ""):
            assert not CONTROL.search(line)
            assert "\n" not in line


def test_nothing_a_mail_says_is_a_template_for_home_assistant(outcome: Outcome) -> None:
    """The components of each device are those of one with these kinds and quantities, whatever else its mails say."""
    documents = [
        (topic, json.loads(payload))
        for topic, payload, _ in outcome.messages
        if topic.startswith("homeassistant/device/")
    ]
    assert len(documents) > len(INJECTIONS)
    version = documents[0][1]["origin"]["sw_version"]
    for topic, document in documents:
        node = topic.split("/")[2]
        if node == "mailwire_bridge":
            assert document == discovery.bridge_config(Topics(), version)
            continue
        components = document["components"]
        image = components.get("picture", {}).get("content_type")
        device = Device(node.removeprefix("mailwire_"), "x")
        device.kinds = [kind for kind in KINDS if f"trigger_{kind}" in components]
        device.states = {kind: "on" for kind in KINDS if f"state_{kind}" in components}
        for key in (name.removeprefix("value_") for name in components if name.startswith("value_")):
            assert re.fullmatch("[a-z0-9_]{1,40}", key)
            device.quantities[key] = (0, components[f"value_{key}"].get("unit_of_measurement"))
        clean = discovery.device_config(Topics(), device, version, image)
        assert {**document, "device": {}} == {**clean, "device": {}}
        assert image is None or re.fullmatch(r"image/[a-z0-9.+-]{1,60}", image)
        assert {**document["device"], "name": "x", "manufacturer": 0, "model": 0} == {
            **clean["device"], "manufacturer": 0, "model": 0,
        }  # fmt: skip
        for text in document["device"].values():
            assert not UNSEEN.search(str(text))


def test_home_assistant_gets_the_attributes_that_we_name(outcome: Outcome) -> None:
    environment = ImmutableSandboxedEnvironment()
    document = discovery.device_config(Topics(), Device("cam", "x"), "1", None)
    template = environment.from_string(document["components"]["event"]["value_template"])
    for event in outcome.events:
        attributes = json.loads(template.render(value_json=event))
        assert attributes.pop("event_type") == event["kind"]
        assert attributes.pop("text") == event["text"][:1000]
        assert attributes == {key: event[key] for key in ("title", "severity", "state", "data", "time", "id")}


def test_conditions_see_text_and_evaluate_nothing_of_it(outcome: Outcome) -> None:
    assert "7 * 7" in outcome.event("template", "everything")["mail"]["subject"]
    assert not list((outcome.gateway.data).rglob("evaluated/Maildir/new/*"))


def test_the_archive_stays_in_its_folder(outcome: Outcome) -> None:
    (folder,) = [path.parent for path in outcome.gateway.data.rglob("archive/Maildir")]
    ids = [event["id"] for event in outcome.events]
    assert sorted(path.name for path in (folder / "Maildir/new").iterdir()) == sorted(f"{one}.eml" for one in ids)
    lines = (folder / "events.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["id"] for line in lines] == ids
    assert {path.name for path in folder.iterdir()} == {"Maildir", "events.jsonl"}
    # What MQTT has told of a device is kept under the device's id, which no mail can make a path of.
    assert all(
        re.fullmatch(r"broker/announced/[a-z0-9_]{1,64}\.json", str(path.relative_to(folder.parent)))
        for path in outcome.folder.rglob("*")
        if "injected" in path.name
    )
    assert not Path("/tmp/injected").exists()
    assert not Path("injected").exists()


def test_the_log_has_one_line_a_record_and_nothing_unseen(outcome: Outcome) -> None:
    log = outcome.gateway.log.read_bytes().decode()
    assert not CONTROL.search(log)
    lines = log.removesuffix("\n").split("\n")
    record = re.compile(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ +(gateway|mailwire)[\w.-]*: ")
    for line in lines:
        assert record.match(line), line
        assert not line.startswith("2026-01-01 00:00:00,000"), line
    assert sum("Login of" in line for line in lines) == len(INJECTIONS)
    assert sum("learned a new device" in line for line in lines) == len(outcome.gateway.json("devices"))


def on_a_terminal(gateway: Gateway, *args: str) -> bytes:
    """What a command writes to a terminal of 200 columns, and its complaints."""
    ours, theirs = pty.openpty()
    written: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is closed
                return
            if not piece:
                return
            written.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    environment = gateway.environment() | {"TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        gateway.command(*args), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        process.wait(PATIENCE)
    reader.join()
    os.close(ours)
    return b"".join(written)


@pytest.mark.parametrize(
    "command",
    ["events", "events --json", "mails", "mails --json", "devices", "devices --json", "queue", "doctor"],
)
def test_a_terminal_is_told_nothing_by_a_mail(outcome: Outcome, command: str) -> None:
    said = on_a_terminal(outcome.gateway, *command.split()).decode().replace("\r\n", "\n")
    assert said
    assert not UNSEEN.search(said)
    if command in ("events", "mails"):
        assert said.count("\n") == 51  # a head, and a line for each of the newest fifty


FOR_A_TERMINAL = [name for name, text in INJECTIONS.items() if UNSEEN.search(text) or "\n" in text]


@pytest.mark.parametrize("name", FOR_A_TERMINAL)
@pytest.mark.parametrize("command", ["mails", "explain"])
def test_a_terminal_is_told_nothing_by_one_mail(outcome: Outcome, command: str, name: str) -> None:
    said = on_a_terminal(outcome.gateway, command, outcome.event(name, "everything")["id"]).decode()
    assert "Traceback" not in said
    assert not UNSEEN.search(said.replace("\r\n", "\n"))
