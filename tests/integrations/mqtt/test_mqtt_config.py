"""What a configuration may say, and the words for what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.integrations.mqtt import Config


def refusal(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Config(**values)
    [error] = caught.value.errors()
    return str(error["msg"]).removeprefix("Value error, ")


def test_nothing_is_a_valid_configuration() -> None:
    config = Config()
    assert config.named_address() is None
    assert config.discovery == "homeassistant"
    assert config.base_topic == "mailwire"


@pytest.mark.parametrize(
    ("values", "host", "port", "user", "password", "tls"),
    [
        ({"url": "mqtt://broker.lan"}, "broker.lan", 1883, None, None, False),
        ({"url": "mqtts://broker.lan/"}, "broker.lan", 8883, None, None, True),
        ({"url": "mqtt://gw:p%40ss@10.0.0.2:1884"}, "10.0.0.2", 1884, "gw", "p@ss", False),
        ({"url": "mqtt://[fd00::1]:1884", "user": "gw", "password": "x"}, "fd00::1", 1884, "gw", "x", False),
        ({"url": "mqtts://broker.lan", "tls": {"insecure": True}}, "broker.lan", 8883, None, None, True),
    ],
)
def test_address(
    values: dict[str, Any], host: str, port: int, user: str | None, password: str | None, tls: bool
) -> None:
    address = Config(**values).named_address()
    assert address
    assert (address.host, address.port, address.user, address.password) == (host, port, user, password)
    assert (address.tls is not None) is tls


def test_login_for_the_broker_of_this_machine() -> None:
    address = Config(user="gw", password="x").address("localhost", 1883)
    assert (address.user, address.password) == ("gw", "x")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "broker.lan:1883"}, "write it with its scheme: mqtt://broker.lan:1883"),
        ({"url": "http://broker.lan"}, "http:// is not spoken here; write mqtt:// or, with TLS, mqtts://"),
        (
            {"url": "mqtt://broker.lan:port"},
            "that is no URL of a broker (Port could not be cast to integer value as 'port'); "
            "it looks like mqtt://user:password@host:1883",
        ),
        (
            {"url": "mqtt://:1883"},
            "there is no host or no port in it; it looks like mqtt://user:password@host:1883",
        ),
        ({"url": "mqtt://broker.lan/home"}, "nothing may follow the port; the topics begin with base_topic"),
        ({"url": "mqtt://:secret@broker.lan"}, "a password needs a user before it: mqtt://user:password@host"),
        ({"password": "secret"}, "a password needs a user"),
        (
            {"url": "mqtt://gw:secret@broker.lan", "user": "gw"},
            "user and password are given twice: in url, and beside it",
        ),
        (
            {"url": "mqtt://broker.lan", "tls": {"ca": "ca.pem"}},
            "tls is for a url that begins with mqtts://",
        ),
        (
            {"url": "mqtts://broker.lan", "tls": {"key": "key.pem"}},
            "key is the key of cert; name that file, too",
        ),
        ({"base_topic": "mail/#"}, "a topic here is made of letters, digits, _ and -, with / between its levels"),
        ({"base_topic": "/mail"}, "a topic here is made of letters, digits, _ and -, with / between its levels"),
        ({"discovery": "a b"}, "a topic here is made of letters, digits, _ and -, with / between its levels"),
        (
            {"discovery": "off"},
            "write true or false (without quotes), or Home Assistant's discovery prefix",
        ),
        ({"expiry": 0}, "Input should be greater than or equal to 1"),
        ({"expiry": 2**32}, "Input should be less than 4294967296"),
        ({"qos": 0}, "Extra inputs are not permitted"),
    ],
)
def test_refusals(values: dict[str, Any], words: str) -> None:
    assert refusal(**values) == words


def test_discovery_in_its_three_forms() -> None:
    assert Config(discovery=True).discovery == "homeassistant"
    assert Config(discovery=False).discovery is False
    assert Config(discovery="ha/lab").discovery == "ha/lab"


def test_no_password_is_shown() -> None:
    assert "secret" not in repr(Config(url="mqtt://gw:secret@broker.lan"))
    assert "secret" not in repr(Config(user="gw", password="secret"))
    with pytest.raises(ValidationError) as caught:
        Config(url="ftp://gw:secret@broker.lan")
    assert "secret" not in str(caught.value)


def test_manifest_says_what_is_imported() -> None:
    folder = Path(__file__).parents[3] / "gateway" / "integrations" / "mqtt"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["domain"] == folder.name
    assert manifest["provides"] == ["source", "target"]
    assert [need.split(">")[0] for need in manifest["requirements"]] == ["paho-mqtt"]
    importers = {path.name for path in folder.glob("*.py") if "paho" in path.read_text()}
    assert importers == {"client.py"}
