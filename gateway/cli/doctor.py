"""Check this machine: whether everything is there that the gateway needs, and what to do about what is not."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shlex
import shutil
import socket
import ssl
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gateway.api import Finding
from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.loader import Loader

_PATIENCE = 5.0  # seconds for a port to answer
_SLOW_FSYNC = 0.05  # seconds; above it, the disk limits what a busy gateway can take
_OLDEST_YEAR = 2026  # a clock before this release is wrong
_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_AUTO = "auto"  # the mqtt integration's word for the broker on this machine


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one check a line")


def run(args: argparse.Namespace) -> int:
    failed = False
    for finding in findings(args):
        failed |= finding.result == "fail"
        if args.json:
            print(show.json_line(finding._asdict()))
            continue
        first, *more = finding.text.splitlines() or [""]
        print(f"{finding.result:<5} {finding.check:<14} {show.plain(first)}")
        for line in [*more, *finding.advice.splitlines()]:
            print(f"{'':<20} {show.plain(line)}")
        sys.stdout.flush()
    return 1 if failed else 0


def findings(args: argparse.Namespace) -> Iterator[Finding]:
    """All checks, each as soon as it is done."""
    from gateway.config import ConfigErrors, load

    yield _python()
    yield from _clock()
    path = common.config_path(args)
    loader = common.make_loader(path)
    try:
        settings = load(path, loader=loader)
    except ConfigErrors as errors:
        advice = "The checks below are for the defaults." + ("" if args.data else " --data names the data folder.")
        yield Finding("configuration", "fail", str(errors), advice)
        loader = common.make_loader(None)
        settings = load(None, loader=loader)
    else:
        about = f"{path}" if path else "no file, so the defaults"
        yield Finding("configuration", "ok", f"{about}: {common.summary(settings)}")
    folder = common.folder_of(args, settings)
    running = common.gateway_runs(folder)
    yield from _folder(folder, settings.store.reserve)
    yield from _store(folder)
    if running:
        yield Finding("gateway", "ok", "runs")
    else:
        yield Finding("gateway", "warn", "does not run", "Start it with: mailwire run")
    for listener in common.listeners(settings):
        yield _listener(listener, running=running)
    yield from _brokers(settings)
    yield from _integrations(settings, loader, folder)


def _python() -> Finding:
    import sqlite3

    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{version}, with SQLite {sqlite3.sqlite_version}")


def _clock() -> Iterator[Finding]:
    now = time.gmtime()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", now)
    if now.tm_year < _OLDEST_YEAR:
        advice = (
            "Set it (sudo timedatectl set-time ...), or let it be set by the network: sudo timedatectl set-ntp true"
        )
        yield Finding("clock", "fail", f"{shown}: this machine's clock is wrong", advice)
        return
    said = ""
    if shutil.which("timedatectl"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()  # noqa: S603  # our own words
    if said == "no":
        advice = "Events carry its time. Let it be set by the network: sudo timedatectl set-ntp true"
        yield Finding("clock", "warn", f"{shown}, not synchronised with the network", advice)
    else:
        yield Finding("clock", "ok", shown + (", synchronised" if said == "yes" else ""))


# --- data ----------------------------------------------------------------------------------------------------------


def _folder(folder: Path, reserve: int) -> Iterator[Finding]:
    try:
        facts = folder.stat()
    except FileNotFoundError:
        parent = next((place for place in folder.absolute().parents if place.exists()), Path("/"))
        if os.access(parent, os.W_OK):
            yield Finding("data", "ok", f"{folder}: not there yet; it is made at the first start")
            yield _disk(parent, reserve)
        else:
            yield Finding("data", "fail", f"{folder}: can't be made by this user", _other_folder(parent))
        return
    except OSError as error:
        yield Finding("data", "fail", f"{folder}: {error.strerror}", _other_folder(folder))
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("data", "fail", f"{folder}: this user may not write here", _other_folder(folder))
        return
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        advice = f"Mails are nobody else's business: chmod 700 {folder}"
        yield Finding("data", "warn", f"{folder}: other users may look into it (mode {mode:o})", advice)
    else:
        yield Finding("data", "ok", f"{folder}: writable, for this user alone")
    yield _disk(folder, reserve)
    yield _fsync(folder)


def _other_folder(place: Path) -> str:
    return f"Give this user the right to write to {place}, or name another folder with --data."


def _disk(place: Path, reserve: int) -> Finding:
    free = shutil.disk_usage(place).free
    text = f"{show.size(free)} free; {show.size(reserve)} of it are never filled"
    if free <= reserve:
        return Finding("disk", "fail", text, "Mail is answered with 452 until there is room: free some space.")
    if free < 4 * reserve:
        return Finding("disk", "warn", text, "Free some space, or keep less (store.keep_days, store.keep_size).")
    return Finding("disk", "ok", text)


def _fsync(folder: Path) -> Finding:
    """How long a promise takes at least: the median of five."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(5):
            file.write(b"x" * 4096)
            began = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    median = statistics.median(taken)
    text = f"{median * 1000:.1f} ms for one fsync"
    if median > _SLOW_FSYNC:
        return Finding("fsync", "warn", text, "Each mail waits for one: a better SD card, or a USB SSD, is faster.")
    return Finding("fsync", "ok", text)


