"""The connection in bad weather: brokers that stop, freeze, are killed, refuse, or are none."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import api
from gateway.api import Broken, NotReady, Refused, Retry
from gateway.integrations import mqtt
from gateway.integrations.mqtt import client
from tests.integrations.mqtt.fake_broker import CuttableLine, FakeBroker, listening, read_packet, version_of
from tests.integrations.mqtt.stand_in_gateway import StandIn, deliver, make_event, wait_until
from tests.mosquitto import Listener, Mosquitto, until

EVENTS = "mailwire/front_door/event"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(mqtt, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(mqtt, "LOGIN_WAIT", 0.2)


def ids(listener: Listener) -> set[str]:
    return {json.loads(payload)["id"] for payload in listener.payloads(EVENTS)}


def wanted(events: list[api.Event]) -> set[str]:
    return {event["id"] for event in events}


# --- outages under load ----------------------------------------------------------------------------------------


class Load:
    """Delivers events, as many at once as the target takes, each again until it is done."""

    def __init__(self, target: mqtt.Mqtt, events: list[api.Event]) -> None:
        self.done = 0
        self._target = target
        self._slots = asyncio.Semaphore(target.concurrency)
        self._tasks = [asyncio.create_task(self._one(event)) for event in events]

    async def _one(self, event: api.Event) -> None:
        async with self._slots:
            await deliver(self._target, event)
        self.done += 1

    async def reaches(self, share: float) -> None:
        """That much of it is delivered, and not all."""
        await wait_until(lambda: self.done >= share * len(self._tasks))
        assert self.done < len(self._tasks)

    async def end(self) -> None:
        await asyncio.gather(*self._tasks)


async def test_broker_stops_under_load(mosquitto: Mosquitto, gateway: StandIn) -> None:
    device = gateway.add("front_door")
    events = [make_event(device) for _ in range(4000)]
    with Listener(mosquitto.port, EVENTS, client_id="durable") as listener:
        async with gateway.connected(url=mosquitto.url) as target:
            load = Load(target, events)
            for share in (0.1, 0.5):
                await load.reaches(share)
                await asyncio.to_thread(mosquitto.stop)
                await wait_until(lambda: target._connection is None)
                await asyncio.to_thread(mosquitto.start)
            await load.end()
            await wait_until(lambda: ids(listener) >= wanted(events))
    # QoS 1: only what was under way comes twice, from us to the broker at its two ends, and from it to its listener.
    assert len(listener.messages) <= len(events) + 4 * client.WINDOW
    assert [bool(text) for text in gateway.problems] == [False, True, False, True, False]
    assert gateway.readies == 3


async def test_broker_is_killed_under_load(mosquitto: Mosquitto, gateway: StandIn) -> None:
    """What a killed broker had acknowledged and not saved is lost with it; all of ours comes to its end."""
    device = gateway.add("front_door")
    async with gateway.connected(url=mosquitto.url) as target:
        for _ in range(2):
            load = Load(target, [make_event(device) for _ in range(2000)])
            await load.reaches(0.2)
            await asyncio.to_thread(mosquitto.kill)
            await wait_until(lambda: target._connection is None)
            await asyncio.to_thread(mosquitto.start)
            after = [make_event(device) for _ in range(100)]
            with Listener(mosquitto.port, EVENTS) as listener:
                await load.end()
                await Load(target, after).end()
                await wait_until(lambda listener=listener, after=after: ids(listener) >= wanted(after))


async def test_line_is_cut_under_load(mosquitto: Mosquitto, gateway: StandIn) -> None:
    device = gateway.add("front_door")
    events = [make_event(device) for _ in range(3000)]
    line = CuttableLine(mosquitto.port)
    shares = (0.1, 0.3, 0.5, 0.7)
    with Listener(mosquitto.port, EVENTS) as listener:
        async with listening(line.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}") as target:
            load = Load(target, events)
            for share in shares:
                await load.reaches(share)
                line.cut()
                await wait_until(lambda: target._connection is None)
            await load.end()
            await wait_until(lambda: ids(listener) >= wanted(events))
    assert len(listener.messages) <= len(events) + len(shares) * client.WINDOW


async def test_frozen_broker_is_waited_for(mosquitto: Mosquitto, gateway: StandIn) -> None:
    device = gateway.add("front_door")
    with Listener(mosquitto.port, EVENTS) as listener:
        async with gateway.connected(url=mosquitto.url) as target:
            await target.deliver(make_event(device))
            mosquitto.freeze()
            events = [make_event(device, text="x" * 1000) for _ in range(500)]
            load = Load(target, events)
            await wait_until(lambda: target._connection and len(target._connection._under_way) >= 20)
            await asyncio.sleep(0.1)
            assert load.done == 0
            assert target._connection
            assert len(target._connection._under_way) <= client.WINDOW
            mosquitto.thaw()
            await load.end()
            await wait_until(lambda: ids(listener) >= wanted(events))
    assert gateway.problems == [None]  # nobody was troubled


async def test_broker_frozen_for_too_long_is_left(mosquitto: Mosquitto, gateway: StandIn) -> None:
    device = gateway.add("front_door")
    event = make_event(device)
    with Listener(mosquitto.port, EVENTS) as listener:
        async with gateway.connected(url=mosquitto.url, keepalive=1) as target:
            mosquitto.freeze()
            with pytest.raises(NotReady) as caught:
                await target.deliver(event)
            assert str(caught.value) == "the connection to the broker was lost: the broker did not answer for 1 s"
            mosquitto.thaw()
            await deliver(target, event)
            await wait_until(lambda: ids(listener) >= wanted([event]))
    assert gateway.problems == [
        None,
        "the connection to the MQTT broker was lost: the broker did not answer for 1 s; events wait in the store",
        None,
    ]


async def test_broker_that_comes_later(gateway: StandIn, tmp_path: Path) -> None:
    device = gateway.add("front_door")
    broker = Mosquitto(tmp_path / "mosquitto")
    async with gateway.target(url=broker.url) as target:
        load = Load(target, [make_event(device)])
        await wait_until(lambda: gateway.problems)
        await asyncio.to_thread(broker.start)
        try:
            await load.end()
            await wait_until(lambda: len(gateway.problems) > 1)  # said when we are subscribed, too
        finally:
            broker.stop()
    assert gateway.problems[:2] == [f"nothing listens on 127.0.0.1:{broker.port}; events wait in the store", None]


async def test_subscriptions_are_made_anew(mosquitto: Mosquitto, gateway: StandIn) -> None:
    async with gateway.connected(url=mosquitto.url):
        await asyncio.to_thread(mosquitto.kill)
        await asyncio.to_thread(mosquitto.start)
        await wait_until(lambda: gateway.readies == 2)
        with Listener(mosquitto.port) as listener:
            listener.publish("mailwire/bridge/request/any", b"")
            await wait_until(lambda: listener.newest("mailwire/bridge/response/any"))


# --- the last will ---------------------------------------------------------------------------------------------

GATEWAY_PROCESS = """
import asyncio, sys
from pathlib import Path
from tests.integrations.mqtt.stand_in_gateway import StandIn

