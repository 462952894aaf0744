"""The servers that are measured: each function starts one on a free loopback port and returns when it is ready."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from kit import Kit
from process import HOST, Failed, Server, free_port

PEERS = Path(__file__).resolve().parent / "peers"
CONNECTIONS = 5200  # the most that any measurement holds open at once
SINK, NULL, STORING = "smtp-sink", "aiosmtpd, keeping nothing", "aiosmtpd, storing"
HARAKA, HARAKA_QUEUE, POSTFIX = "Haraka, keeping nothing", "Haraka, its queue", "Postfix, its queue"
MAILRISE, OURS, RAW = "mailrise", "mailwire", "the least in Python, storing"
STORES = {
    STORING,
    RAW,
    HARAKA_QUEUE,
    POSTFIX,
    OURS,
}  # fsync before the 250; mailrise hands on before it, and keeps nothing

Start = Callable[[Kit, Path], Server]
"""Starts a server, and what it needs, with its files in a folder; it is ready when this returns."""


def _ready(server: Server) -> Server:
    server.connect(b"220").close()
    return server


def _python(name: str, program: str, folder: Path, *words: object, env: dict[str, str] | None = None) -> Server:
    port = free_port()
    return Server(name, [sys.executable, str(PEERS / program), str(port), *map(str, words)], port, folder, env)


def smtp_sink(kit: Kit, folder: Path) -> Server:
    """C, and throws everything away: the measure of the machine."""
    port = free_port()
    as_user = ["-u", "nobody"] if os.getuid() == 0 else []
    command = [*kit.postfix_program("sbin/smtp-sink"), *as_user, "-4", "-m", str(CONNECTIONS), f"{HOST}:{port}", "1024"]
    return _ready(Server(SINK, command, port, folder))


def aiosmtpd_null(kit: Kit, folder: Path) -> Server:
    return _ready(_python(NULL, "aiosmtpd_server.py", folder, "null"))


def aiosmtpd_storing(kit: Kit, folder: Path, env: dict[str, str] | None = None) -> Server:
    return _ready(_python(STORING, "aiosmtpd_server.py", folder, "storing", folder / "aiosmtpd.db", env=env))


def raw(kit: Kit, folder: Path) -> Server:
    """What any server in Python has to do; not a peer, but the measure of what one can make."""
    return _ready(_python(RAW, "raw_server.py", folder, folder / "raw.db"))


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


def haraka(kit: Kit, folder: Path) -> Server:
    """Haraka with its own settings, but one process (a cluster of one is slower), and nothing looked up or logged."""
    return _haraka(HARAKA, kit, folder, {"YES_REALLY_DO_DISCARD": "1"})


def haraka_queue(kit: Kit, folder: Path) -> Server:
    """The same with each mail in its outbound queue, fsync'd, before the 250; from there it is dropped."""
    return _haraka(HARAKA_QUEUE, kit, folder, {"QUEUE": "1"})


def _haraka(name: str, kit: Kit, folder: Path, env: dict[str, str]) -> Server:
    if not kit.haraka:
        raise Failed("Haraka is not there")
    port = free_port()
    home = folder / f"haraka-{port}"
    (home / "config").mkdir(parents=True)
    (home / "queue").mkdir()
    shutil.copytree(PEERS / "haraka", home / "plugins")
    shutil.copy(kit.haraka / "config" / "connection.ini", home / "config")
    for file, text in {
        "smtp.ini": f"listen={HOST}:{port}\nnodes=0\n",
        "plugins": "bench\nqueue/discard\n",
        "me": "bench.example\n",
        "log.ini": "[main]\nlevel=warn\nformat=default\n",
    }.items():
        (home / "config" / file).write_text(text)
    command = ["node", str(kit.haraka / "haraka.js")]
    return _ready(Server(name, command, port, folder, {"HARAKA": str(home), **env}))


_POSTFIX_OWNER, _POSTFIX_GROUP = "uucp", "games"  # Postfix insists on two that own nothing else; these do no more here
_POSTFIX_QUEUES = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid", "private",
    "public", "saved", "trace",
)  # fmt: skip


