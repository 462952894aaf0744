"""Source: events by HTTP POST, from whatever can call a URL; and the page behind a link on which people acknowledge.

`POST /hook/<name>` with that hook's token, as `Authorization: Bearer <token>`, as a header `X-Token` or, for those that
can't set one, as `?token=`. JSON, a form or plain text; the shapes of some well-known programs are understood. 200 is
answered when the events are in the store; 503 if they can't be kept now, so that the sender tries again.

`/ack/<event>/<signature>` is a page with a button: nothing is acknowledged by looking at it, for mail scanners do. The
signature is made with a key of this installation, so nobody can acknowledge what was not sent to him.

aiohttp, which speaks HTTP here, is an extra (`pip install 'mailwire[webhook]'`), imported when the gateway starts this.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, SecretStr

from gateway.api import (
    ConfigModel,
    Context,
    RequestRefused,
    Source,
    StoreTrouble,
    TargetNames,
    host_and_port,
    kept_key,
    not_opened,
    notification,
)
from gateway.integrations.webhook import shapes

if TYPE_CHECKING:
    from aiohttp import web

_EXAMPLE = "127.0.0.1:8026"
_AROUND = ("payload", "json")  # fields of a form that is around JSON
_TEXTS = ("text/plain", "application/octet-stream", "application/x-www-form-urlencoded")
_IDLE = 30.0  # seconds for the head of a request; aiohttp's hour would let anybody collect connections
_STYLE = "body{font:1.2em sans-serif;margin:3em auto;max-width:30em;padding:0 1em}button{font:inherit;padding:.6em 1em}"


class Hook(ConfigModel):
    """Who may call, and where its events go."""

    token: SecretStr = Field(min_length=8, description="What the caller must know; at least 8 characters")
    device: str | None = Field(
        default=None, min_length=1, description="Of events that name none; default: the hook's name"
    )
    to: TargetNames = Field(default=(), description="Targets; without, the routes say")


class Config(ConfigModel):
    """Where to answer, and whom."""

    listen: Annotated[str, host_and_port(_EXAMPLE)] = Field(
        default=_EXAMPLE, description="Address and port; 0.0.0.0:8026 answers the network"
    )
    hooks: Mapping[str, Hook] = Field(default_factory=dict)
    url: str | None = Field(
        default=None, pattern="^https?://[^/]+", description="How people reach this page: 'http://gateway.lan:8026'"
    )
    max_size: ByteSize = Field(default=ByteSize(10 * 1024**2), description="Of a request")


class Webhook(Source):
    """See the text at the top."""

    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._runner: web.AppRunner | None = None
        self._address = config.listen
        self._key = b""

    async def start(self) -> None:
        from aiohttp import web

        self._key = kept_key(self.context.data_dir / "key")
        app = web.Application(client_max_size=int(self.config.max_size))
        app.add_routes(
            [
                web.route("*", "/hook/{name}", self._called),
                web.get("/ack/{event}/{signature}", self._page),
                web.post("/ack/{event}/{signature}", self._acknowledged),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=_IDLE)
        await self._runner.setup()
        parts = urlsplit(f"//{self.config.listen}")
        site = web.TCPSite(self._runner, parts.hostname, parts.port)
        try:
            await site.start()
        except OSError as error:
            raise not_opened(self.config.listen, error) from error
        host, port = self._runner.addresses[0][:2]
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    def describe(self) -> str:
        return f"webhooks on http://{self._address}/hook/… ({', '.join(self.config.hooks) or 'none configured'})"

    def acknowledge_url(self, event_id: str) -> str | None:
        base = (self.config.url or f"http://{self._address}").rstrip("/")
        return f"{base}/ack/{event_id}/{self._signature(event_id)}"

    # --- events ------------------------------------------------------------------------------------------------

    async def _called(self, request: web.Request) -> web.Response:
        from aiohttp import web

        name = request.match_info["name"]
        hook = self.config.hooks.get(name)
        given = _token(request)
        expected = hook.token.get_secret_value() if hook else secrets.token_hex()  # it takes as long for either
        if not _same(given, expected) or not hook:
            self.context.log.warning("a call of the hook %r from %s had no right token", name[:64], request.remote)
            return web.Response(status=401, text="There is no such hook, or the token is wrong.\n")
        if request.method not in ("POST", "PUT"):
            return web.Response(status=405, text="Use POST.\n", headers={"Allow": "POST"})
        try:
            drafts = await _drafts(request)
            for draft in drafts:
                draft["device"] = draft.get("device") or hook.device or name
                await self.context.emit(draft | ({"targets": list(hook.to)} if hook.to else {}))
        except (ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"{error}\n")
        except StoreTrouble as error:
            return web.Response(status=503, text=f"{error}\n", headers={"Retry-After": "30"})
        return web.json_response({"events": len(drafts)})

    # --- acknowledging -----------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        return _html("Acknowledge this alarm, so that nobody else is told?", "<button autofocus>Acknowledge</button>")

    async def _acknowledged(self, request: web.Request) -> web.Response:
        if refused := self._refused(request):
            return refused
        try:
            answer = await self.context.gateway.request("ack", {"id": request.match_info["event"]})
        except RequestRefused as error:
            return _html(str(error), "", 400)
        return _html(
            "Thank you: acknowledged." if answer["acknowledged"] else "Somebody has acknowledged it before.", ""
        )

    def _refused(self, request: web.Request) -> web.Response | None:
        right = self._signature(request.match_info["event"])
        if _same(right, request.match_info["signature"]):
            return None
        return _html("This link is not right. Was a part of it cut off?", "", 403)

    def _signature(self, event_id: str) -> str:
        return hmac.new(self._key, event_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _same(one: str, other: str) -> bool:
    """In a time that tells nothing; what a peer sends may be no UTF-8, and is surrogates then."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def _token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return request.headers.get("X-Token") or request.query.get("token", "")


