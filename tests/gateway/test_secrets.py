"""No secret is ever shown: canaries in every place where a secret may stand, and every place that is shown searched.

A real gateway at log level debug with a real broker, logins right and wrong, and integrations that fail loudly.
"""

import base64
import hashlib
import json
import os
import smtplib
import socket
import sqlite3
from itertools import count
from urllib.parse import quote

import pytest

from gateway import users
from gateway.config import load
from gateway.loader import Loader
from gateway.redact import Redactor
from tests.live import PATIENCE, Gateway, until
from tests.mosquitto import Listener, Mosquitto

_numbers = count(1)


def canary(extra=""):
    """A secret that is unlike any other text."""
    return f"canary{next(_numbers):03}{extra}"


PLAIN, FROM_SECRETS, FROM_ENVIRONMENT, HASHED, IN_FILE = (canary() for _ in range(5))
BROKER, BROKER_URL, WRONG_BROKER = canary(), canary(" ü/%"), canary()
KEYWORD, IN_A_START, IN_A_DELIVERY, IN_A_REFUSAL, IN_A_THREAD = (canary('"\\ä') for _ in range(5))
GUESS, AS_NAME, AS_NAME_ANYWHERE, ANYTHING, PIPELINED = (canary() for _ in range(5))
SECRETS = [value for name, value in list(globals().items()) if isinstance(value, str) and value.startswith("canary")]

CONFIG = """
log: debug
integrations:
  strict:
    type: smtp_server
    listen: ["127.0.0.1:0"]
    login: required
    users: {{plain: {plain}, secret: !secret user, environment: !env CANARY, hashed: "{hashed}"}}
  any: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{port}", user: mailwire, password: {broker}}}
  by-url: {{type: mqtt, url: "mqtt://other:{broker_url}@127.0.0.1:{port}", base_topic: other}}
  refused: {{type: mqtt, url: "mqtt://127.0.0.1:{port}", user: mailwire, password: {wrong_broker}}}
  handler: {{type: aiosmtpd_handler, handler: "loud:Handler", path: ., kwargs: {{token: !secret keyword}}}}
  start: {{type: loud, token: !secret start}}
  deliver: {{type: loud, token: !secret deliver}}
  refuse: {{type: loud, token: !secret refuse}}
  thread: {{type: loud, token: !secret thread}}
routes: [{{to: [broker, by-url, refused, handler, start, deliver, refuse, thread]}}]
"""

LOUD = '''
"""Shouts its secret wherever it can."""
import threading
from gateway.api import ConfigModel, Refused, Target

class Config(ConfigModel):
    token: str

class Loud(Target):
    async def start(self):
        self.context.log.debug("starting with %s", self.config)
        if self.context.name == "start":
            raise ValueError(f"can't log in with {self.config.token!r}")
        if self.context.name == "thread":
            def fail():
                raise ValueError(self.config.token)
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()

    async def deliver(self, event):
        if self.context.name == "refuse":
            raise Refused(f"nobody knows {self.config.token}")
        if self.context.name == "deliver":
            raise RuntimeError(self.config.token)
'''

HANDLER = """
class Handler:
    def __init__(self, token):
        self.token = token

    async def handle_DATA(self, server, session, envelope):
        raise RuntimeError(f"{self.token} is wrong")
"""


@pytest.fixture
def broker(tmp_path):
    """It knows two users, in the form that mosquitto_passwd writes."""
    passwords = tmp_path / "passwords"
    mosquitto = Mosquitto(tmp_path / "broker", "allow_anonymous false", f"password_file {passwords}")
    salt = b"twelve bytes"
    for user, password in (("mailwire", BROKER), ("other", BROKER_URL)):
        digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
        with passwords.open("a") as file:
            file.write(f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n")
    passwords.chmod(0o600)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


class Leaky(Gateway):
    def environment(self):
        return super().environment() | {"CANARY": FROM_ENVIRONMENT}


@pytest.fixture
def gateway(tmp_path, broker):
    config = CONFIG.format(
        port=broker.port,
        plain=PLAIN,
        hashed=users.hashed(HASHED),
        broker=BROKER,
        broker_url=quote(BROKER_URL, safe=""),
        wrong_broker=WRONG_BROKER,
    )
    folder = tmp_path / "gw"
    running = Leaky(folder, config)
    secrets = {"user": FROM_SECRETS, "keyword": KEYWORD, "start": IN_A_START, "deliver": IN_A_DELIVERY}
    secrets |= {"refuse": IN_A_REFUSAL, "thread": IN_A_THREAD}
    (folder / "secrets.yaml").write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in secrets.items()))
    (folder / "loud.py").write_text(HANDLER)
    custom = folder / "custom_integrations" / "loud"
    custom.mkdir(parents=True)
    (custom / "__init__.py").write_text(LOUD)
    manifest = {"domain": "loud", "name": "Loud", "version": "1", "provides": ["target"]}
    (custom / "manifest.json").write_text(json.dumps(manifest))
    running.cli("user", "add", "file", "--server", "strict", "--stdin", input=(IN_FILE + "\n").encode())
    with running:
        yield running


def ports(gateway):
    lines = [line for line in gateway.greeting.splitlines() if "SMTP on" in line]
    return [int(line.partition("127.0.0.1:")[2].partition(" ")[0]) for line in lines]


def log_in(port, user, password, how="plain"):
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("device")
        client.user, client.password = user, password
        try:
            client.auth(how, getattr(client, f"auth_{how}"))
        except smtplib.SMTPAuthenticationError as error:
            return error.smtp_error.decode()
        client.sendmail("device@lan", ["a@gw"], f"Subject: {next(_numbers)}\r\n\r\nhello".encode())
        return ""


