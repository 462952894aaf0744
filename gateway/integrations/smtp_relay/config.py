"""What may be configured of a relay, and every way in which that can be wrong, in words."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, WithJsonSchema, field_validator, model_validator

from gateway.api import ClientTls, ConfigModel, Duration, template_check
from gateway.integrations.smtp_relay.address import Address, parse

_EXAMPLE = "smtps://user@smtp.example.org"
MORE = ("pictures", "notes", "acknowledge")
"""What a text of a mail may name beside an event: its inline pictures (`cid`, `name`), what had to be left out, and
where a person acknowledges it."""

# What somebody has us tell (`mailwire/notify`) is of no device, and keeps its subject.
SUBJECT = (
    "{% if device.id != 'unknown' and device.name|lower not in title|lower %}{{ device.name }}: {% endif %}{{ title }}"
)
_FOOT = """\
{% if device.id != 'unknown' %}{{ device.name }} | {{ kind }}{% if state %} {{ state }}{% endif %} | {% endif %}
{{ severity }} | {{ time }}
"""
TEXT = (
    """\
{{ text }}
{% for note in notes %}
[{{ note }}]
{% endfor %}
{% if acknowledge %}

Acknowledge: {{ acknowledge }}
{% endif %}

--\x20
"""
    + _FOOT
)
HTML = (
    """\
<!DOCTYPE html>
<html><body style="font-family: sans-serif">
<h2>{{ title }}</h2>
{% for picture in pictures %}
<p><img src="cid:{{ picture.cid }}" alt="{{ picture.name }}" style="max-width: 100%"></p>
{% endfor %}
<pre style="white-space: pre-wrap">{{ text }}</pre>
{% for note in notes %}
<p><em>{{ note }}</em></p>
{% endfor %}
{% if data %}
<table>
{% for key, value in data.items() %}
<tr><th align="left">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if acknowledge %}
<p><a href="{{ acknowledge }}">Acknowledge</a></p>
{% endif %}
<p style="color: #666">
"""
    + _FOOT
    + """\
