"""Webhooks through a real gateway and real HTTP: who may call, what becomes of it, and the link that acknowledges."""

import asyncio
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from gateway.integrations.webhook import Config, Webhook, shapes
from tests.live import Gateway, until

FORM = "application/x-www-form-urlencoded"
CONFIG = """
integrations:
  web:
    type: webhook
    listen: "127.0.0.1:0"
    hooks: {alarms: {token: right-token, to: [post]}, plain: {token: other-token}}
  post: {type: archive}
routes:
  - {if: {severity: critical}, to: [post], escalate: {after: 1 h, to: [post]}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with Gateway(tmp_path_factory.mktemp("web hook"), CONFIG) as running:
        yield running


def url(gateway):
    return "http://" + re.search(r"http://([^/]+)/hook", gateway.greeting)[1]


def call(address, body=None, method=None, **headers):
    """(status, text)"""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, body, names, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(gateway, body, kind="application/json", hook="alarms", token="right-token"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call(f"{url(gateway)}/hook/{hook}", body, Authorization=f"Bearer {token}", Content_Type=kind)


def newest(gateway, count=1):
    return gateway.json("events", "--limit", "100")[-count:]


def test_json_text_and_forms(gateway):
    assert post(gateway, {"title": "Wet", "message": "The cellar", "severity": "warning"}) == (200, '{"events": 1}')
    assert post(gateway, b"Wet\nThe attic", "text/plain")[0] == 200
    form = urllib.parse.urlencode({"title": "Wet", "message": "The roof"}).encode()
    assert post(gateway, form, "application/x-www-form-urlencoded")[0] == 200
    said = [(event["title"], event["text"], event["device"]["id"]) for event in newest(gateway, 3)]
    assert said == [("Wet", text, "alarms") for text in ("The cellar", "The attic", "The roof")]
    told = gateway.data / "integrations" / "post" / "events.jsonl"
    until(lambda: told.exists() and "The roof" in told.read_text(), "the target")


def test_json_that_curl_calls_a_form_and_text_in_its_own_charset(gateway):
    assert post(gateway, b' {"title": "50 % & more", "message": "a=b"}', FORM)[0] == 200
    assert post(gateway, "Gerät\nist heiß".encode("latin-1"), "text/plain; charset=iso-8859-1")[0] == 200
    assert post(gateway, "Gerät 2".encode(), "text/plain; charset=nobodys")[0] == 200
    assert post(gateway, b"The cellar is wet", FORM)[0] == 200
    assert post(gateway, b"payload=&who=7", FORM)[0] == 200
    assert post(gateway, {"event": {"type": "Wet"}})[0] == 200
    said = [(event["title"], event["text"]) for event in newest(gateway, 6)]
    assert said[:2] == [("50 % & more", "a=b"), ("Gerät", "ist heiß")]
    assert said[2:] == [
        (text, text) for text in ("Gerät 2", "The cellar is wet", "payload=&who=7", '{"event": {"type": "Wet"}}')
    ]


def test_a_form_with_a_file(gateway):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="message"\r\n\r\nLook\r\n'
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        b"\xff\xd8\r\n--b--\r\n"
    )
    assert post(gateway, body, "multipart/form-data; boundary=b")[0] == 200
    assert newest(gateway)[0]["attachments"][0]["name"] == "a.jpg"


@pytest.mark.parametrize(
    ("headers", "query"),
    [({"Authorization": "Bearer right-token"}, ""), ({"X_Token": "right-token"}, ""), ({}, "?token=right-token")],
)
def test_ways_to_give_the_token(gateway, headers, query):
    assert call(f"{url(gateway)}/hook/alarms{query}", b"x", **headers)[0] == 200


@pytest.mark.parametrize(
    ("hook", "token"), [("alarms", "other-token"), ("alarms", ""), ("nobody", "right-token"), ("plain", "right-token")]
)
def test_who_may_not_call(gateway, hook, token):
    answer = post(gateway, {"message": "x"}, hook=hook, token=token)
    assert answer == (401, "There is no such hook, or the token is wrong.\n")


@pytest.mark.parametrize(
    ("path", "head", "status"),
    [
        (b"/hook/alarms", b"X-Token: \xff\xfe", 401),
        (b"/hook/alarms", b"Authorization: Bearer \xff", 401),
        (b"/hook/alarms?token=%ff%fe", b"A: b", 401),
        (b"/hook/%ff", b"X-Token: x", 401),
        (b"/ack/%ff/%fe", b"A: b", 403),
    ],
)
def test_what_is_no_utf_8_is_answered_as_what_is_wrong(gateway, path, head, status):
    host, _, port = url(gateway).removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), 20) as line:
        line.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n%b\r\nConnection: close\r\n\r\n" % (path, head)
        )
        assert line.makefile("rb").readline().split()[1] == b"%d" % status


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{", "application/json", "this is no JSON: "),
        (b"[1]", "application/json", 'this is no JSON object such as {"message": "…"}\n'),
        (b'{"attachments": [1]}', "application/json", "an attachment is {"),
        (b"[" * 100_000, "application/json", ""),
        (b'{"attachments": 5}', "application/json", "attachments is a list, and each of them {"),
        (b"payload=%7B", FORM, "this is no JSON: "),
        (b"message=x", f"{FORM}; charset=nobodys", "this is no form: unknown encoding: nobodys\n"),
        (b"message=x", "multipart/form-data", "this is no form: "),
        (b"x", "multipart/form-data; boundary=b", "this is no form: "),
        (b"--b\r\nContent\xff: x\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", "this is no form: "),
    ],
)
def test_what_can_not_be_read_is_said(gateway, body, kind, said):
    status, text = post(gateway, body, kind)
    assert status == 400
    assert text.startswith(said)


def test_only_post_and_not_too_much(gateway):
    assert call(f"{url(gateway)}/hook/alarms?token=right-token")[0] == 405
    assert post(gateway, b"x" * (11 * 1024**2), "text/plain")[0] == 413


def test_acknowledge_by_a_link(gateway):
    post(gateway, {"message": "Fire", "severity": "critical"}, hook="plain", token="other-token")
    event_id = newest(gateway)[0]["id"]
    (waiting,) = [row for row in gateway.json("ack") if row["id"] == event_id]
    assert waiting["device"] == "plain"
    import hashlib
    import hmac

    key = bytes.fromhex((gateway.data / "integrations" / "web" / "key").read_text())
    assert (gateway.data / "integrations" / "web" / "key").stat().st_mode & 0o777 == 0o600
    link = f"{url(gateway)}/ack/{event_id}/{hmac.new(key, event_id.encode(), hashlib.sha256).hexdigest()[:32]}"
    assert "<button" in call(link)[1]
    assert [row["id"] for row in gateway.json("ack")] == [event_id]  # looking is not acknowledging
    assert call(link[:-1] + ("0" if link[-1] != "0" else "1"), b"")[0] == 403
    assert "Thank you: acknowledged." in call(link, b"")[1]
    until(lambda: not gateway.json("ack"), "the acknowledgement")
    assert "Somebody has acknowledged it before." in call(link, b"")[1]


async def test_who_says_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.integrations.webhook._IDLE", 0.05)
    server = Webhook(SimpleNamespace(data_dir=tmp_path), Config(listen="127.0.0.1:0"))
    await server.start()
    try:
        host, _, port = server._address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /hook/alarms HTTP/1.1\r\nHost")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
    finally:
        await server.stop()


# --- shapes ----------------------------------------------------------------------------------------------------

ALERTMANAGER = {
    "version": "4", "status": "firing", "receiver": "mailwire",
    "alerts": [
        {"status": "firing", "labels": {"alertname": "HighLoad", "instance": "pi:9100", "severity": "page"},
         "annotations": {"summary": "Load is high", "description": "Load is 9"}},
        {"status": "resolved", "labels": {"alertname": "DiskFull", "severity": "info"}, "annotations": {}},
    ],
}  # fmt: skip


def test_alerts_of_alertmanager_and_grafana():
    high, full = shapes.drafts(ALERTMANAGER | {"orgId": 1, "title": "[FIRING:1]", "message": "…"})
    assert high == {
        "device": "pi:9100", "kind": "other", "state": "on", "severity": "critical", "title": "Load is high",
        "text": "Load is 9", "data": {"alertname": "HighLoad", "instance": "pi:9100", "severity": "page"},
    }  # fmt: skip
    assert (full["device"], full["state"], full["severity"], full["title"]) == ("alerts", "off", "info", "DiskFull")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, ("network", "on", "critical", "Router is down")),
        (1, ("network", "off", "info", "Router is up")),
        (2, ("other", None, "info", "[Router] …")),
    ],
)
def test_heartbeats_of_uptime_kuma(status, expected):
    said = {"heartbeat": {"status": status, "msg": "timeout"}, "monitor": {"name": "Router", "url": "http://r"},
            "msg": "[Router] …"}  # fmt: skip
    (draft,) = shapes.drafts(said)
    assert (draft["kind"], draft["state"], draft["severity"], draft["title"]) == expected
    assert (draft["device"], draft["data"]) == ("Router", {"url": "http://r"})


def test_the_test_button_of_uptime_kuma():
    (draft,) = shapes.drafts({"heartbeat": None, "monitor": None, "msg": "Testing"})
    assert (draft["kind"], draft["title"], draft["device"]) == ("test", "Testing", "Uptime Kuma")


@pytest.mark.parametrize("said", [{"alerts": [1, None], "status": 1}, {"heartbeat": 1, "monitor": [], "msg": 3}])
def test_nonsense_is_no_fault(said):
    shapes.drafts(said)


def test_a_short_token_and_a_bad_address_are_refused():
    with pytest.raises(ValidationError, match="at least 8"):
        Config(hooks={"a": {"token": "short"}})
    with pytest.raises(ValidationError, match="is not an address and a port"):
        Config(listen="8026")
