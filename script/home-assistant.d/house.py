"""A Home Assistant in a folder of its own, and what it says through its API.

The folder is written as its own first start and a person would leave it: MQTT set up, a user, a token. Facts of its
files are of 2025.4 (`homeassistant/components/onboarding`, `config_entries.py`); a newer one migrates them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

START = 60.0  # seconds that anything may take
_OF_COURSE = (  # when the broker goes, and comes back
    "The connection was lost",
    "Connection refused",
    "failed to receive on socket",
    "No ACK from MQTT server",
    "No device components to cleanup",
)
"""What it says of a broker that is away, and of a device that was removed."""
CLIENT = "http://127.0.0.1/"


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Ask until the answer is something true, and return that."""
    deadline = time.monotonic() + START
    while True:
        try:
            if value := await condition():
                return value
        except aiohttp.ClientError:
            value = None
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {START:g} s in vain: {what}")
        await asyncio.sleep(0.1)


class House:
    """`start`, ask, `stop`, `start` again: what it knew it knows."""

    def __init__(self, folder: Path, program: Path, port: int, broker: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._number = 0
        self._tokens: dict[str, Any] = {}
        self._write(port, broker)

    def _write(self, port: int, broker: int) -> None:
        storage = self.folder / ".storage"
        storage.mkdir(parents=True)
        (self.folder / "configuration.yaml").write_text(
            "homeassistant: {name: Test, latitude: 52.5, longitude: 13.4, elevation: 30, unit_system: metric, "
            "time_zone: UTC, country: DE, currency: EUR, language: en}\n"
            f"http: {{server_host: 127.0.0.1, server_port: {port}}}\nfrontend:\nlogger: {{default: warning}}\n"
        )
        now = "2025-01-01T00:00:00+00:00"
        entry = {
            "created_at": now,
            "modified_at": now,
            "disabled_by": None,
            "discovery_keys": {},
            "domain": "mqtt",
            "data": {"broker": "127.0.0.1", "port": broker, "protocol": "5"},
            "options": {},
            "subentries": [],
            "entry_id": "mqtt0",
            "version": 1,
            "minor_version": 2,
            "pref_disable_new_entities": False,
            "pref_disable_polling": False,
            "source": "user",
            "title": "MQTT",
            "unique_id": None,
        }
        self._store("onboarding", 4, 1, {"done": ["core_config", "analytics", "integration"]})
        self._store("core.config_entries", 1, 5, {"entries": [entry]})

    def _store(self, key: str, version: int, minor: int, data: Any) -> None:
        document = {"version": version, "minor_version": minor, "key": key, "data": data}
        (self.folder / ".storage" / key).write_text(json.dumps(document))

    async def start(self) -> None:
        with (self.folder / "hass.log").open("ab") as log:
            command = [self._program, "-c", self.folder, "--skip-pip"]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220
        self._session = aiohttp.ClientSession(self.url)
        await until(lambda: self._answers("/manifest.json"), "Home Assistant answers")
        if not self._tokens:
            await self._become_its_user()
        token = self._tokens["access_token"]
        await self._session.close()
        self._session = aiohttp.ClientSession(self.url, headers={"Authorization": f"Bearer {token}"})
        await until(self._runs, "Home Assistant runs")
        self._socket = await self._session.ws_connect("/api/websocket", max_msg_size=0)
        await self._socket.receive_json()
        await self._socket.send_json({"type": "auth", "access_token": token})
        assert (await self._socket.receive_json())["type"] == "auth_ok"

    async def stop(self) -> None:
        if self._socket:
            await self._socket.close()
        if self._session:
            await self._session.close()
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self._process.wait, START)
            self._process = None

    async def _answers(self, path: str) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.folder / "hass.log").read_text()[-3000:]
        assert self._session
        async with self._session.get(path) as answer:
            return answer.status == 200

    async def _runs(self) -> bool:
        return bool((await self.get("/api/config"))["state"] == "RUNNING")

    async def _become_its_user(self) -> None:
        assert self._session
        user = {"client_id": CLIENT, "name": "test", "username": "test", "password": "test", "language": "en"}
        async with self._session.post("/api/onboarding/users", json=user) as answer:
            code = (await answer.json())["auth_code"]
        form = {"grant_type": "authorization_code", "code": code, "client_id": CLIENT}
        async with self._session.post("/auth/token", data=form) as answer:
            self._tokens = await answer.json()

    # --- what it says ------------------------------------------------------------------------------------------

    async def get(self, path: str) -> Any:
        assert self._session
        async with self._session.get(path) as answer:
            answer.raise_for_status()
            return await answer.json() if "json" in answer.headers["Content-Type"] else await answer.read()

    async def call(self, service: str, entity_id: str, **data: Any) -> None:
        assert self._session
        url = f"/api/services/{service.replace('.', '/')}"
        async with self._session.post(url, json={"entity_id": entity_id, **data}) as answer:
            answer.raise_for_status()

    async def ask(self, kind: str, **words: Any) -> Any:
        """By its websocket."""
        assert self._socket
        self._number += 1
        await self._socket.send_json({"id": self._number, "type": kind, **words})
        while (answer := await self._socket.receive_json()).get("id") != self._number:
            pass
        assert answer["success"], answer
        return answer["result"]

    async def states(self) -> dict[str, dict[str, Any]]:
        return {one["entity_id"]: one for one in await self.get("/api/states")}

    async def entities(self) -> dict[str, dict[str, Any]]:
        """Unique id -> its entry in the registry; ours alone."""
        found = await self.ask("config/entity_registry/list")
        return {one["unique_id"]: one for one in found if one["platform"] == "mqtt"}

    async def devices(self) -> dict[str, dict[str, Any]]:
        """Identifier -> its entry in the registry; ours alone."""
        found = await self.ask("config/device_registry/list")
        return {
            one["identifiers"][0][1]: one for one in found if one["identifiers"] and one["identifiers"][0][0] == "mqtt"
        }

    async def complaints(self) -> list[str]:
        """What it says of MQTT in its log."""
        found = await self.ask("system_log/list")
        said = [f"{one['name']}: {text}" for one in found if "mqtt" in one["name"] for text in one["message"]]
        return [line for line in said if not any(words in line for words in _OF_COURSE)]

    def browser_tokens(self) -> str:
        """What a browser that is logged in keeps as `hassTokens`."""
        expires = int((time.time() + self._tokens["expires_in"]) * 1000)
        return json.dumps({**self._tokens, "hassUrl": self.url, "clientId": CLIENT, "expires": expires})
