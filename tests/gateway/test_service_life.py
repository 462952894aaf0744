"""As a service: what is kept is kept private, systemd is told the truth, and its sockets are used."""

import contextlib
import os
import re
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import needs
from tests.live import DEFAULT, PATIENCE, Gateway, until

WITH_TLS_AND_BROKER = """
integrations:
  lan: {type: smtp_server, listen: ["127.0.0.1:0"], tls: required}
  broker: {type: mqtt}
  files: {type: archive}
routes: [{to: [broker, files]}]
"""


def send(port, size=10, tls=False):
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        if tls:
            client.starttls()
        client.sendmail("plc@lan", ["a@gw"], b"Subject: x\r\n\r\n" + b"x" * size)


def modes(folder):
    found = {}
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # a passing file
            found[str(path.relative_to(folder))] = stat.S_IMODE(path.lstat().st_mode)
    return found


class Loose(Gateway):
    """Started by somebody whose files everybody may read and write."""

    def start(self):
        before = os.umask(0)
        try:
            return super().start()
        finally:
            os.umask(before)


def test_all_that_is_kept_is_for_this_user_alone(tmp_path):
    needs.program("mosquitto", "mosquitto")
    with Loose(tmp_path / "a b", WITH_TLS_AND_BROKER) as gateway:
        send(gateway.port, tls=True)
        send(gateway.port, 1_000_000, tls=True)
        gateway.settled(2)
        until(lambda: not any(gateway.json("queue")), "delivering")
        found = modes(gateway.data)
    names = {name.rpartition("/")[2] for name in found}
    assert {
        "mailwire.db",
        "mailwire.db-wal",
        "mailwire.db-shm",
        "key-ec.pem",
        "events.jsonl",
        "mosquitto.conf",
    } <= names
    assert [name for name, mode in found.items() if mode & 0o077] == []


def test_what_others_could_read_they_can_no_longer_and_that_is_said_once(tmp_path):
    gateway = Gateway(tmp_path)
    with gateway:
        send(gateway.port, 1_000_000)
        gateway.settled(1)
    for path in (gateway.data, gateway.data / "mailwire.db", gateway.data / "integrations", gateway.data / "mails"):
        path.chmod(path.stat().st_mode | 0o055)
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o644)
    (gateway.data / "link").symlink_to(outside)
    with gateway:
        gateway.logged(rf"WARNING .*other users could read {re.escape(str(gateway.data))} and \d more below: now they ")
        assert [name for name, mode in modes(gateway.data).items() if mode & 0o077 and name != "link"] == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    with gateway:
        pass
    assert gateway.log.read_text().count("other users could read") == 1