async def main():
    async with StandIn(Path(sys.argv[1])).connected(url=sys.argv[2]):
        print("connected", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_last_will_is_seen_when_the_gateway_is_killed(mosquitto: Mosquitto, tmp_path: Path) -> None:
    command = [sys.executable, "-c", GATEWAY_PROCESS, str(tmp_path), mosquitto.url]
    with Listener(mosquitto.port, "mailwire/bridge/state") as listener:
        for _ in range(2):  # the second time with the same client id
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
                assert process.stdout
                assert process.stdout.readline() == b"connected\n"
                until(lambda: listener.newest("mailwire/bridge/state") == {"state": "online"})
                process.kill()
            until(lambda: listener.newest("mailwire/bridge/state") == {"state": "offline"})
    with Listener(mosquitto.port, "mailwire/bridge/state") as newcomer:
        until(lambda: newcomer.newest("mailwire/bridge/state") == {"state": "offline"})


async def test_client_id_is_made_up_once(mosquitto: Mosquitto, gateway: StandIn) -> None:
    found = []
    for _ in range(2):
        async with gateway.connected(url=mosquitto.url) as target:
            found.append(target._client_id)
    assert found[0] == found[1]
    assert found[0].startswith("mailwire-")
    async with gateway.connected(url=mosquitto.url, client_id="gw 1") as target:
        assert target._client_id == "gw 1"


async def test_another_client_with_our_client_id_is_told_of(gateway: StandIn) -> None:
    broker = FakeBroker(after_publish=b"\xe0\x06\x8e\x04\x1f\x00\x01x")
    async with listening(broker.serve) as port, gateway.target(url=f"mqtt://127.0.0.1:{port}"):
        await wait_until(lambda: gateway.problems)
        assert gateway.problems == ["another client has connected with our client id; events wait in the store"]


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that wants user `gw` with password `secret`."""
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "gw", "secret"], check=True, capture_output=True)
    broker = Mosquitto(tmp_path / "mosquitto", "allow_anonymous false", f"password_file {passwords}").start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("login", "hint"),
    [
        ({}, "it wants a user and a password"),
        ({"user": "gw", "password": "wrong"}, "check user and password"),
    ],
)
async def test_wrong_login(
    locked: Mosquitto, gateway: StandIn, login: dict[str, Any], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = gateway.add("front_door")
    tries = 0
    connect = client.connect

    async def count(*args: Any) -> client.Connection:
        nonlocal tries
        tries += 1
        return await connect(*args)

    monkeypatch.setattr(client, "connect", count)
    words = (
        f"the MQTT broker on 127.0.0.1:{locked.port} refuses our login (Not authorized): {hint}; "
        "events wait in the store"
    )
    async with gateway.target(url=locked.url, **login) as target:
        await wait_until(lambda: tries > 2)
        with pytest.raises(NotReady) as caught:
            await target.deliver(make_event(device))
        assert str(caught.value) == words
        assert gateway.problems == [words]
        locked.stop()
        locked.settings = []
        await asyncio.to_thread(locked.start)
        await wait_until(lambda: gateway.problems[-1] is None)


async def test_right_login(locked: Mosquitto, gateway: StandIn) -> None:
    async with gateway.connected(url=locked.url.replace("//", "//gw:secret@")):
        assert gateway.problems == [None]
    async with gateway.connected(url=locked.url, user="gw", password="secret"):
        assert gateway.problems == [None, None]


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_broker_of_mqtt_3(mosquitto: Mosquitto, gateway: StandIn, hangs_up: bool) -> None:
    """Some answer "unacceptable protocol version" to MQTT 5, some just close; behind it a real broker speaks 3.1.1."""
    line = CuttableLine(mosquitto.port)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, _, body = await read_packet(reader)
        if version_of(body) == 5:
            writer.write(b"" if hangs_up else b"\x20\x02\x00\x01")
            return
        replay = asyncio.StreamReader()
        replay.feed_data(bytes([0x10, len(body)]) + body)
        await asyncio.gather(_feed(reader, replay), line.serve(replay, writer))

    device = gateway.add("front_door")
    event = make_event(device)
    with Listener(mosquitto.port) as listener:
        async with listening(serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}", expiry=60) as target:
            assert target._connection
            assert not target._connection.mqtt5
            await target.deliver(event)
            listener.publish("mailwire/bridge/request/any", b"")
            await wait_until(lambda: listener.newest("mailwire/bridge/response/any"))
            line.cut()
            await wait_until(lambda: listener.newest("mailwire/bridge/state") == {"state": "offline"})
            await wait_until(lambda: gateway.readies == 2)
            await wait_until(lambda: listener.newest(EVENTS) == event)


async def _feed(reader: asyncio.StreamReader, replay: asyncio.StreamReader) -> None:
    while data := await reader.read(65536):
        replay.feed_data(data)
    replay.feed_eof()


# --- not a broker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", None),
        (b"220 mail.example ESMTP\r\n", None),
        (b"\x20\x03\x00\x00\x07", None),  # a CONNACK whose properties are cut off
        (b"\x30\xff\xff\xff\xff\xff", None),
        (b"", "127.0.0.1:{port}: the connection broke off; events wait in the store"),
    ],
)
async def test_something_else_listens_there(gateway: StandIn, answer: bytes, words: str | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await writer.drain()

    async with listening(serve) as port, gateway.target(url=f"mqtt://127.0.0.1:{port}"):
        await wait_until(lambda: gateway.problems)
        [said] = gateway.problems
        assert said
        assert said.startswith(f"127.0.0.1:{port}: ")
        assert words is None or said == words.format(port=port)


async def test_broker_that_takes_the_connection_and_says_nothing(
    gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.1)
    async with listening(serve) as port, gateway.target(url=f"mqtt://127.0.0.1:{port}"):
        await wait_until(lambda: gateway.problems)
        assert gateway.problems == [
            f"127.0.0.1:{port} takes the connection but does not answer as an MQTT broker; events wait in the store"
        ]


async def test_unknown_host(gateway: StandIn) -> None:
    async with gateway.target(url="mqtt://broker.invalid"):
        await wait_until(lambda: gateway.problems)
        assert gateway.problems == ["the name broker.invalid is not known here; events wait in the store"]


async def test_stop_does_not_wait_for_a_connection_attempt(gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(serve) as port:
        async with asyncio.timeout(3):
            async with gateway.target(url=f"mqtts://127.0.0.1:{port}"):  # a TLS handshake that nobody answers
                await asyncio.sleep(0.1)


# --- limits of MQTT 5 ------------------------------------------------------------------------------------------


async def test_receive_maximum_is_kept(gateway: StandIn) -> None:
    device = gateway.add("front_door")
    broker = FakeBroker(properties=b"\x21\x00\x03")
    async with (
        listening(broker.serve) as port,
        gateway.connected(url=f"mqtt://127.0.0.1:{port}", discovery=False) as target,
    ):
        await wait_until(lambda: "mailwire/bridge/devices" in [topic for _, topic in broker.published])
        broker.hold = True
        load = Load(target, [make_event(device) for _ in range(50)])
        for _ in range(15):
            await wait_until(lambda: len(broker.held) == 3)
            broker.acknowledge()
        broker.hold = False
        broker.acknowledge()
        await load.end()
    assert broker.most_held == 3


async def test_broker_without_retained_messages(gateway: StandIn) -> None:
    broker = FakeBroker(properties=b"\x25\x00")
    async with listening(broker.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}"):
        await wait_until(lambda: len(broker.published) > 3)
    assert {flags & 1 for flags, _ in broker.published} == {0}


async def test_broker_without_qos_1(gateway: StandIn) -> None:
    broker = FakeBroker(properties=b"\x24\x00")
    async with listening(broker.serve) as port, gateway.target(url=f"mqtt://127.0.0.1:{port}"):
        await wait_until(lambda: gateway.problems)
        assert gateway.problems == [
            f"the MQTT broker on 127.0.0.1:{port} refuses us: it takes QoS 0 only, so nothing sent to it is sure; "
            "events wait in the store"
        ]


async def test_topic_that_is_too_long_is_refused_and_takes_no_place(mosquitto: Mosquitto, gateway: StandIn) -> None:
    async with gateway.connected(url=mosquitto.url) as target:
        connection = target._connection
        assert connection
        with pytest.raises(client.Refusal, match="a topic of 65536 characters is too long"):
            await connection.publish("x" * 0x10000, b"")
        await connection.publish("y" * 0x3FFF, b"")
        await wait_until(lambda: not connection._under_way)


async def test_event_that_is_too_large_is_refused_for_good(gateway: StandIn) -> None:
    device = gateway.add("front_door")
    broker = FakeBroker(properties=b"\x27\x00\x01\x00\x00")
    async with listening(broker.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}") as target:
        await target.deliver(make_event(device))
        with pytest.raises(Refused, match=r"^\d+ bytes are more than the broker takes$"):
            await target.deliver(make_event(device, text="x" * 70_000))


@pytest.mark.parametrize(
    ("reason", "error", "words"),
    [
        (0x97, Retry, "the broker refused mailwire/front_door/event: Quota exceeded"),
        (0x99, Refused, "the broker refused mailwire/front_door/event: Payload format invalid"),
    ],
)
async def test_negative_acknowledgement(gateway: StandIn, reason: int, error: type[Exception], words: str) -> None:
    device = gateway.add("front_door")
    broker = FakeBroker()
    async with listening(broker.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}") as target:
        await wait_until(lambda: "mailwire/front_door/state" in [topic for _, topic in broker.published])
        broker.hold = True
        delivery = asyncio.create_task(target.deliver(make_event(device)))
        await wait_until(lambda: EVENTS in [topic for _, topic in broker.published])
        broker.hold = False
        broker.acknowledge(reason)
        with pytest.raises(error) as caught:
            await delivery
        assert str(caught.value) == words


async def test_no_matching_subscribers_is_a_success(gateway: StandIn) -> None:
    device = gateway.add("front_door")
    broker = FakeBroker()
    async with listening(broker.serve) as port, gateway.connected(url=f"mqtt://127.0.0.1:{port}") as target:
        broker.hold = True
        delivery = asyncio.create_task(target.deliver(make_event(device)))
        while not delivery.done():
            broker.acknowledge(0x10)
            await asyncio.sleep(0.001)
        broker.hold = False
        await delivery


# --- TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server.pem and client.pem (each with its key) signed by it; other.pem knows nobody."""
    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: x509.Name | None, signer: ec.EllipticCurvePrivateKey | None) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(signer or key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return subject, key

    authority, signer = make("ca", None, None)
    make("server", authority, signer)
    make("client", authority, signer)
    make("other", None, None)
    return folder


@pytest.fixture
def secure(tmp_path: Path, certificates: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(
        tmp_path / "mosquitto",
        f"cafile {certificates}/ca.pem",
        f"certfile {certificates}/server.pem",
        f"keyfile {certificates}/server.key",
        "require_certificate true",
    ).start()
    try:
        yield broker
    finally:
        broker.stop()


def login(certificates: Path) -> dict[str, str]:
    return {"cert": str(certificates / "client.pem"), "key": str(certificates / "client.key")}


@pytest.mark.parametrize("trust", ["ca", "insecure"])
async def test_tls(secure: Mosquitto, gateway: StandIn, certificates: Path, trust: str) -> None:
    tls = login(certificates) | ({"ca": str(certificates / "ca.pem")} if trust == "ca" else {"insecure": True})
    device = gateway.add("front_door")

    async def big(_: Any) -> dict[str, Any]:
        return {"text": "x" * 300_000}

    gateway.verbs["big"] = big
    async with gateway.connected(url=secure.url.replace("mqtt:", "mqtts:"), tls=tls) as target:
        await Load(target, [make_event(device, text="x" * 3000) for _ in range(500)]).end()
        # Many requests in one TLS record: none may stay behind in what is decrypted already.
        assert target._connection
        outcomes = [
            target._connection.publish("mailwire/bridge/request/big", b'{"transaction": %d}' % number)
            for number in range(10)
        ]
        await asyncio.gather(*outcomes)
        await wait_until(lambda: not target._requests._tasks)


async def test_certificate_that_is_not_trusted(secure: Mosquitto, gateway: StandIn, certificates: Path) -> None:
    tls = login(certificates) | {"ca": str(certificates / "other.pem")}
    async with gateway.target(url=secure.url.replace("mqtt:", "mqtts:"), tls=tls):
        await wait_until(lambda: gateway.problems)
    assert gateway.problems == [
        f"the certificate of 127.0.0.1:{secure.port} is not trusted: self-signed certificate in certificate chain; "
        "events wait in the store"
    ]


async def test_tls_file_that_is_missing(gateway: StandIn, tmp_path: Path) -> None:
    target = mqtt.Mqtt(gateway.context, mqtt.Config(url="mqtts://broker.lan", tls={"ca": tmp_path / "none.pem"}))
    with pytest.raises(Broken) as caught:
        await target.start()
    assert str(caught.value) == f"tls: there is no file {tmp_path}/none.pem"
    await target.stop()
