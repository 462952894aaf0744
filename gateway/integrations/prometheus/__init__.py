"""Service: the gateway seen from outside, over HTTP. Metrics for Prometheus, health for whoever restarts or watches it.

`/metrics`: all that is counted. `/healthz`: 503 if starting the gateway anew may help, else 200; a broker that is away
or a full disk is 200 with `"status": "degraded"`, for a restart would only take the listener away as well. `/readyz`:
200 if a mail would be taken now, else 503. There is no login: by default only this machine is answered.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.api import Broken, ConfigModel, Context, NotReady, Service
from gateway.integrations.prometheus.exposition import Exposition
from gateway.integrations.prometheus.web import Page, Web

_EXAMPLE = "127.0.0.1:9925"


class Config(ConfigModel):
    """Where to answer."""

    listen: str = Field(
        default=_EXAMPLE, description="Address and port; 0.0.0.0:9925 answers the network, without a login"
    )

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(f"//{value}")
            complete = parts.netloc == value and parts.hostname and parts.port is not None and not parts.username
        except ValueError:
            complete = False
        if not complete:
            raise ValueError(f"'{value}' is not an address and a port: write it like '{_EXAMPLE}' or '[::1]:9925'")
        return value


class Prometheus(Service):
    """See the text at the top."""

    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._exposition = Exposition()
        pages = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        self._web = Web(pages, context.log)

    async def start(self) -> None:
        parts = urlsplit(f"//{self.config.listen}")
        try:
            await self._web.start(parts.hostname or "", parts.port or 0)
        except OSError as error:
            where = self.config.listen
            if error.errno == errno.EADDRINUSE:
                raise NotReady(f"{where} is taken by another program: choose another port under 'listen'") from error
            if error.errno == errno.EACCES:
                raise Broken(f"{where} may not be opened: choose a port from 1024 up under 'listen'") from error
            raise NotReady(f"{where} can't be opened: {error.strerror or error}") from error

    async def stop(self) -> None:
        await self._web.stop()

    def describe(self) -> str:
        return f"metrics on http://{self._web.address or self.config.listen}/metrics, health on /healthz and /readyz"

    def _metrics(self, headers: Mapping[str, str]) -> Page:
        return Page(200, *self._exposition.render(self.context.gateway.metrics(), headers.get("accept", "")))

    def _healthz(self, _: Mapping[str, str]) -> Page:
        health = self.context.gateway.health()
        return _verdict(health, well=health["status"] != "failing")

    def _readyz(self, _: Mapping[str, str]) -> Page:
        health = self.context.gateway.health()
        return _verdict(health, well=health["ready"])


def _verdict(health: Mapping[str, Any], *, well: bool) -> Page:
    said = {key: health[key] for key in ("status", "ready", "reasons")}
    return Page(200 if well else 503, json.dumps(said).encode() + b"\n", "application/json")