# --- sd_notify -------------------------------------------------------------------------------------------------------


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.address = address
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.door.bind("\0" + address[1:] if address.startswith("@") else address)
        self.door.settimeout(PATIENCE)

    def next(self):
        return self.door.recv(4096).decode().splitlines()

    def skip_to(self, line):
        while line not in (said := self.next()):
            assert said == ["WATCHDOG=1"]
        return said

    def is_silent_for(self, seconds):
        """Nothing more comes, once what is on its way has come."""
        self.door.settimeout(seconds)
        try:
            with contextlib.suppress(TimeoutError):
                while True:
                    self.door.recv(4096)
                    self.door.settimeout(seconds)
        finally:
            self.door.settimeout(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.door.close()


class Service(Gateway):
    """As systemd starts it. The watchdog wants a sign within 0.3 seconds."""

    def __init__(self, folder, address, config=DEFAULT):
        super().__init__(folder, config)
        self.address = address

    def environment(self):
        return super().environment() | {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": "300000"}


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"@mailwire-test-{os.getpid()}-{time.time_ns()}"
    with Manager(address) as one:
        yield one


def test_systemd_is_told_when_it_is_ready_reloads_and_stops(tmp_path, manager):
    with Service(tmp_path / "gw", manager.address) as gateway:
        said = manager.next()
        assert said[0] == "READY=1"
        assert said[1].startswith("STATUS=Mailwire ")
        socket.create_connection(("127.0.0.1", gateway.port)).close()  # it is ready indeed
        assert manager.next() == ["WATCHDOG=1"]
        gateway.hang_up()
        assert re.fullmatch(r"MONOTONIC_USEC=\d+", manager.skip_to("RELOADING=1")[1])
        manager.skip_to("READY=1")
        gateway.config.write_text("nonsense: 1\n")
        gateway.hang_up()
        manager.skip_to("RELOADING=1")
        manager.skip_to("READY=1")  # the old configuration goes on
        gateway.process.terminate()
        manager.skip_to("STOPPING=1")
        assert gateway.process.wait(PATIENCE) == 0


def test_no_sign_of_life_while_it_hangs(tmp_path):
    with Manager(str(tmp_path / "notify")) as manager, Service(tmp_path / "gw", manager.address) as gateway:
        assert manager.next()[0] == "READY=1"
        for _ in range(3):
            assert manager.next() == ["WATCHDOG=1"]
        gateway.process.send_signal(signal.SIGSTOP)
        until(lambda: ") T " in _stat(gateway.pid), "stopping")
        manager.is_silent_for(0.5)
        gateway.process.send_signal(signal.SIGCONT)
        assert manager.next() == ["WATCHDOG=1"]


def _stat(pid):
    return Path(f"/proc/{pid}/stat").read_text()


HANGING_WRITER = """
import sys, threading
from gateway.writer import Writer
Writer._promise = lambda *_: threading.Event().wait()
from gateway.__main__ main
"""


def test_no_sign_of_life_while_the_stores_writer_hangs(tmp_path):
    """A mail that is never kept: the loop turns, the port answers, and yet it is as good as dead."""

    class Hanging(Service):
        def command(self, *args):
            if args[0] != "run":
                return super().command(*args)
            program = HANGING_WRITER.replace("__main__ main", "__main__ import main\nsys.exit(main(sys.argv))")
            return [sys.executable, "-c", program, *super().command(*args)[3:]]

    with Manager(str(tmp_path / "notify")) as manager, Hanging(tmp_path / "gw", manager.address) as gateway:
        assert manager.next()[0] == "READY=1"
        assert manager.next() == ["WATCHDOG=1"]
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as peer:
            peer.sendall(b"HELO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n")
            seen = b""
            while b"354 " not in seen:
                seen += peer.recv(4096)
            peer.sendall(b"x\r\n.\r\n")
            manager.is_silent_for(0.7)
            socket.create_connection(("127.0.0.1", gateway.port)).close()
            manager.is_silent_for(0.5)
        gateway.kill()


# --- socket activation -----------------------------------------------------------------------------------------------


class Activated(Gateway):
    """Started by systemd's own program for it, which opens the sockets and passes them."""

    def __init__(self, folder, config, *places):
        super().__init__(folder, config)
        program = needs.program("systemd-socket-activate", "systemd")
        self.launcher = [program, *(f"--listen={place}" for place in places)]

    def command(self, *args):
        if args[0] != "run":
            return super().command(*args)
        return [*self.launcher, "--setenv=PYTHONUNBUFFERED=1", *super().command(*args)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def knock(host, port):
    """systemd starts the program at the first connection, which is served when it is there."""

    def connect():
        try:
            return socket.create_connection((host, port), timeout=PATIENCE)
        except ConnectionRefusedError:
            return None

    return until(connect, "listening")


def test_sockets_that_systemd_has_opened_are_served_and_survive_a_restart_of_the_server(tmp_path):
    port = free_port()
    config = f'integrations:\n  lan: {{type: smtp_server, listen: ["127.0.0.1:{port}"]}}\n'
    gateway = Activated(tmp_path, config, f"127.0.0.1:{port}")
    with gateway.log.open("ab") as log:
        gateway.process = subprocess.Popen(
            gateway.command("run"), stdout=subprocess.PIPE, stderr=log, env=gateway.environment()
        )
    try:
        with knock("127.0.0.1", port) as first:
            gateway.greeting = gateway._read_greeting()
            assert first.recv(100).startswith(b"220 ")
        send(port)
        assert len(gateway.settled(1)) == 1
        gateway.config.write_text(config.replace("}", ", tolerance: strict}"))
        gateway.hang_up()  # the server is replaced by another, on the same socket
        gateway.logged("restarted lan")
        send(port, 20)
        assert len(gateway.settled(2)) == 2
        assert "for this gateway, but no SMTP server does" not in gateway.log.read_text()
        gateway.config.write_text(config.replace(str(port), "0"))
        gateway.hang_up()
        gateway.logged(rf"systemd listens on 127\.0\.0\.1:{port} for this gateway, but no SMTP server does: add it to ")
    finally:
        assert gateway.terminate() == 0


def test_one_socket_for_ipv4_and_ipv6(tmp_path):
    """`ListenStream=25` in a unit opens such a socket. IPv4 comes through it as ::ffff:1.2.3.4, and is what it is."""
    port = free_port()
    config = f'integrations:\n  lan: {{type: smtp_server, listen: ["0.0.0.0:{port}", "[::]:{port}"]}}\n'
    gateway = Activated(tmp_path, config, str(port))
    with gateway.log.open("ab") as log:
        gateway.process = subprocess.Popen(
            gateway.command("run"), stdout=subprocess.PIPE, stderr=log, env=gateway.environment()
        )
    try:
        knock("127.0.0.1", port).close()
        gateway.greeting = gateway._read_greeting()
        send(port)
        with contextlib.suppress(OSError), smtplib.SMTP("::1", port, timeout=PATIENCE) as client:
            client.sendmail("plc@lan", ["a@gw"], b"x")
        peers = {mail["peer"] for mail in until(gateway.mails, "a mail")}
        assert "127.0.0.1" in peers
        assert peers <= {"127.0.0.1", "::1"}
    finally:
        assert gateway.terminate() == 0