def _store(folder: Path) -> Iterator[Finding]:
    from gateway import rescue
    from gateway.store import FILE, Store, StoreBroken

    for aside in rescue.all_aside(folder):
        done = aside.brought_over or "What is owed in it is brought over while the gateway runs."
        advice = (
            "A failing disk or power supply may be the cause: look at it (sudo dmesg, smartctl).\n"
            f"Whatever else is in there: sqlite3 {shlex.quote(str(aside.folder / FILE))} .recover\n"
            f"When you are done with it: rm -r {shlex.quote(str(aside.folder))}"
        )
        yield Finding("set aside", "warn", f"{aside.folder.name}: {aside.why}\n{done}", advice)
    if not os.access(folder / FILE, os.R_OK):  # there is none yet; or the check of the folder has said it
        return
    store = Store(folder)
    try:
        store.open()
    except StoreBroken as error:
        yield Finding("store", "fail", str(error))
        return
    mails, size = store.kept()
    schema = store.rows("PRAGMA user_version")[0][0]
    yield Finding("store", "ok", f"{show.number(mails, 'mail')}, {show.size(size)}, schema {schema}")
    owed = store.owed()
    text = ", ".join(f"{count} {state}" for state, count in owed.items())
    if owed["dead"] or owed["expired"]:
        yield Finding("queue", "warn", text, "See which, and why: mailwire queue")
    else:
        yield Finding("queue", "ok", text)


# --- network -------------------------------------------------------------------------------------------------------


def _listener(listener: common.Listener, *, running: bool) -> Finding:
    name = f"{listener.integration} {show.address(listener.host, listener.port)}"
    if listener.port == 0:
        return Finding("smtp", "ok", f"{name}: the system chooses the port")
    host = common.nearby(listener.host)
    try:
        greeting = _greeting(host, listener.port, implicit=listener.tls == "implicit")
    except ConnectionRefusedError:
        return _free(listener, name, running=running)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and listener.host == "::":
            return Finding("smtp", "ok", f"{name}: this machine has no IPv6")
        return Finding("smtp", "fail", f"{name}: {error.strerror or error}", _taken(listener.port))
    if running and greeting[:3] in ("421", "554"):  # by 'allow', by a ban, or for want of room
        return Finding("smtp", "warn", f"{name}: answers, but not this machine: {greeting}")
    if not greeting.startswith("220"):
        return Finding("smtp", "fail", f"{name}: no SMTP server answers there: {greeting!r}", _taken(listener.port))
    if not running:
        return Finding("smtp", "fail", f"{name}: another program has this port: {greeting}", _taken(listener.port))
    return Finding("smtp", "ok", f"{name}: {greeting}")


def _greeting(host: str, port: int, *, implicit: bool) -> str:
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(socket.create_connection((host, port), _PATIENCE))
        if implicit:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = stack.enter_context(context.wrap_socket(stream))
        greeting = stream.recv(512).decode(errors="replace").strip()
        with contextlib.suppress(OSError):
            stream.sendall(b"QUIT\r\n")
        return greeting


def _free(listener: common.Listener, name: str, *, running: bool) -> Finding:
    """Nobody answers: may we listen there?"""
    if running:
        return Finding(
            "smtp", "fail", f"{name}: the gateway runs, but does not listen here", "See its log for the reason."
        )
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((listener.host, listener.port))
    except PermissionError:
        advice = (
            "Ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or\n"
            f"sudo sysctl net.ipv4.ip_unprivileged_port_start={listener.port}; or listen on 2525."
        )
        return Finding("smtp", "fail", f"{name}: this user may not listen on this port", advice)
    except OSError as error:
        return Finding("smtp", "fail", f"{name}: {error.strerror or error}", _taken(listener.port))
    return Finding("smtp", "ok", f"{name}: free for the gateway")


def _taken(port: int) -> str:
    """Who listens on a port, as far as /proc tells."""
    holder = next(_holders(port), None)
    if holder:
        return f"The port is held by {holder[1]} (process {holder[0]}): stop that one, or listen on another port."
    return f"See who has the port: sudo ss -ltnp 'sport = :{port}'"


def _holders(port: int) -> Iterator[tuple[int, str]]:
    """(process id, program) of those who listen on a TCP port here; only one's own without root's rights."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:  # 0A: TCP_LISTEN
                    inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(handle.readlink()) in inodes for handle in (process / "fd").iterdir()):
                yield int(process.name), (process / "comm").read_text().strip()


def _brokers(settings: Settings) -> Iterator[Finding]:
    for name, setting in settings.integrations.items():
        if setting.type == "mqtt":
            config: Any = setting.config  # its Config, which nothing outside its folder imports
            yield _broker(name, config.url)


def _broker(name: str, url: str) -> Finding:
    parts = urlsplit(url if url != _AUTO else "mqtt://127.0.0.1")
    host, port = parts.hostname or "127.0.0.1", parts.port or _MQTT_PORTS[parts.scheme]
    try:
        socket.create_connection((host, port), _PATIENCE).close()
    except OSError as error:
        why = f"{name}: {show.address(host, port)} does not answer: {error.strerror or error}"
        if url != _AUTO:
            return Finding("broker", "fail", why, "Check the broker, and the url in the configuration. Events wait.")
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
        if program:
            return Finding("broker", "ok", f"{name}: none answers here; the gateway starts {program} itself")
        advice = "Install one (sudo apt install mosquitto), or name one with url. Events wait until then."
        return Finding("broker", "fail", why, advice)
    return Finding("broker", "ok", f"{name}: {show.address(host, port)} answers")


def _integrations(settings: Settings, loader: Loader, folder: Path) -> Iterator[Finding]:
    """What each knows about itself."""
    for name, setting in settings.integrations.items():
        yield from loader.load(setting.type).factory.examine(name, setting.config, folder / "integrations" / name)
