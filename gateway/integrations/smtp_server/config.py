"""What a person may set on one SMTP server, with defaults that suit devices in a private network.

One server is one policy: who may connect, with which TLS and which login. It may listen on many addresses; where
two policies are wanted (plain on 2525, implicit TLS on 4650), two servers are configured.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field, SecretStr, ValidationInfo, field_validator

from gateway.api import ConfigModel, ConfigPath, Duration
from gateway.api import users as logins

from .access import networks, public
from .listen import split

Login = Literal["any", "none", "optional", "required"]


def _address(text: str) -> str:
    split(text)
    return text


def _network(text: str) -> str:
    networks([text])
    return text


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must have at least one")
    return values


NotEmpty = AfterValidator(_not_empty)  # pydantic's own check would complain of an item that is wrong once more
Address = Annotated[str, AfterValidator(_address)]
"""`host:port`, IPv6 as `[host]:port`; port 0 lets the system choose."""
Network = Annotated[str, AfterValidator(_network)]
"""A network (`192.168.1.0/24`), one address, or the word `private`."""
Seconds = Annotated[Duration, Field(gt=0)]


class Timeouts(ConfigModel):
    """How long a peer may take, in seconds (RFC 5321 §4.5.3.2). Progress restarts `command`, `data_start` and `data`.

    Progress is a whole command or some bytes of a mail; a command typed one letter a minute is none.
    """

    command: Seconds = 300
    """From one reply to the end of the next command (§4.5.3.2.7)."""
    line: Seconds = 60
    """For a command line that has begun to end."""
    data_start: Seconds = 120
    """From 354 to the first byte of the mail (§4.5.3.2.4)."""
    data: Seconds = 180
    """From one block of the mail to the next (§4.5.3.2.5)."""
    mail: Seconds = 3600
    """For one mail, however steadily it comes: 64 MiB at 18 KiB/s."""
    session: Seconds = 1800
    """For a connection that never completes a mail, however busy it is otherwise."""
    handshake: Seconds = 60
    """For TLS to be agreed."""


class BanRules(ConfigModel):
    """When a peer whose logins fail is kept out, and for how long, in seconds. See `gateway.bans`."""

    after: Annotated[int, Field(ge=0)] = 10
    """Logins that fail within `within`; 0: nobody is ever kept out."""
    within: Seconds = 600
    first: Seconds = 900
    """The first time; then always doubled, up to `longest`."""
    longest: Seconds = 86400
    never: tuple[Network, ...] = ()
    """Who is never kept out, beside programs on this machine: a proxy, or a container's bridge that hides many."""


_NAME = r"^[!-~]{1,255}$"


def _hostname() -> str:
    name = socket.gethostname()  # never getfqdn, which may wait for a DNS server
    return name if re.match(_NAME, name) else "mailwire"


class Config(ConfigModel):
    """One SMTP server. The order matters where one value is checked against those before it."""

    listen: Annotated[tuple[Address, ...], NotEmpty] = ("0.0.0.0:2525", "[::]:2525")
    hostname: Annotated[str, Field(pattern=_NAME)] = Field(default_factory=_hostname)
    """The gateway's name in the greeting and in its certificate."""

    allow: Annotated[tuple[Network, ...], NotEmpty] = ("private",)
    """Who may connect. `private`: loopback, private and link-local networks."""
    recipients: Annotated[tuple[str, ...], NotEmpty] = ("*",)
    """Patterns (`*@alarm.lan`, `front-*`) of the addresses that mail is taken for; letter case does not count."""
    tolerance: Literal["lan", "strict"] = "lan"
    bare_lf: tuple[Network, ...] = ()
    """Devices that may end a mail with LF.LF: never trust this to anything but the device that needs it."""

    tls: Literal["none", "offered", "required", "implicit"] = "offered"
    certificate: ConfigPath | None = None
    """PEM file with the certificate and its chain. None: one is made and signed by itself at the first start."""
    key: ConfigPath | None = None
    """PEM file with the key, unless it is in the certificate's file."""
    old_tls: tuple[Network, ...] = ()
    """Devices that may speak TLS 1.0 and 1.1 with the cipher suites of that time."""

    users: dict[str, SecretStr] = Field(default_factory=dict)
    """name -> password, or its hash as `mailwire user hash` makes it. `mailwire user add` keeps others in a file."""
    login: Login = Field(default=None, validate_default=True)
    """Unset: `required` if there are users; else `any` if only private networks may connect, or `none`."""

    max_size: Annotated[ByteSize, Field(ge=64 * 1024)] = ByteSize(64 * 1024 * 1024)
    """Of one mail. RFC 5321 §4.5.3.1.7 asks for 64 KiB or more; a camera's video clip has 20 MB."""
    max_recipients: Annotated[int, Field(ge=100)] = 1000
    """Of one mail. RFC 5321 §4.5.3.1.8 asks for 100 or more."""
    max_commands: Annotated[int, Field(ge=0)] = 0
    """On one connection; 0: no limit, because a relay in front may keep one connection for all its mail."""
    max_bad: Annotated[int, Field(ge=1)] = 20
    """Commands that make no sense, since the connection's last mail: enough for a device, too few for a browser."""
    max_auth_failures: Annotated[int, Field(ge=1)] = 3
    bans: BanRules = BanRules()
    max_connections: Annotated[int, Field(ge=1)] = 2000
    """Together about 10 MiB when idle; fewer when the system lets this program open fewer files."""
    max_connections_per_peer: Annotated[int, Field(ge=1)] = 100
    """A device needs one or two. A relay, or a container's bridge that hides a whole house, needs some more.
    Programs on this machine (loopback) are not counted."""
    timeouts: Timeouts = Timeouts()

    @field_validator("users")
    @classmethod
    def _users_have_passwords(cls, users: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, password in users.items():
            if not name or not password.get_secret_value():
                raise ValueError("a user needs a name and a password that are not empty")
            try:
                logins.parse(password.get_secret_value())
            except ValueError as error:
                raise ValueError(f"the password of '{name}': {error}") from None
        return users

    @field_validator("login", mode="before")
    @classmethod
    def _login_unset(cls, login: Any, info: ValidationInfo) -> Any:
        if login is not None:
            return login
        if info.data.get("users"):
            return "required"
        return "none" if public(info.data.get("allow", ())) else "any"

    @field_validator("login")
    @classmethod
    def _login_fits(cls, login: Login, info: ValidationInfo) -> Login:
        users = info.data.get("users")
        if users is None:  # they have an error of their own
            return login
        if login in ("any", "none") and users:
            raise ValueError(
                f"'{login}' checks nobody, but 'users' are listed: set 'required' or 'optional', or remove 'users'"
            )
        strangers = public(info.data.get("allow", ()))
        if login == "any" and strangers:
            raise ValueError(
                f"'any' takes every password, and 'allow' lets in the public network {strangers[0]}: "
                "set 'required' and add 'users', or set 'none', or keep 'allow' to private networks"
            )
        return login

    @field_validator("key")
    @classmethod
    def _key_has_a_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if key and info.data.get("certificate", key) is None:
            raise ValueError("'key' is the key of a certificate: add 'certificate', or remove 'key'")
        return key
