"""Target: every service that Apprise knows, from Telegram to a text message, each by its URL.

Apprise sends and says yes or no; it never tries again. So a no is a `Retry` here, and waits in the gateway's queue.
An event that some of several URLs have taken goes only to the others then, also over a restart. What is too long for a
service is cut to its limits, and attachments go to the services that take them.

Apprise is an extra (`pip install 'mailwire[apprise]'`), and imported when the gateway starts this integration.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal

from pydantic import ByteSize, Field, SecretStr

from gateway.api import Broken, ConfigModel, Context, Event, Retry, Target, about

_WIKI = "https://github.com/caronc/apprise/wiki"
_BETWEEN = 10  # characters that Apprise may put between a title and the text below it


class Config(ConfigModel):
    """Whom to tell. The URLs are secrets: most hold a token."""

    urls: tuple[SecretStr, ...] = Field(min_length=1, description="as Apprise writes them: 'ntfy://host/topic'")
    attach: Literal["all", "pictures", "none"] = "pictures"
    attach_limit: ByteSize = Field(ByteSize(8 * 1024**2), description="bytes of all attachments of one message")


class AppriseTarget(Target):
    """See the text at the top."""

    for_people = True
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._apprise: Any = None  # the package, once it is imported
        self._services: dict[str, Any] = {}  # by what a memo calls their URLs

    async def start(self) -> None:
        self._apprise = await asyncio.to_thread(_library)
        self._services = {}
        for number, url in enumerate(self.config.urls):
            service = self._apprise.Apprise.instantiate(url.get_secret_value())
            if service is None:
                schema = re.match(r"[A-Za-z0-9+.-]{1,20}(?=:)", url.get_secret_value())
                raise Broken(
                    f"urls[{number}] ('{schema[0] if schema else '...'}://') is no URL that Apprise takes: "
                    f"the service is unknown, or something is missing. See {_WIKI}"
                )
            # Not the URL, which is a secret, and not its number, which may be another's by then.
            self._services[sha256(url.get_secret_value().encode()).hexdigest()[:16]] = service

    def describe(self) -> str:
        return f"tells {', '.join(str(service.service_name) for service in self._services.values())}"

    async def deliver(self, event: Event) -> None:
        await self.deliver_again(event, {})

    async def deliver_again(self, event: Event, memo: Mapping[str, Any]) -> None:
        taken = [key for key in memo.get("taken", ()) if key in self._services]
        files = await self._files(event)
        reasons = []
        for key, service in self._services.items():
            if key not in taken:
                if reason := await self._tell(service, event, files if service.attachment_support else []):
                    reasons.append(f"{service.service_name}: {reason}")
                else:
                    taken.append(key)
        if reasons:
            raise Retry("; ".join(reasons), memo={"taken": taken})

    async def _tell(self, service: Any, event: Event, files: list[Any]) -> str:
        """Why it could not be told; "" if it was."""
        link = self.context.gateway.acknowledge_url(event)
        title, body = _words(
            event, service.title_maxlen, service.body_maxlen, f"\n\nAcknowledge: {link}" if link else ""
        )
        attachments = self._apprise.AppriseAttachment()
        for file in files:
            attachments.add(file)
        said = io.StringIO()
        handler = logging.StreamHandler(said)  # Apprise tells reasons to its log alone
        handler.setLevel(logging.WARNING)
        log = logging.getLogger("apprise")
        log.addHandler(handler)
        try:
            done = await service.async_notify(
                title=title,
                body=body,
                notify_type=self._kind(event),
                body_format=self._apprise.NotifyFormat.TEXT,  # or a mail's text would be HTML where that is spoken
                attach=attachments or None,
            )
        except TypeError as error:  # what Apprise says to arguments that a service can't send
            return str(error)
        finally:
            log.removeHandler(handler)
        return "" if done else said.getvalue().strip().replace("\n", " ")[:500] or "it could not be sent"

    def _kind(self, event: Event) -> Any:
        kinds = self._apprise.NotifyType
        if event["state"] == "off":
            return kinds.SUCCESS
        return {"info": kinds.INFO, "warning": kinds.WARNING, "critical": kinds.FAILURE}[event["severity"]]

    async def _files(self, event: Event) -> list[Any]:
        """Attachments, as far as the limit goes; what is left out is said in the log."""
        from apprise.attachment import memory

        attachment: Any = memory.AttachMemory
        files, size = [], 0
        for index, one in enumerate(event["attachments"]):
            if self.config.attach == "none" or (
                self.config.attach == "pictures" and not one["type"].startswith("image/")
            ):
                continue
            size += one["size"]
            if size > self.config.attach_limit:
                self.context.log.info("%s is too large for a message", one["name"], extra=about(event))
                break
            try:
                content = await self.context.gateway.attachment(event["id"], index)
            except LookupError as error:
                self.context.log.warning("told without attachments: %s", error, extra=about(event))
                break
            files.append(attachment(content=content, name=one["name"], mimetype=one["type"]))
        return files


def _words(event: Event, title_limit: int, body_limit: int, end: str = "") -> tuple[str, str]:
    """(title, text), cut to what a service takes, but for its `end`. Apprise's own cutting would cut off attachments.

    A service without titles (limit 0) has them at the beginning of the text.
    """
    name, title = event["device"]["name"], event["title"]
    if name.lower() not in title.lower():
        title = f"{name}: {title}"
    title = _cut(title, title_limit or body_limit // 2)
    room = body_limit - len(end) - (0 if title_limit else len(title) + _BETWEEN)
    return title, _cut(event["text"] or title, room) + end


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


def _library() -> Any:
    import apprise

    return apprise
