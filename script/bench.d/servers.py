"""The servers that are measured: each function starts one on a free loopback port and returns when it is ready."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from kit import Kit
from process import HOST, Failed, Server, free_port

PEERS = Path(__file__).resolve().parent / "peers"
CONNECTIONS = 1100  # the most that any measurement holds open at once
SINK, NULL, STORING = "smtp-sink", "aiosmtpd, keeping nothing", "aiosmtpd, storing"
MAILRISE, OURS = "mailrise", "mailwire"

Start = Callable[[Kit, Path], Server]
"""Starts a server, and what it needs, with its files in a folder; it is ready when this returns."""


def _ready(server: Server) -> Server:
    server.connect(b"220").close()
    return server


def _python(name: str, program: str, folder: Path, *words: object) -> Server:
    port = free_port()
    return Server(name, [sys.executable, str(PEERS / program), str(port), *map(str, words)], port, folder)


def smtp_sink(kit: Kit, folder: Path) -> Server:
    """C, and throws everything away: the measure of the machine."""
    port = free_port()
    as_user = ["-u", "nobody"] if Path("/proc/self").stat().st_uid == 0 else []
    command = [*kit.postfix_program("smtp-sink"), *as_user, "-4", "-m", str(CONNECTIONS), f"{HOST}:{port}", "1024"]
    return _ready(Server(SINK, command, port, folder))


def aiosmtpd_null(kit: Kit, folder: Path) -> Server:
    return _ready(_python(NULL, "aiosmtpd_server.py", folder, "null"))


def aiosmtpd_storing(kit: Kit, folder: Path) -> Server:
    return _ready(_python(STORING, "aiosmtpd_server.py", folder, "storing", folder / "aiosmtpd.db"))


def mailrise(kit: Kit, folder: Path) -> Server:
    """mailrise, which delivers to a local HTTP server before it answers."""
    if not kit.mailrise:
        raise Failed("mailrise is not there")
    sink = _python("http sink", "http_sink.py", folder)
    port = free_port()
    configuration = folder / f"mailrise-{port}.yaml"
    configuration.write_text(
        f"listen: {{host: {HOST}, port: {port}}}\nsmtp: {{hostname: bench}}\n"
        f"configs: {{'*@*': {{urls: ['json://{HOST}:{sink.port}']}}}}\n"
    )
    command = [str(kit.mailrise), "-c", "from mailrise.skeleton import run; run()", str(configuration)]
    return _ready(Server(MAILRISE, command, port, folder))


def mosquitto(kit: Kit, folder: Path) -> Server:
    """A broker that sends at once and queues without limit."""
    if not kit.mosquitto:
        raise Failed("mosquitto is not installed")
    port = free_port()
    configuration = folder / f"mosquitto-{port}.conf"
    configuration.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\nset_tcp_nodelay true\n"
        "persistence false\nmax_queued_messages 0\nmax_inflight_messages 100\n"
    )
    broker = Server("mosquitto", [kit.mosquitto, "-c", str(configuration)], port, folder)
    broker.connect().close()
    return broker


def obvious(broker: Server, folder: Path) -> Server:
    """aiosmtpd, policy.default and paho, before that broker."""
    return _ready(_python("the obvious build", "aiosmtpd_server.py", folder, "obvious", broker.port))


def mailwire(kit: Kit, folder: Path) -> Server:
    """The gateway storing with fsync, and nobody to tell."""
    return _ready(start_mailwire(folder, None))


def mailwire_mqtt(broker: Server, folder: Path, env: dict[str, str] | None = None) -> Server:
    """The gateway before that broker."""
    return _ready(start_mailwire(folder, broker, env))


def start_mailwire(
    folder: Path, broker: Server | None, env: dict[str, str] | None = None, port: int | None = None
) -> Server:
    """The gateway, not waited for; `broker` or no target at all. The same `port` means the same data."""
    port = port or free_port()
    configuration = folder / f"mailwire-{port}.yaml"
    lines = [
        "integrations:",
        f'  mail: {{type: smtp_server, listen: ["{HOST}:{port}"]}}',
        *([f'  broker: {{type: mqtt, url: "mqtt://{HOST}:{broker.port}"}}'] if broker else []),
        f"store: {{data: {json.dumps(str(folder / f'mailwire-{port}'))}}}",
        "duplicates: 0",
    ]
    configuration.write_text("\n".join(lines) + "\n")
    program = Path(sys.executable).with_name("mailwire")
    return Server(OURS, [str(program), "run", "--config", str(configuration)], port, folder, env)