async def _drafts(request: web.Request) -> list[dict[str, Any]]:
    """Raises ValueError with what is wrong."""
    kind = request.content_type
    if kind == "multipart/form-data":
        return _of_form(await _form(request))
    content = await request.read()
    if kind == "application/x-www-form-urlencoded":
        # What `curl -d` sends says that it is a form, also if it is JSON or a text.
        if content.lstrip().startswith(b"{"):
            return _of_json(content)
        fields = await _form(request)
        if notification.says_something(fields) or any(fields.get(key) for key in _AROUND):
            return _of_form(fields)
    if kind in _TEXTS or not content:
        return [notification.draft(_in_utf8(content, request.charset))]
    return _of_json(content)


async def _form(request: web.Request) -> Mapping[str, Any]:
    from aiohttp.http import HttpProcessingError

    try:
        return await request.post()
    except (ValueError, LookupError, HttpProcessingError) as error:  # LookupError: of a charset that nobody knows
        raise ValueError(f"this is no form: {' '.join(str(error).split())}") from None


def _of_form(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    said: dict[str, Any] = {key: value for key, value in fields.items() if isinstance(value, str)}
    if around := next((said[key] for key in _AROUND if said.get(key)), None):
        return _of_json(around)
    files = [value for value in fields.values() if not isinstance(value, str | bytes | bytearray)]
    made = notification.of_object(said)
    made["files"] = [(one.filename, one.content_type, one.file.read()) for one in files]
    return [made]


def _of_json(content: str | bytes) -> list[dict[str, Any]]:
    try:
        said = json.loads(content)
    except ValueError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise ValueError('this is no JSON object such as {"message": "…"}')
    return shapes.drafts(said)


def _in_utf8(content: bytes, charset: str | None) -> bytes:
    """As it is, where the charset that it is said to be in is not known."""
    try:
        return content.decode(charset or "utf-8", "replace").encode("utf-8", "replace")
    except (LookupError, ValueError):
        return content


def _html(text: str, button: str, status: int = 200) -> web.Response:
    from aiohttp import web

    page = (
        '<!doctype html><meta name="viewport" content="width=device-width"><title>Mailwire</title>'
        f"<style>{_STYLE}</style><p>{html.escape(text)}</p>"
        + (f'<form method="post">{button}</form>' if button else "")
    )
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return web.Response(status=status, text=page, content_type="text/html", headers=headers)