def postfix(kit: Kit, folder: Path) -> Server:
    """Postfix with a queue of its own; what was queued is handed to its `discard` transport, so nothing is delivered.

    Its own settings, but for limits that the load would run into, and looking nothing up.
    """
    if os.getuid():
        raise Failed("Postfix can be started by root alone")
    port = free_port()
    home = folder / f"postfix-{port}"
    owner, group = pwd.getpwnam(_POSTFIX_OWNER).pw_uid, grp.getgrnam(_POSTFIX_GROUP).gr_gid
    for name in ("data", *(f"queue/{queue}" for queue in _POSTFIX_QUEUES)):
        (home / name).mkdir(parents=True)
        if name != "queue/pid":
            os.chown(home / name, owner, group if name in ("queue/public", "queue/maildrop") else -1)
    configuration = {
        "compatibility_level": "3.6",
        "queue_directory": home / "queue",
        "data_directory": "../data",  # from the queue: its owner need not have a right to what is above
        "meta_directory": home,
        "daemon_directory": kit.postfix / "usr/lib/postfix/sbin",
        "command_directory": kit.postfix / "usr/sbin",
        "shlib_directory": kit.postfix / "usr/lib/postfix",
        "mail_owner": _POSTFIX_OWNER,
        "setgid_group": _POSTFIX_GROUP,
        "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH",
        # Nothing is looked up, nothing leaves.
        "myhostname": "bench.example",
        "mydestination": "",
        "inet_interfaces": HOST,
        "inet_protocols": "ipv4",
        "mynetworks": f"{HOST}/32",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_peername_lookup": "no",
        "disable_dns_lookups": "yes",
        "smtp_dns_support_level": "disabled",
        "alias_maps": "",
        **{f"{kind}_transport": "discard:" for kind in ("default", "local", "relay", "virtual")},
        # For a hundred connections, all of one peer, and more mail at once than is handed on at once.
        "default_process_limit": "150",
        "smtpd_client_connection_count_limit": "0",
        "in_flow_delay": "0",
    }
    (home / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in configuration.items()))
    (home / "dynamicmaps.cf").touch()
    services = [f"{HOST}:{port} inet n - n - - smtpd", "cleanup unix n - n - 0 cleanup", "qmgr unix n - n 300 1 qmgr"]
    services += [f"{name} unix - - n - 0 bounce" for name in ("bounce", "defer", "trace")]
    services += [f"{name} unix - - n - - error" for name in ("error", "retry")]
    services += [f"{name} unix - - n - - {name}" for name in ("proxymap", "discard")]
    services += ["rewrite unix - - n - - trivial-rewrite", "anvil unix - - n - 1 anvil"]
    (home / "master.cf").write_text("\n".join(services) + "\n")
    command = [*kit.postfix_program("lib/postfix/sbin/master"), "-d", "-c", str(home)]
    return _ready(Server(POSTFIX, command, port, folder))


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


def mailwire_mqtt(
    broker: Server, folder: Path, env: dict[str, str] | None = None, *, routes: Iterable[str] = ()
) -> Server:
    """The gateway before that broker."""
    return _ready(start_mailwire(folder, broker, env, routes=routes))


def start_mailwire(
    folder: Path,
    broker: Server | None,
    env: dict[str, str] | None = None,
    *,
    port: int | None = None,
    routes: Iterable[str] = (),
    keep_bytes: int = 1 << 40,
) -> Server:
    """The gateway, not waited for; `broker` or no target at all. The same `port` means the same `data_of`."""
    port = port or free_port()
    lines = [
        "integrations:",
        f'  mail: {{type: smtp_server, listen: ["{HOST}:{port}"], max_connections: {CONNECTIONS}}}',
        *([f'  broker: {{type: mqtt, url: "mqtt://{HOST}:{broker.port}"}}'] if broker else []),
        f"store: {{data: {json.dumps(str(data_of(folder, port)))}, keep_days: 3650, keep_size: {keep_bytes}}}",
        "learn: {limit: 2000, per_peer: 2000}",
        "duplicates: 0",
        *(["routes:"] if routes else []),
        *(f"  - {route}" for route in routes),
    ]
    configuration_of(folder, port).write_text("\n".join(lines) + "\n")
    return Server(OURS, [*MAILWIRE, "run", "--config", str(configuration_of(folder, port))], port, folder, env)


MAILWIRE = [str(Path(sys.executable).with_name("mailwire"))]


def configuration_of(folder: Path, port: int) -> Path:
    return folder / f"mailwire-{port}.yaml"


def data_of(folder: Path, port: int) -> Path:
    """The data folder of the gateway on that port."""
    return folder / f"mailwire-{port}"
