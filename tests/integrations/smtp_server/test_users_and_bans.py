"""Users in a file, hashes, and peers that are kept out because their logins fail."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway import bans, users
from gateway.integrations.smtp_server import Config, SmtpServer, protocol
from gateway.integrations.smtp_server.access import Rights
from tests.integrations.smtp_server.harness import Peer, Serve, Server, eventually

RIGHT = "235 2.7.0 Authentication successful"
WRONG = "535 5.7.8 Authentication credentials invalid"


def plain(user: str, password: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode())


def add(folder: Path, **passwords: str) -> None:
    with users.changing(folder / users.FILE) as known:
        known.update({name: users.hashed(password) for name, password in passwords.items()})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_LOGIN", 0.001)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads on which passwords were hashed."""
    seen: list[str] = []
    scrypt = users._scrypt

    def counted(*arguments: Any) -> bytes:
        seen.append(threading.current_thread().name)
        return scrypt(*arguments)

    monkeypatch.setattr(users, "_scrypt", counted)
    return seen


def test_a_hash_in_the_configuration(serve: Serve) -> None:
    server = serve(users={"cam": str(users.hashed("sesame")), "nas": "plain"})
    peer = server.peer(b"EHLO cam")
    assert peer.ask(plain("cam", "wrong")) == WRONG
    assert peer.ask(plain("cam", "sesame")) == RIGHT
    assert server.peer(b"EHLO nas").ask(plain("nas", "plain")) == RIGHT


def test_the_file_is_read_again_when_it_changes(serve: Serve, tmp_path: Path) -> None:
    server = serve(login="required")
    server.logged("WARNING Nobody can log in yet ('login: required'): mailwire user add NAME")
    peer = server.peer(b"EHLO cam")
    assert peer.ask(plain("cam", "first")) == WRONG
    add(tmp_path, cam="first")
    assert peer.ask(plain("cam", "first")) == RIGHT
    add(tmp_path, cam="second")
    peer = server.peer(b"EHLO cam")
    assert peer.ask(plain("cam", "first")) == WRONG  # though it was known to be right
    assert peer.ask(plain("cam", "second")) == RIGHT
    with users.changing(tmp_path / users.FILE) as known:
        del known["cam"]
    assert server.peer(b"EHLO cam").ask(plain("cam", "second")) == WRONG


def test_the_configuration_comes_before_the_file(serve: Serve, tmp_path: Path) -> None:
    add(tmp_path, cam="of the file", nas="of the file")
    server = serve(users={"cam": "configured"})
    assert server.peer(b"EHLO cam").ask(plain("cam", "of the file")) == WRONG
    assert server.peer(b"EHLO cam").ask(plain("cam", "configured")) == RIGHT
    assert server.peer(b"EHLO cam").ask(plain("nas", "of the file")) == RIGHT


def test_a_damaged_file_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    add(tmp_path, cam="sesame")
    server = serve(login="required")
    path = tmp_path / users.FILE
    for damage, what in (
        ("[", "Expecting value: line 1 column 2 (char 1)"),
        ('{"cam": "sesame"}', "it is to hold names and hashes"),
        ('["cam"]', "it is to hold names and hashes"),
    ):
        path.write_text(damage)
        assert server.peer(b"EHLO cam").ask(plain("cam", "sesame")) == RIGHT
        server.logged(f"ERROR {path} can't be used, and what was known of its users goes on: {what}")


def test_a_login_that_was_right_is_not_hashed_again(serve: Serve, tmp_path: Path, checks: list[str]) -> None:
    add(tmp_path, cam="sesame")
    server = serve(login="required")
    checks.clear()
    for _ in range(5):
        assert server.peer(b"EHLO cam").ask(plain("cam", "sesame")) == RIGHT
    assert len(checks) == 1
    assert server.peer(b"EHLO cam").ask(plain("cam", "Sesame")) == WRONG
    assert len(checks) == 2


def test_every_wrong_login_costs_the_same_whoever_it_names(serve: Serve, tmp_path: Path, checks: list[str]) -> None:
    add(tmp_path, cam="sesame")
    server = serve(users={"nas": "plain"})
    for name in ("cam", "nas", "nobody", ""):
        checks.clear()
        assert server.peer(b"EHLO cam").ask(plain(name, "wrong")) == WRONG
        assert checks == ["login_0"]  # once, and never on the thread that serves everybody


