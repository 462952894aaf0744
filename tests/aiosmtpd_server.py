"""aiosmtpd as it is set up to play our conversations: as near to a listener of ours as it can come."""

import asyncio
import threading
import time
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.dialog import Received
from tests.wire.owner import USERS


class Keeper:
    """The handler of one server: keeps the mails."""

    def __init__(self) -> None:
        self.mails: list[Received] = []
        self.changed = threading.Condition()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        with self.changed:
            self.mails.append(Received(sender, envelope.rcpt_tos, envelope.original_content, session.host_name))
            self.changed.notify_all()
        return "250 Ok"

    def wait_for(self, count: int, patience: float) -> list[Received]:
        deadline = time.monotonic() + patience
        with self.changed:
            while len(self.mails) < count and self.changed.wait(deadline - time.monotonic()):
                pass
            return list(self.mails)


def server(keeper: Keeper, options: dict[str, Any], loop: asyncio.AbstractEventLoop) -> SMTP:
    """The protocol of one connection; `options` are those of our session."""
    login = options.get("login", "any")
    return SMTP(
        keeper,
        hostname="gw.example",
        ident="test",
        loop=loop,
        enable_SMTPUTF8=True,
        data_size_limit=options.get("max_size", 64 * 1024 * 1024),
        auth_require_tls=False,
        auth_required=login == "required",
        authenticator=None if login == "none" else authenticate,
    )


def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and USERS.get(
        data.login.decode("utf-8", "replace")
    ) == data.password.decode("utf-8", "replace")
    return AuthResult(success=known, handled=False)
