"""Sends the sample mails through a gateway and a broker into Home Assistant, and asks that what came of it.

Each check prints a line when it holds; the first that does not ends it, with exit code 1 and the logs left in the
folder that is named. The table at the end is what Home Assistant shows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import smtplib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from house import House, until  # noqa: E402
from paho.mqtt import publish  # noqa: E402

from gateway.interpret import attachment  # noqa: E402
from tests.integrations.mqtt import library  # noqa: E402
from tests.live import Gateway  # noqa: E402
from tests.mosquitto import Mosquitto, free_port  # noqa: E402

HOME = ROOT / ".cache" / "home-assistant"
CONFIG = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{broker}"}}
  phone: {{type: apprise, urls: ["json://127.0.0.1:{people}/"]}}
routes:
  - {{to: [broker, phone]}}
"""
MAIL = "From: {name} <{name}@lan>\r\nTo: alerts@gw\r\nSubject: {subject}\r\n\r\n{text}\r\n"
VOLATILE = ("last_changed", "last_reported", "last_updated", "context")
ATTRIBUTES_OF_OURS = ("event_type", "title", "troubles", "unit_of_measurement", "device_class")


class People:
    """Who is told: what an Apprise service posts."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.told = told
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def titles(self) -> list[str]:
        return [one["title"] for one in list(self.told)]


class Check:
    """The programs, and the checks in their order."""

    def __init__(self, folder: Path, pictures: Path | None) -> None:
        self.folder = folder
        self.pictures = pictures
        self.people = People()
        self.broker = Mosquitto(folder / "mosquitto")
        self.house = House(folder / "house", HOME / "bin" / "hass", free_port(), self.broker.port)
        text = CONFIG.format(broker=self.broker.port, people=self.people.port)
        self.gateway = Gateway(folder / "gateway", text)
        self.samples = {}

    async def play(self) -> None:
        self.broker.start()
        self.gateway.start()
        try:
            await self.house.start()
            await self._checks()
            complaints = await self.house.complaints()
            assert not complaints, "\n".join(complaints)
            print("ok: Home Assistant's log has no complaint about MQTT")
        finally:
            await self.house.stop()
            await asyncio.to_thread(self.gateway.terminate)
            self.broker.stop()

    async def _checks(self) -> None:
        await self._send_the_library()
        await self._events()
        before = await self._entities()
        print_table(before)
        print(f"ok: {len(await self.house.devices())} devices, {len(before)} entities of them shown above")
        await self._image()
        await self._triggers()
        await self._controls()
        await self._notify()
        if self.pictures:
            await self._take_pictures("")
        await self._restarts()
        if self.pictures:
            await self._take_pictures("-restarted")
        await self._renamed()
        await self._forgotten()

    # --- what came of the mails --------------------------------------------------------------------------------

    async def _send_the_library(self) -> None:
        samples = library.samples()
        for number, path in enumerate(samples, 1):
            envelope = library.envelope(path, number)
            source = f"127.1.{number // 256}.{number % 256}"
            await asyncio.to_thread(self._send, path.read_bytes(), envelope.helo, envelope.mail_from, source)
        await asyncio.to_thread(self.gateway.settled, len(samples))
        self.known = {device["id"]: device for device in self.gateway.json("devices")}

        async def all_there() -> bool:
            return {f"mailwire_{one}" for one in self.known} <= (await self.house.devices()).keys()

        await until(all_there, "each device is in Home Assistant")
        await until(self._as_the_gateway_says, "each state is as the gateway says")
        print(f"ok: {len(samples)} mails of {len(self.known)} devices; each state, quantity and title is there")

    async def _events(self) -> None:
        """All once more: while it learns of hundreds of devices, Home Assistant listens to none of them yet."""
        ids = [mail["id"] for mail in self.gateway.mails()]
        await asyncio.to_thread(self.gateway.cli, "replay", *ids)

        async def shown() -> bool:
            now = await self._entities()
            self.wrong = {
                device_id: now[f"mailwire_{device_id}_event"]
                for device_id, device in self.known.items()
                if now[f"mailwire_{device_id}_event"]["event_type"] not in device["kinds"]
            }
            return not self.wrong

        await until(shown, "each event entity has had an event")
        print(f"ok: {len(self.known)} event entities have had a declared event")

    def _send(self, content: bytes, helo: str, sender: str, source: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.gateway.port, helo or "device", source_address=(source, 0)) as smtp:
            smtp.helo(helo or "device")
            smtp.docmd("MAIL", f"FROM:<{sender}>")
            smtp.docmd("RCPT", "TO:<alerts@gw>")
            code, answer = smtp.data(content)
            assert code == 250, answer

    def _mail(self, name: str, subject: str, text: str = "") -> None:
        self._send(MAIL.format(name=name, subject=subject, text=text).encode(), name, f"{name}@lan", "127.0.0.1")

    async def _as_the_gateway_says(self) -> bool:
        states, entities = await self.house.states(), await self.house.entities()
        for device_id, device in self.known.items():
            own = f"mailwire_{device_id}"
            expected = {f"{own}_state_{kind}": state for kind, state in device["states"].items()}
            expected |= {f"{own}__{key}": str(value) for key, (value, _) in device["quantities"].items()}
            expected[f"{own}_last"] = " ".join(device["last_event"]["title"].split())
            expected[f"{own}_problem"] = "on" if device["troubles"] else "off"
            for unique_id, state in expected.items():
                entity = entities.get(unique_id)
                if entity is None or states[entity["entity_id"]]["state"] != state:
                    self.wrong = (unique_id, state)
                    return False
        return True

    async def _entities(self) -> dict[str, dict[str, Any]]:
        """Unique id -> what Home Assistant shows: the state, and the attributes that are ours."""
        states, entities = await self.house.states(), await self.house.entities()
        return {
            unique_id: {
                "entity_id": entity["entity_id"],
                "state": states[entity["entity_id"]]["state"],
                **{key: states[entity["entity_id"]]["attributes"].get(key) for key in ATTRIBUTES_OF_OURS},
            }
            for unique_id, entity in entities.items()
            if entity["entity_id"] in states
        }

    async def _entity(self, unique_id: str) -> str:
        return str((await self.house.entities())[unique_id]["entity_id"])

    async def _shows(self, unique_id: str, state: str) -> None:
        entity_id = await self._entity(unique_id)

        async def does() -> bool:
            return bool((await self.house.states())[entity_id]["state"] == state)

        await until(does, f"{entity_id} is {state}")

    async def _image(self) -> None:
        count = 0
        for device_id, device in self.known.items():
            if not device["picture"]:
                continue
            event_id, index = device["picture"]
            shown = await self.house.get(f"/api/image_proxy/{await self._entity(f'mailwire_{device_id}_picture')}")
            kept = self.gateway.cli("mails", event_id, "--raw").stdout
            assert shown == attachment(kept, index), device_id
            count += 1
        print(f"ok: {count} pictures, byte for byte")

    async def _triggers(self) -> None:
        devices, count = await self.house.devices(), 0
        for device_id, device in self.known.items():
            words = {"device_id": devices[f"mailwire_{device_id}"]["id"]}
            offered = await self.house.ask("device_automation/trigger/list", **words)
            found = {one["subtype"] for one in offered if one["domain"] == "mqtt"}
            assert found == {kind.replace("_", " ") for kind in device["kinds"]}, (device_id, found)
            count += len(found)
        print(f"ok: {count} kinds are offered as triggers of their devices")

    # --- what it tells the gateway -----------------------------------------------------------------------------

    async def _controls(self) -> None:
        await asyncio.to_thread(self._mail, "pump7", "Power failure")
        await until(self._is_there("mailwire_pump7_alerts"), "the pump is there")
        await until(self._told("Power failure"), "a person is told")
        await self._shows("mailwire_pump7_alerts", "on")  # a service of an entity that is not available does nothing
        await self._first_event()
        alerts = await self._entity("mailwire_pump7_alerts")
        await self.house.call("switch.turn_off", alerts)
        await self._shows("mailwire_pump7_alerts", "off")
        await asyncio.to_thread(self._mail, "pump7", "Power failure at night")
        await self._shows("mailwire_pump7_last", "Power failure at night")
        listed = self.gateway.cli("devices").stdout.decode()
        assert "till somebody ends it" in listed
        self.gateway.kill()
        self.gateway.start()
        await self._shows("mailwire_pump7_alerts", "off")
        await self.house.call("switch.turn_on", alerts)
        await self._shows("mailwire_pump7_alerts", "on")
        await asyncio.to_thread(self._mail, "pump7", "Power failure in the morning")
        await until(self._told("Power failure in the morning"), "a person is told again")
        assert not await self._told("Power failure at night")()
        print("ok: alerts off: MQTT has the event, nobody is told, over a kill of the gateway; and on again")

        await self.house.call("button.press", await self._entity("mailwire_pump7_mute"))
        await self._shows("mailwire_pump7_alerts", "off")
        await self.house.call("switch.turn_on", alerts)
        await self._shows("mailwire_pump7_alerts", "on")
        await self._shows("mailwire_pump7_problem", "on")
        await self.house.call("button.press", await self._entity("mailwire_pump7_clear"))
        await self._shows("mailwire_pump7_problem", "off")
        await self._shows("mailwire_pump7_state_power", "off")
        await self.house.call("button.press", await self._entity("mailwire_pump7_test"))
        await until(self._told("Test of Pump7"), "a person is told of the test")
        await self._shows("mailwire_pump7_last", "Test of Pump7")
        print("ok: buttons: mute, all clear, test")

    async def _first_event(self) -> None:
        async def shown() -> bool:
            return (await self._entities())["mailwire_pump7_event"]["title"] == "Power failure"

        await until(shown, "a device's first event is in its event entity")
        print("ok: a device's first event is in its event entity")

    def _told(self, title: str) -> Callable[[], Any]:
        async def told() -> bool:
            return any(title == told.rpartition(": ")[2] for told in self.people.titles())

        return told

    def _is_there(self, unique_id: str, there: bool = True) -> Callable[[], Any]:
        async def is_it() -> bool:
            return (unique_id in await self.house.entities()) == there

        return is_it

    async def _notify(self) -> None:
        entity_id = await self._entity("mailwire_notify_phone")
        await self.house.call("notify.send_message", entity_id, message="Washing machine\nIt is done.")
        await until(self._told("Washing machine"), "a person is told by notify")
        print("ok: notify: the message's first line is the title")

    # --- restarts ----------------------------------------------------------------------------------------------

    async def _restarts(self) -> None:
        before = await self._entities()

        async def same() -> bool:
            """As before, but for what has ended by itself meanwhile: and that must be as the gateway says."""
            now = await self._entities()
            self.known = {device["id"]: device for device in self.gateway.json("devices")}
            self.wrong = {
                key: (one, now.get(key)) for key, one in before.items() if now.get(key) not in (one, *_ended(key, one))
            }
            return not self.wrong and await self._as_the_gateway_says()

        async def restart_house() -> None:
            await self.house.stop()
            await self.house.start()

        async def restart_broker() -> None:
            self.broker.stop()
            self.broker.start()

        async def lose_broker() -> None:
            self.broker.kill()
            (self.folder / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
            self.broker.start()

        async def restart_gateway() -> None:
            await asyncio.to_thread(self.gateway.terminate)
            self.gateway.start()

        async def kill_gateway() -> None:
            self.gateway.kill()
            self.gateway.start()

        # An image's state is when it came; it is told again where its bytes were lost.
        for what, restart in (
            ("Home Assistant", restart_house),
            ("the broker", restart_broker),
            ("the broker, which lost all that it kept", lose_broker),
            ("the gateway", restart_gateway),
            ("the gateway, killed", kill_gateway),
        ):
            before = {key: one for key, one in before.items() if not one["entity_id"].startswith(("image.", "button."))}
            await restart()
            try:
                await until(same, "all states as before")
            except TimeoutError:
                raise AssertionError(f"after a restart of {what}: {dict(list(self.wrong.items())[:5])}") from None
            print(f"ok: {len(before)} states as before a restart of {what}")

    # --- names, and the end ------------------------------------------------------------------------------------

    async def _renamed(self) -> None:
        before = await self.house.entities()
        self._request("rename", {"device": "pump7", "name": "Cellar pump"})

        async def renamed() -> bool:
            return (await self.house.devices())["mailwire_pump7"]["name"] == "Cellar pump"

        await until(renamed, "the device has its new name")
        after = await self.house.entities()
        assert {key: one["entity_id"] for key, one in after.items()} == {
            key: one["entity_id"] for key, one in before.items()
        }
        print("ok: a renamed device keeps its entities and their ids")

    async def _forgotten(self) -> None:
        self._request("forget", {"device": "pump7"})
        await until(self._is_there("mailwire_pump7_event", there=False), "a device that is forgotten is gone")
        gone = next(iter(self.known))
        await asyncio.to_thread(self.gateway.terminate)
        self.gateway.cli("devices", "forget", gone)
        self.gateway.start()
        await until(self._is_there(f"mailwire_{gone}_event", there=False), "one that was forgotten meanwhile is gone")
        devices = await self.house.devices()
        assert not {"mailwire_pump7", f"mailwire_{gone}"} & devices.keys()
        print("ok: a device that is forgotten is gone, also if the gateway did not run then")

        text = self.gateway.config.read_text()
        self.gateway.config.write_text(re.sub(r"  phone: .*\n", "", text).replace(", phone]", "]"))
        self.gateway.hang_up()
        await until(self._is_there("mailwire_notify_phone", there=False), "its notify entity is gone")
        print("ok: a target that is no longer configured is gone")

    def _request(self, verb: str, request: dict[str, Any]) -> None:
        topic = f"mailwire/bridge/request/{verb}"
        publish.single(topic, json.dumps(request), qos=1, hostname="127.0.0.1", port=self.broker.port)

    # --- pictures ----------------------------------------------------------------------------------------------

    async def _take_pictures(self, suffix: str) -> None:
        assert self.pictures
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        if chromium is None:
            print("no pictures: chromium is not installed: apt-get install chromium")
            return
        devices, pages = await self.house.devices(), []
        for name, kind in (("camera", "motion"), ("ups", "power"), ("nas", "disk")):
            chosen = [one for one in self.known.values() if kind in one["kinds"]]
            best = max(
                chosen, key=lambda one: (one["picture"] is not None, len(one["quantities"]), one["manufacturer"] or "")
            )
            page = f"{self.house.url}/config/devices/device/{devices['mailwire_' + best['id']]['id']}"
            pages.append(f"{self.pictures / (name + suffix)}.png={page}")
        script = str(Path(__file__).with_name("pictures.py"))
        command = [str(HOME / "bin" / "python"), script, chromium, self.house.browser_tokens(), *pages]
        await asyncio.to_thread(subprocess.run, command, check=True)
        print(f"pictures: {', '.join(page.partition('=')[0] for page in pages)}")


def _ended(key: str, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What an entity may have become by itself: a state that ends, and the trouble that it was."""
    off = {**one, "state": "off"}
    return [off] if "_state_" in key else [{**off, "troubles": []}] if key.endswith("_problem") else []


def print_table(entities: dict[str, dict[str, Any]]) -> None:
    rows = sorted((one["entity_id"], one) for one in entities.values())
    for entity_id, one in rows:
        unit = f" {one['unit_of_measurement']}" if one["unit_of_measurement"] else ""
        kind = f" ({one['device_class']})" if one["device_class"] else ""
        said = f" {one['event_type']}: {one['title']}" if one["event_type"] else ""
        print(f"{entity_id:60} {one['state']}{unit}{kind}{said}"[:160])


def main() -> int:
    parser = argparse.ArgumentParser("script/test-home-assistant", description=__doc__)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="take pictures of three device pages into it")
    args = parser.parse_args()
    if args.pictures:
        args.pictures = args.pictures.resolve()
        args.pictures.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="mailwire-house-"))
    try:
        asyncio.run(Check(folder, args.pictures).play())
    except (AssertionError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"FAILED: {error}\nThe logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