def test_nobody_waits_for_a_login(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, cam="sesame")
    server = serve(login="optional")
    free = threading.Event()
    scrypt = users._scrypt
    monkeypatch.setattr(users, "_scrypt", lambda *arguments: free.wait(20) and scrypt(*arguments))
    waiting = server.peer(b"EHLO cam")
    waiting.send(plain("cam", "sesame"), b"NOOP")
    assert server.peer(b"EHLO nas").ask(b"MAIL FROM:<nas@lan>", b"RCPT TO:<a@gw>", b"DATA", b".").startswith("250")
    free.set()
    assert [waiting.reply(), waiting.reply()] == [RIGHT, "250 2.0.0 Ok"]


def test_no_memory_is_no_wrong_password(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, cam="sesame")
    server = serve(login="required")

    def no_memory(*_: Any) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(users, "_scrypt", no_memory)
        peer = server.peer(b"EHLO cam")
        answer = "454 4.7.0 Temporary authentication failure, try again later"
        assert [peer.ask(plain("cam", "sesame")) for _ in range(5)] == [answer] * 5
    assert peer.ask(plain("cam", "sesame")) == RIGHT
    server.logged("ERROR A login from 127.0.0.1 (cam) could not be checked: there is not enough memory.")


def test_gone_while_its_password_is_checked(serve: Serve, tmp_path: Path) -> None:
    add(tmp_path, cam="sesame")
    server = serve(login="required")
    peer = server.peer(b"EHLO cam")
    peer.send(plain("cam", "sesame"), b"MAIL FROM:<a>", b"RCPT TO:<b>", b"DATA", b"x", b".")
    peer.reset()
    eventually(lambda: server.intake.mails)
    eventually(lambda: not server.connections)
    assert server.intake.mails[0][0].details["user"] == "cam"


# --- bans ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server to which this machine is as good as any other."""

    def make(**rules: Any) -> Server:
        server = serve(users={"cam": "sesame"}, bans={"after": 3, **rules})
        shared = server.it._shared
        assert shared
        monkeypatch.setattr(shared.access, "rights", lambda peer: Rights(True, True, False, False, True))
        return server

    return make


def fail(server: Server, times: int) -> Peer:
    for _ in range(times):
        peer = server.peer(b"EHLO cam")
        peer.ask(plain("cam", "wrong"))
    return peer


def test_too_many_wrong_logins_keep_a_peer_out(strict: Any, tmp_path: Path) -> None:
    server = strict()
    assert fail(server, 2).ask(plain("cam", "sesame")) == RIGHT  # which excuses nothing
    fail(server, 1)
    server.logged(
        "WARNING 127.0.0.1 (cam) is kept out for 15 minutes: 3 of its logins failed. "
        "To let it in now: mailwire bans lift 127.0.0.1"
    )
    for _ in range(2):
        assert server.connect().rest() == ["421 4.7.0 Too many failed logins, try again later"]
    line = (
        "WARNING 127.0.0.1 is kept out: too many of its logins failed. To let it in now: mailwire bans lift 127.0.0.1"
    )
    server.logged(line)
    assert server.log.lines.count(line) == 1
    (ban,) = bans.active(tmp_path / bans.FOLDER)
    assert (ban.peer, ban.failures, ban.times) == ("127.0.0.1", 3, 1)
    assert server.it.health()["bans"][0]["peer"] == "127.0.0.1"
    assert (tmp_path / bans.FOLDER).stat().st_mode & 0o777 == 0o700


def test_a_restart_lifts_no_ban_and_a_person_does(strict: Any, tmp_path: Path) -> None:
    fail(strict(), 3)
    server = strict()
    assert server.connect().reply().startswith("421 4.7.0 Too many failed logins")
    assert bans.lift(tmp_path / bans.FOLDER, "127.0.0.1")
    assert not bans.lift(tmp_path / bans.FOLDER, "127.0.0.1")
    server.logged("INFO 127.0.0.1 is let in again: its ban was lifted.")
    assert server.peer(b"EHLO cam").ask(plain("cam", "sesame")) == RIGHT


