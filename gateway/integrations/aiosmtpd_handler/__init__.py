"""Target: gives mails to an existing aiosmtpd handler, named by its dotted path, as aiosmtpd's server would.

Its hooks are called in the order of a conversation, `handle_MAIL`, `handle_RCPT` for each recipient, `handle_DATA`,
with aiosmtpd's Session and Envelope, and its replies are taken at their word: 2yz is done, 4yz is "try again later",
5yz is "never". What raises is tried again. A recipient refused with 5yz is left out; one refused with 4yz postpones
the whole mail, for nobody has got it yet. A mail that no hook refuses is accepted, as in aiosmtpd; so a handler that
keeps nothing (aiosmtpd's Sink) loses it, and one that swallows its own trouble (aiosmtpd's Proxy) may.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import inspect
import re
import socket
import sys
from typing import Any, ClassVar

from aiosmtpd import __version__ as aiosmtpd_version
from aiosmtpd.smtp import Envelope, LoginPassword, Session
from pydantic import Field, field_validator

from gateway import api
from gateway.api import (
    Broken,
    ConfigModel,
    ConfigPath,
    Context,
    Duration,
    Event,
    NotReady,
    Refused,
    Retry,
    Target,
    about,
)
from gateway.integrations.aiosmtpd_handler.stage import Stage, TooSlow

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")
_REPLY = re.compile(r"([2-5]\d\d)(?:[ -]|$)")
_STOP_PATIENCE = 5.0  # seconds that a handler at work may take for its end
_START_PATIENCE = 60.0  # seconds for its import and its making


class Config(ConfigModel):
    """Which handler, and how it is made."""

    handler: str = Field(description="package.module:Class, or package.module.Class")
    args: list[Any] = Field(default=[], description="Positional arguments for the class")
    kwargs: dict[str, Any] = Field(default={}, description="Named arguments for the class")
    path: ConfigPath | None = Field(default=None, description="Folder in which the module is looked for as well")
    timeout: Duration = Field(default=300.0, gt=0, description="Seconds that the handler may take for one mail")

    @field_validator("handler")
    @classmethod
    def _dotted(cls, value: str) -> str:
        if not _PATH.fullmatch(value):
            raise ValueError("it must look like package.module:Class")
        return value


class Server:
    """What a hook is given as `server`: of aiosmtpd's SMTP class, that which handlers ask."""

    __ident__ = f"Python SMTP {aiosmtpd_version}"
    transport = None
    enable_SMTPUTF8 = True  # noqa: N815  # aiosmtpd's name
    data_size_limit: int | None = None

    def __init__(self, session: Session, envelope: Envelope) -> None:
        self.hostname = socket.gethostname()
        self.loop = session.loop
        self.session = session
        self.envelope = envelope