</p>
</body></html>
"""
)


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _words(value: object) -> object:
    return shlex.split(value) if isinstance(value, str) else value


def _address(value: object) -> object:
    return parse(value) if isinstance(value, str) else value


def _html(value: object) -> object:
    if value is True:
        raise ValueError("write the HTML, with its templates, or false for plain text alone")
    return "" if value is False else value


Mailbox = Annotated[Address, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
_ONE_OR_MANY = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_Template = Annotated[str, template_check(*MORE)]


class Where(NamedTuple):
    """The smarthost, as `url` names it."""

    host: str
    port: int
    implicit: bool
    user: str | None
    password: str | None


class Retries(ConfigModel):
    """When what was put off is tried again: after as long as it has waited already, within these bounds."""

    first: Annotated[Duration, Field(gt=0)] = 60.0
    most: Annotated[Duration, Field(gt=0)] = 3600.0

    def after(self, waited: float) -> float:
        """Seconds to the next try of a mail that has waited so long (the schedule of Postfix's queue manager)."""
        return min(max(self.first, waited), self.most)


class Timeouts(ConfigModel):
    """Seconds. RFC 5321 §4.5.3.2 asks for these or more."""

    connect: Annotated[Duration, Field(gt=0)] = 30.0
    """For the connection and for TLS."""
    command: Annotated[Duration, Field(gt=0)] = 300.0
    data: Annotated[Duration, Field(gt=0)] = 600.0
    """For the reply to the final dot: who gives up too early sends the mail twice."""


class Config(ConfigModel):
    """Where mails go, from whom and to whom, and what they look like."""

    url: str = Field(repr=False, description=f"{_EXAMPLE} (TLS from the first byte), or smtp://host:587 with STARTTLS")
    from_: Mailbox = Field(alias="from", description="Who the mails are from: gw@example.org, or Name <gw@example.org>")
    to: Annotated[tuple[Mailbox, ...], BeforeValidator(_one_or_many), _ONE_OR_MANY] = Field(min_length=1)
    return_path: Mailbox | None = Field(
        default=None, description="Where reports of failures go; best one that comes into this gateway. Default: from"
    )
    user: str | None = Field(default=None, min_length=1)
    password: SecretStr | None = None
    token_command: Annotated[tuple[str, ...], BeforeValidator(_words), _ONE_OR_MANY] = Field(
        default=(), description="A program that prints an access token for XOAUTH2; it is asked for each connection"
    )
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] = "auto"
    starttls: Literal["required", "offered", "never"] | None = Field(
        default=None, description="For smtp://. required (the default), offered: in the clear if need be, or never"
    )
    tls: ClientTls | None = None
    hostname: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", description="What we call ourselves in EHLO"
    )

    mode: Literal["notice", "forward"] = Field(
        default="notice", description="notice: a mail made of the event; forward: the device's own, unaltered inside"
    )
    subject: _Template = SUBJECT
    text: _Template = TEXT
    html: Annotated[_Template, BeforeValidator(_html), WithJsonSchema({"type": ["string", "boolean"]})] = HTML
    """Empty or false: plain text alone."""
    attachments: bool = True
    max_size: ByteSize = Field(default=ByteSize(25 * 1024 * 1024), ge=64 * 1024)
    """Of a mail as it is sent. What the smarthost says (SIZE) bounds it as well."""

    rate: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Mails a minute, at most")
    idle: Duration = 30.0
    """For so long a connection is kept for the next mail."""
    retries: Retries = Retries()
    timeouts: Timeouts = Timeouts()
    warn_after: Annotated[Duration, Field(gt=0)] = 4 * 3600.0
    """An event tells of what has waited so long."""
    give_up: Annotated[Duration, Field(gt=0)] = 5 * 86400.0
    """So long a mail is tried, at most."""

    @field_validator("url")
    @classmethod
    def _known_form(cls, value: str) -> str:
        if "://" not in value:
            raise ValueError(f"write it with its scheme: smtps://{value}, or smtp://{value} with STARTTLS")
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"that is no URL of a smarthost ({error}); it looks like {_EXAMPLE}") from None
        if parts.scheme not in ("smtp", "smtps"):
            raise ValueError(f"{parts.scheme}:// is not spoken here; write smtps:// or, with STARTTLS, smtp://")
        if not parts.hostname or port == 0:
            raise ValueError(f"there is no host or no port in it; it looks like {_EXAMPLE}")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"nothing may follow the port; it looks like {_EXAMPLE}")
        if parts.password and not parts.username:
            raise ValueError("a password needs a user before it: smtps://user:password@host")
        return value

    @field_validator("to")
    @classmethod
    def _each_once(cls, value: tuple[Address, ...]) -> tuple[Address, ...]:
        wires = [address.wire.lower() for address in value]
        for wire in wires:
            if wires.count(wire) > 1:
                raise ValueError(f"{wire} is named twice")
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        parts = urlsplit(self.url)
        where = self.where()
        if parts.username and self.user is not None:
            raise ValueError("the user is given twice: in url, and beside it")
        if parts.password and self.password is not None:
            raise ValueError("the password is given twice: in url, and beside it")
        if where.password is not None and where.user is None:
            raise ValueError("a password needs a user")
        if self.token_command and where.user is None:
            raise ValueError("token_command needs a user: the address whose mailbox the token opens")
        if self.token_command and where.password is not None:
            raise ValueError("token_command and password are two ways to log in; keep one of them")
        if self.auth == "xoauth2" and not self.token_command:
            raise ValueError("auth: xoauth2 needs token_command, a program that prints an access token")
        if self.auth not in ("auto", "xoauth2") and where.user is None:
            raise ValueError(f"auth: {self.auth} needs user and password")
        if self.auth not in ("auto", "xoauth2") and self.token_command:
            raise ValueError(f"auth: {self.auth} needs a password; with token_command it is xoauth2")
        if where.implicit and self.starttls is not None:
            raise ValueError("starttls is for smtp://; with smtps:// there is TLS from the first byte")
        if self.starttls == "never" and self.tls is not None:
            raise ValueError("tls is for smtps://, or for smtp:// with STARTTLS; here 'starttls: never' is said")
        if self.starttls == "offered" and where.user is not None and self.auth != "cram-md5":
            raise ValueError(
                "with 'starttls: offered' whoever sits in between could have the password in the clear: "
                "say required, or, for a host that has no TLS, never"
            )
        return self

    def where(self) -> Where:
        """Port 465 for smtps://; for smtp:// 587 (submission, RFC 6409) with a login, and 25 without."""
        parts = urlsplit(self.url)
        user = unquote(parts.username) if parts.username else self.user
        password = self.password.get_secret_value() if self.password else None
        implicit = parts.scheme == "smtps"
        port = parts.port or (465 if implicit else 587 if user else 25)
        return Where(
            parts.hostname or "", port, implicit, user, unquote(parts.password) if parts.password else password
        )

    @property
    def sender(self) -> Address:
        """In the envelope."""
        return self.return_path or self.from_