def encoded(text):
    return base64.b64encode(text.encode())


def leaks(text):
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    spellings = {
        spelt: secret
        for secret in SECRETS
        for spelt in (secret[:9], encoded(secret).decode(), encoded(f"\0x\0{secret}")[8:-4].decode())
    }
    return sorted({secret for spelt, secret in spellings.items() if spelt in text})


@pytest.mark.timeout(300)  # two dozen commands, on a machine that may be busy
def test_no_canary_is_ever_heard(gateway, broker, tmp_path):
    strict, anywhere = ports(gateway)
    mails = 0
    with Listener(broker.port, "#", user="mailwire", password=BROKER) as listener:
        right = {
            "plain": PLAIN,
            "secret": FROM_SECRETS,
            "environment": FROM_ENVIRONMENT,
            "hashed": HASHED,
            "file": IN_FILE,
        }
        for user, password in right.items():
            for how in ("plain", "login"):
                assert log_in(strict, user, password, how) == ""
                mails += 1
        for user, password, how in (
            ("plain", GUESS, "plain"),
            ("hashed", GUESS, "login"),
            (AS_NAME, GUESS, "login"),
            (GUESS, AS_NAME, "plain"),
        ):
            assert "invalid" in log_in(strict, user, password, how)
            assert log_in(strict, "plain", PLAIN) == ""  # so that the next answer takes no longer
            mails += 1
        for user, password in ((AS_NAME_ANYWHERE, ANYTHING), ("someone", ANYTHING)):
            assert log_in(anywhere, user, password) == ""
            mails += 1
        # A device that does not wait for the answers, on a server that offers no such thing at that moment.
        with socket.create_connection(("127.0.0.1", strict), PATIENCE) as peer:
            lines = [
                b"AUTH LOGIN",
                encoded("plain"),
                encoded(PIPELINED),
                encoded(PIPELINED),
                PIPELINED.encode(),
                b"QUIT",
            ]
            peer.sendall(b"\r\n".join([b"AUTH CRAM-MD5 " + encoded(PIPELINED), *lines, b""]))
            replies = b""
            while piece := peer.recv(4096):
                replies += piece
        events = gateway.settled(mails)
        until(lambda: {"refuse", "deliver", "handler"} <= {row["target"] for row in gateway.json("queue")}, "failing")
        gateway.logged("this must not happen")
        gateway.hang_up()
        gateway.logged("configuration read again")
        gateway.config.write_text(gateway.config.read_text() + "nonsense: !secret user\n")
        gateway.hang_up()
        gateway.logged("the new configuration is refused")
        until(
            lambda: any(
                topic == "mailwire/bridge/health" and "start" in json.loads(payload)["problems"]
                for topic, payload, _ in list(listener.messages)
            ),
            "health with a problem",
        )
        heard = [f"{topic} ".encode() + payload for topic, payload, _ in list(listener.messages)]
    assert any(b"/event " in one for one in heard)
    assert any(one.startswith(b"other/bridge/health ") for one in heard)

    shown = {
        "greeting": gateway.greeting,
        "log": gateway.log.read_text(),
        "replies": replies,
        "events": json.dumps(events),
        "mqtt": b"\n".join(heard),
        "repr": repr(_settings(gateway)),
    }
    mail = events[0]["id"]
    eml = tmp_path / "one.eml"
    eml.write_bytes(b"From: device@lan\r\nSubject: x\r\n\r\nx\r\n")
    for words in (
        ("check",), ("explain", str(eml)), ("explain", str(eml), "--json"), ("doctor",), ("doctor", "--json"),
        ("integrations",), ("events",), ("mails",), ("mails", mail), ("mails", mail, "--json"), ("queue",),
        ("queue", "--json"), ("devices", "--json"), ("user", "list", "--server", "strict"), ("bans", "--json"),
        ("service", "show"),
    ):  # fmt: skip
        done = gateway.cli(*words, check=False)
        shown[" ".join(words)] = done.stdout + done.stderr
    assert {name: leaks(text) for name, text in shown.items() if leaks(text)} == {}
    # The secrets were where they could have leaked: their places are marked.
    assert "can't log in with '***'" in shown["log"]
    assert "RuntimeError: ***" in shown["queue --json"].decode()
    assert "nobody knows ***" in shown["queue --json"].decode()
    # And none is in what is kept.
    gateway.terminate()
    with sqlite3.connect(gateway.data / "mailwire.db") as store:
        assert leaks("\n".join(store.iterdump())) == []
    store.close()
    for path in gateway.data.rglob("*"):
        if path.is_file():
            assert leaks(path.read_bytes()) == [], path


def _settings(gateway):
    os.environ["CANARY"] = FROM_ENVIRONMENT
    try:
        text = gateway.config.read_text().replace("nonsense: !secret user\n", "")
        gateway.config.write_text(text)
        settings = load(gateway.config, loader=Loader(gateway.folder / "custom_integrations"))
    finally:
        del os.environ["CANARY"]
    shown = [setting.config for setting in settings.integrations.values() if setting.type in ("smtp_server", "mqtt")]
    return [shown, settings.hash()]


class TestRedactor:
    def test_longer_ones_first_and_in_every_spelling(self):
        hide = Redactor(["secret", "secretly", 'say "ä\\"']).hide
        assert hide("a secretly kept secret") == "a *** kept ***"
        assert hide(json.dumps({"error": 'say "ä\\"'})) == '{"error": "***"}'
        assert hide(repr('say "ä\\"')) == "'***'"
        assert hide("nothing") == "nothing"

    def test_what_is_too_short_to_be_hidden(self):
        assert Redactor(["abcde", ""]).hide("abcde") == "abcde"
        assert Redactor([]).hide("abc") == "abc"
