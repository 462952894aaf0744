"""A real Dovecot for tests: IMAP and POP3 on free ports, one user with a Maildir, all in a folder of its own."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.mosquitto import free_port, until

USER, PASSWORD = "cam@example.org", "pass-word"
CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap pop3
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/cert.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {login}
first_valid_uid = 0
first_valid_gid = 0
mail_location = maildir:{folder}/mail
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
  }}
}}
service anvil {{
  chroot =
}}
{more}
"""


class Dovecot:
    """`ports`: imap, imaps, pop3, pop3s -> port."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        folder.chmod(0o755)  # for the user of its login processes
        self.certificate = folder / "cert.pem"
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._choose_ports()

    def _choose_ports(self) -> None:
        self.ports = {name: free_port() for name in ("imap", "imaps", "pop3", "pop3s")}

    def start(self) -> None:
        program = needs.program("dovecot", "dovecot-imapd dovecot-pop3d")
        for name in ("run", "state", "home", "mail/cur", "mail/new", "mail/tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not self.certificate.exists():
            subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            keys = ["-keyout", str(self.folder / "key.pem"), "-out", str(self.certificate)]
            command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *keys, *subject]
            subprocess.run(command, check=True, capture_output=True)
        for name in ("home", "mail", "mail/cur", "mail/new", "mail/tmp") if os.getuid() == 0 else ():
            shutil.chown(self.folder / name, "nobody")
        group = subprocess.run(["id", "-gn"], check=True, capture_output=True, text=True).stdout.strip()
        configuration = self.folder / "dovecot.conf"
        facts = {"folder": self.folder, "user": getpass.getuser(), "group": group, "password": PASSWORD}
        nobody = pwd.getpwnam("nobody")
        uid, gid = (nobody.pw_uid, nobody.pw_gid) if os.getuid() == 0 else (os.getuid(), os.getgid())
        facts["login"] = "nobody" if os.getuid() == 0 else facts["user"]  # it refuses to be root there
        facts |= {"uid": uid, "gid": gid, "more": self._more, **self.ports}
        configuration.write_text(CONFIGURATION.format(**facts))
        process = subprocess.Popen([program, "-F", "-c", str(configuration)], stderr=subprocess.DEVNULL)
        until(lambda: process.poll() is not None or all(map(_answers, self.ports.values())), "for Dovecot")
        if process.poll() is None:
            self._process = process
        else:  # one of its ports was taken meanwhile
            self._choose_ports()
            self.start()

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def deliver(self, content: bytes) -> None:
        """As a mail server does: into the Maildir, whole or not at all."""
        self._number += 1
        name = f"{time.time():.6f}.{os.getpid()}_{self._number}.test"
        path = self.folder / "mail" / "tmp" / name
        path.write_bytes(content)
        path.rename(self.folder / "mail" / "new" / name)

    def left(self, folder: str = "") -> int:
        """How many mails are in a folder."""
        there = self.folder / "mail" / folder
        return sum(1 for name in ("cur", "new") for _ in (there / name).glob("*"))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    # Not below pytest's own folder: paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="dovecot-") as folder:
        server = Dovecot(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