class AiosmtpdHandler(Target):
    """See the text at the top."""

    concurrency: ClassVar[int] = 10
    config: Config

    def __init__(self, context: Context, config: Config) -> None:
        super().__init__(context, config)
        self._stage: Stage | None = None
        self._handler: Any = None

    async def start(self) -> None:
        stage = Stage(f"aiosmtpd handler {self.context.name}")
        try:
            self._handler = await stage.run(self._make, _START_PATIENCE)
        except TooSlow:
            raise NotReady(f"{self.config.handler} was not ready in {_START_PATIENCE:.0f} s") from None
        finally:
            if self._handler is None:
                await stage.stop(_STOP_PATIENCE)
        self._stage = stage
        if not (hasattr(self._handler, "handle_DATA") or hasattr(self._handler, "process_message")):
            self.context.log.warning("%s has no handle_DATA: it keeps nothing", self.config.handler)

    async def stop(self) -> None:
        if self._stage:
            await self._stage.stop(_STOP_PATIENCE)

    def describe(self) -> str:
        return f"mails go to {self.config.handler}"

    async def deliver(self, event: Event) -> None:
        if event["mail"] is None:
            raise Refused("this event did not come by mail, and a handler takes nothing else")
        if self._stage is None:
            raise NotReady(f"{self.config.handler} is not started")
        try:
            envelope, content = await self.context.gateway.raw_mail(event["id"])
        except LookupError as error:
            raise Refused(str(error)) from error
        try:
            await self._stage.run(lambda: self._converse(envelope, content, about(event)), self.config.timeout)
        except (Retry, Refused):
            raise
        except TooSlow as error:
            raise Retry(f"{self.config.handler} gave no answer in {self.config.timeout:g} s") from error
        except Exception as error:
            words = "%s raised on event %s"
            self.context.log.warning(words, self.config.handler, event["id"], exc_info=error, extra=about(event))
            raise Retry(f"{self.config.handler} raised {type(error).__name__}") from error

    # --- on the stage ------------------------------------------------------------------------------------------

    async def _make(self) -> Any:
        """Import and make the handler. Here, because some ask for the event loop when they are made."""
        config = self.config
        found = self._find()
        try:
            if inspect.isclass(found) or not _has_hooks(found):
                return found(*config.args, **config.kwargs)
        except OSError as error:
            raise NotReady(f"{config.handler}: {error}") from error
        except Exception as error:
            raise Broken(f"{config.handler} could not be made: {type(error).__name__}: {error}") from error
        if config.args or config.kwargs:
            raise Broken(f"{config.handler} is made already; args and kwargs are for a class")
        return found

    def _find(self) -> Any:
        if self.config.path and str(self.config.path) not in sys.path:
            sys.path.append(str(self.config.path))
        module_name, _, name = self.config.handler.replace(":", ".").rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                hint = f"; is it installed in {sys.prefix}, or in the folder that path names?"
                raise Broken(f"{self.config.handler}: there is no module {error.name}{hint}") from error
            raise Broken(f"{self.config.handler}: {error}") from error
        except Exception as error:
            raise Broken(f"{self.config.handler}: its import failed: {type(error).__name__}: {error}") from error
        try:
            return getattr(module, name)
        except AttributeError:
            near = difflib.get_close_matches(name, dir(module), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Broken(f"{self.config.handler}: the module {module_name} has no {name}{hint}") from None

    async def _converse(self, mail: api.Envelope, content: bytes, extra: dict[str, str]) -> None:
        """The hooks of one mail. Raises Retry or Refused by the handler's replies, or what it raises.

        `extra` is for the log.
        """
        session, envelope = _session(mail), Envelope()
        server = Server(session, envelope)
        options = [f"{name}={value}" if value else name for name, value in mail.details.get("params", {}).items()]
        envelope.smtp_utf8 = "SMTPUTF8" in mail.details.get("params", {})

        async def ask(hook: str, *args: Any) -> str | None:
            """The reply of a hook; None if the handler has none of that name."""
            called = getattr(self._handler, hook, None)
            if called is None:
                return None
            reply = called(server, session, envelope, *args)
            return _checked(await reply if inspect.isawaitable(reply) else reply)

        reply = await ask("handle_MAIL", mail.mail_from, options)
        if reply is None:
            envelope.mail_from = mail.mail_from
            envelope.mail_options.extend(options)
        _obey(reply)
        refusals = []
        for recipient in mail.rcpt_to:
            reply = await ask("handle_RCPT", recipient, [])
            if reply is None:
                envelope.rcpt_tos.append(recipient)
            elif reply.startswith("5"):
                words = "%s refused the recipient %s: %s"
                self.context.log.info(words, self.config.handler, recipient, reply, extra=extra)
                refusals.append(reply)
            else:
                _obey(reply)
        if not envelope.rcpt_tos:
            raise Refused(refusals[0] if refusals else "the handler left no recipient")
        envelope.content = envelope.original_content = content
        if hasattr(self._handler, "handle_DATA") or not hasattr(self._handler, "process_message"):
            _obey(await ask("handle_DATA"))
        else:  # the interface of smtpd, which aiosmtpd still takes; no reply is a good one
            reply = self._handler.process_message(session.peer, envelope.mail_from, envelope.rcpt_tos, content)
            reply = await reply if inspect.isawaitable(reply) else reply
            _obey(None if reply is None else _checked(reply))


def _has_hooks(found: Any) -> bool:
    return any(name.startswith("handle_") or name == "process_message" for name in dir(found))


def _session(mail: api.Envelope) -> Session:
    """aiosmtpd's Session as this mail's conversation would have left it. The peer's port is not kept: 0."""
    session = Session(asyncio.get_running_loop())
    session.peer = (mail.peer, 0)  # type: ignore[assignment]  # aiosmtpd sets a tuple, too, whatever it declares
    session.host_name = mail.helo
    session.extended_smtp = True
    session.ssl = mail.details.get("tls")
    if user := mail.details.get("user"):
        session.authenticated = True
        session.auth_data = LoginPassword(str(user).encode(), b"")  # type: ignore[assignment]  # documented as anything
    return session


def _checked(reply: Any) -> str:
    """The reply on one line. Raises Retry if it is none."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    if not isinstance(text, str) or not _REPLY.match(text):
        raise Retry(f"the handler answered {reply!r}, which is no SMTP reply")
    code, *rest = text.splitlines()
    return " ".join([code.replace("-", " ", 1) if code[3:4] == "-" else code, *(line[4:] for line in rest)])


def _obey(reply: str | None) -> None:
    """Raise what the reply means. None: no hook, no objection."""
    if reply is None or reply.startswith("2"):
        return
    if reply.startswith("5"):
        raise Refused(reply)
    raise Retry(reply)
