"""Service: the gateway seen from outside, over HTTP. Metrics for Prometheus, health for whoever restarts or watches it.

`/metrics`: all that is counted. `/healthz`: 503 if starting the gateway anew may help, else 200; a broker that is away
or a full disk is 200 with `"status": "degraded"`, for a restart would only take the listener away as well. `/readyz`:
200 if a mail would be taken now, else 503. There is no login: by default only this machine is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from gateway.api import ConfigModel, Context, Service, host_and_port, not_opened
from gateway.integrations.prometheus.exposition import Exposition
from gateway.integrations.prometheus.web import Page, Web

_EXAMPLE = "127.0.0.1:9925"


class Config(ConfigModel):
    """Where to answer."""

    listen: Annotated[str, host_and_port(_EXAMPLE)] = Field(
        default=_EXAMPLE, description="Address and port; 0.0.0.0:9925 answers the network, without a login"
    )


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
            raise not_opened(self.config.listen, error) from error

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