def test_open_connections_of_a_banned_peer_guess_in_vain(strict: Any, checks: list[str]) -> None:
    server = strict()
    shared = server.it._shared
    assert shared
    shared.users = users.Users({"cam": str(users.hashed("sesame"))}, Path("nowhere"), lambda text: None, server.loop)
    open_before = server.peer(b"EHLO cam")
    fail(server, 3)
    checks.clear()
    assert open_before.ask(plain("cam", "sesame")) == WRONG
    assert checks == []
    assert len(server.it.health()["bans"]) == 1
    shared.users.close()


def test_this_machine_is_never_kept_out(serve: Serve) -> None:
    server = serve(users={"cam": "sesame"}, bans={"after": 1})
    assert fail(server, 4).ask(plain("cam", "sesame")) == RIGHT
    assert server.it.health() == {"bans": []}


def test_bans_may_be_switched_off(strict: Any) -> None:
    server = strict(after=0)
    assert fail(server, 4).ask(plain("cam", "sesame")) == RIGHT


class TestBans:
    def test_each_is_twice_as_long_until_a_day_after_the_last(self, tmp_path: Path) -> None:
        now = 0.0
        kept = bans.Bans(tmp_path / "bans", 900, 86400, lambda: now)
        assert kept.left("10.0.0.1") == 0
        assert kept.impose("10.0.0.1", 10) == 900
        assert kept.left("10.0.0.1") == 900
        assert kept.left("10.0.0.2") == 0
        now = 900.0
        assert kept.left("10.0.0.1") == 0
        assert kept.listed() == []
        assert [kept.impose("10.0.0.1", 10) for _ in range(8)] == [1800, 3600, 7200, 14400, 28800, 57600, 86400, 86400]
        now += 2 * 86400 + 1
        assert kept.look() == []
        assert list((tmp_path / "bans").iterdir()) == []
        assert kept.impose("10.0.0.1", 10) == 900

    def test_they_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bans, "_LIMIT", 3)
        kept = bans.Bans(tmp_path / "bans", 900, 86400)
        for number in range(5):
            kept.impose(f"10.0.0.{number}", 10)
        assert [ban.peer for ban in kept.listed()] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
        assert len(list((tmp_path / "bans").iterdir())) == 3

    def test_a_clock_that_was_wrong_keeps_nobody_out_for_longer(self, tmp_path: Path) -> None:
        (tmp_path / "10.0.0.1").write_text(json.dumps({"until": time.time() + 1e9, "failures": 10, "times": 1}))
        (tmp_path / "10.0.0.2").write_text(json.dumps({"until": 900, "failures": 10, "times": 1}))
        (tmp_path / "10.0.0.3").write_text("")
        (tmp_path / "10.0.0.4").write_text(json.dumps({"until": time.time() + 1e9, "failures": 10, "times": 9}))
        kept = bans.Bans(tmp_path, 900, 3600, lambda: 0.0)
        assert kept.left("10.0.0.1") == 900
        assert kept.left("10.0.0.4") == 3600
        assert kept.left("10.0.0.2") == 0
        assert not (tmp_path / "10.0.0.2").exists()

    def test_a_full_disk_lets_nobody_in(self, tmp_path: Path) -> None:
        (tmp_path / "bans").write_text("in its way")
        kept = bans.Bans(tmp_path / "bans", 900, 86400)
        kept.impose("10.0.0.1", 10)
        assert kept.look() == []
        assert kept.left("10.0.0.1") > 0


# --- what `mailwire doctor` is told ----------------------------------------------------------------------------------


def test_what_the_doctor_is_told(tmp_path: Path) -> None:
    config = Config.model_validate({"login": "required", "tls": "none"})

    def examine() -> list[tuple[str, ...]]:
        return [tuple(finding) for finding in SmtpServer.examine("lan", config, tmp_path)]

    assert examine() == [("users", "warn", "lan: nobody can log in yet", "Add somebody: mailwire user add NAME")]
    add(tmp_path, cam="sesame")
    bans.Bans(tmp_path / bans.FOLDER, 900, 900).impose("fe80::1%eth0", 7)
    (ban,) = bans.active(tmp_path / bans.FOLDER)
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ban.until))
    assert examine() == [
        (
            "ban",
            "warn",
            f"lan: fe80::1%eth0 is kept out until {until}: 7 of its logins failed",
            "Right its password; to let it in now: mailwire bans lift fe80::1%eth0",
        ),
        ("users", "ok", "lan: 1 can log in", ""),
    ]
    (tmp_path / users.FILE).write_text("{")
    assert examine()[-1][1] == "fail"
