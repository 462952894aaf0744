"""Each limit, with the reply that the device hears and the line that its owner reads."""

from __future__ import annotations

import time

import pytest

from gateway.integrations import smtp_server
from gateway.integrations.smtp_server import access, crowd, protocol
from gateway.wire.smtp_remarks import REMARKS
from tests.integrations.smtp_server.harness import Peer, Serve, eventually

OPENING = (b"EHLO cam", b"MAIL FROM:<cam@lan>", b"RCPT TO:<motion@gw>")


class TestWhoMayConnect:
    def test_a_stranger_is_told_and_named_once(self, serve: Serve) -> None:
        server = serve(allow=["192.0.2.0/24"])
        for _ in range(3):
            assert server.connect().rest() == ["554 5.7.1 127.0.0.1 may not send mail to this gateway"]
        line = (
            "WARNING 127.0.0.1 was refused: it is in none of the networks under 'allow'. "
            "To let it in, add '127.0.0.1' there."
        )
        assert server.log.lines == [line]

    def test_all_connections_taken(self, serve: Serve) -> None:
        server = serve(max_connections=2)
        first, second = server.peer(), server.peer()
        for _ in range(2):
            assert server.connect().rest() == ["421 4.3.2 Too many connections, try again later"]
        assert server.log.lines == ["WARNING 127.0.0.1 was put off: all 2 connections are taken ('max_connections')."]
        first.close()
        eventually(lambda: len(server.connections) == 1)
        server.peer()
        assert second.ask(b"NOOP") == "250 Ok"

    def test_one_peer_has_its_share(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        everybody = access.Rights(allowed=True, counted=True, old_tls=False, bare_lf=False)
        monkeypatch.setattr(access.Access, "rights", lambda self, peer: everybody)
        server = serve(max_connections_per_peer=1)
        server.peer()
        assert server.connect().rest() == ["421 4.3.2 Too many connections, try again later"]
        server.logged(
            "WARNING 127.0.0.1 was put off: 1 connections from it are open already ('max_connections_per_peer')."
        )

    def test_programs_on_this_machine_are_not_counted(self, serve: Serve) -> None:
        server = serve(max_connections_per_peer=1)
        for _ in range(5):
            server.peer()


ROOM = "421 4.4.2 gw.lan Timeout, closing"


class TestCrowd:
    """All places are taken, and one more wants in."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crowd, "LOOK_ROUND", 0.0)
        for name in ("SILENT", "SLOW_AFTER"):
            monkeypatch.setattr(crowd, name, -1.0)

    def test_the_one_longest_without_a_mail_makes_room(self, serve: Serve) -> None:
        server = serve(max_connections=3)
        first, second = server.peer(b"EHLO first"), server.peer(b"EHLO second")
        third = server.peer(*OPENING, b"DATA")  # in a mail, and fast
        third.send(b"x" * 100_000)
        eventually(lambda: server.intake.written >= 100_000)
        first.ask(b"MAIL FROM:<a>", b"RCPT TO:<b>", b"DATA")
        first.send(b".")
        first.reply()
        assert server.peer().ask(b"NOOP") == "250 Ok"
        assert second.rest() == [ROOM]
        assert first.ask(b"NOOP") == "250 2.0.0 Ok"
        third.send(b"", b".")
        assert third.reply()[:3] == "250"
        server.logged(
            "WARNING All connections are taken ('max_connections'): those that bring no mail make room for others, "
            "127.0.0.1 (second) was the first."
        )

    def test_an_envelope_is_no_mail_yet(self, serve: Serve) -> None:
        server = serve(max_connections=1)
        peer = server.peer(*OPENING)
        server.peer()
        assert peer.rest() == [ROOM]

    def test_half_a_command_and_half_a_handshake_are_none(self, serve: Serve) -> None:
        server = serve(max_connections=2)
        half, hand = server.peer(b"EHLO half"), server.peer(b"EHLO hand", b"STARTTLS")
        half.socket.sendall(b"MAI")
        for _ in range(2):
            server.peer(b"EHLO more")
        assert half.rest() == [ROOM]
        assert hand.rest() == []  # what we say to it must be inside TLS

    def test_the_slowest_mail_when_there_is_nothing_else(self, serve: Serve) -> None:
        server = serve(max_connections=2)
        slow, slower = server.peer(*OPENING, b"DATA"), server.peer(*OPENING, b"DATA")
        slow.send(b"x" * 100)
        eventually(lambda: server.intake.written >= 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crowd, "SLOW", float("inf"))
            server.peer(b"QUIT")
        assert slower.rest() == [ROOM]
        assert slow.ask(b".")[:3] == "250"
        assert server.intake.aborted == 1
        server.logged(
            "WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after 0 bytes and was dropped: "
            "it came too slowly, and all connections are taken."
        )

    def test_a_mail_that_is_refused_already_counts_for_nothing(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crowd, "NO_MAIL", -1.0)
        monkeypatch.setattr(crowd, "SILENT", 60.0)
        server = serve(max_connections=1, max_size="64 KiB")
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"x" * 70_000)
        eventually(lambda: server.intake.aborted)
        server.peer()
        assert peer.rest() == [ROOM]

    def test_one_that_reads_nothing_is_let_go_at_once(self, serve: Serve) -> None:
        server = serve(max_connections=1)
        server.flood(server.peer())
        server.peer()
        assert len(server.connections) == 1

    def test_who_has_logged_in_stays(self, serve: Serve) -> None:
        server = serve(max_connections=1, users={"cam": "secret"})
        peer = server.peer(b"EHLO cam", b"AUTH PLAIN AGNhbQBzZWNyZXQ=")
        assert server.connect().rest() == ["421 4.3.2 Too many connections, try again later"]
        assert peer.ask(b"NOOP") == "250 2.0.0 Ok"

    def test_a_login_that_takes_any_password_counts_for_nothing(self, serve: Serve) -> None:
        server = serve(max_connections=1)
        peer = server.peer(b"EHLO cam", b"AUTH PLAIN AGNhbQBzZWNyZXQ=")
        server.peer()
        assert peer.rest() == [ROOM]

    def test_a_mail_that_waits_for_us_stays(self, serve: Serve) -> None:
        server = serve(max_connections=1)
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b".")
        eventually(lambda: server.intake.held)
        assert server.connect().rest() == ["421 4.3.2 Too many connections, try again later"]
        server.release()
        assert peer.reply()[:3] == "250"

    def test_a_peer_with_its_share_pushes_nobody_out(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        everybody = access.Rights(allowed=True, counted=True, old_tls=False, bare_lf=False)
        monkeypatch.setattr(access.Access, "rights", lambda self, peer: everybody)
        server = serve(max_connections=1, max_connections_per_peer=1)
        peer = server.peer()
        server.connect().rest()
        assert peer.ask(b"NOOP") == "250 Ok"


def test_looking_for_room_is_done_once_a_second() -> None:
    class Guest:
        def __init__(self, spare: tuple[bool, float] | None) -> None:
            self.state, self.looks = spare, 0

        def spare(self, now: float) -> tuple[bool, float] | None:
            self.looks += 1
            return self.state

        def make_room(self) -> None:
            left.append(self)
            self.state = None

    left: list[Guest] = []
    now = 100.0
    mail, new, old, gone = Guest((True, 5.0)), Guest((False, -7.0)), Guest((False, -9.0)), Guest((False, -8.0))
    used = [Guest(None) for _ in range(10)]
    places = crowd.Crowd([mail, new, *used, old, gone], lambda: now)
    assert places.make_room()
    gone.state = None
    assert [places.make_room() for _ in range(4)] == [True, True, False, False]
    assert left == [old, new, mail]
    assert {guest.looks for guest in used} == {1}
    now += crowd.LOOK_ROUND
    assert not places.make_room()
    assert {guest.looks for guest in used} == {2}


class TestOneConnection:
    def test_size(self, serve: Serve) -> None:
        server = serve(max_size="64 KiB")
        peer = server.peer()
        assert "SIZE 65536" in peer.ask(b"EHLO cam")
        assert peer.ask(b"MAIL FROM:<a> SIZE=65537") == "552 5.3.4 Message too big"
        for line in OPENING[1:]:
            peer.ask(line)
        peer.ask(b"DATA")
        peer.send(b"x" * 70_000, b".")
        assert peer.reply() == "552 5.3.4 Message too big"
        server.logged(
            "WARNING A mail from 127.0.0.1 (cam) was given up: it has more than 64.0KiB ('max_size'), "
            "or was taken back."
        )
        assert (server.intake.aborted, server.intake.mails) == (1, [])
        assert peer.ask(*OPENING[1:], b"DATA") == "354 End with <CRLF>.<CRLF>"

    def test_recipients(self, serve: Serve) -> None:
        peer = serve(max_recipients=100).peer(*OPENING)
        assert peer.ask(*[b"RCPT TO:<a>"] * 100) == "452 4.5.3 Too many recipients"

    def test_recipients_that_are_not_ours(self, serve: Serve) -> None:
        peer = serve(recipients=["*@gw.lan", "front-?"]).peer(*OPENING[:2])
        assert peer.ask(b"RCPT TO:<Motion@GW.lan>") == "250 2.1.5 Ok"
        assert peer.ask(b"RCPT TO:<front-2>") == "250 2.1.5 Ok"
        assert peer.ask(b"RCPT TO:<a@gw.lan.example>") == "550 5.1.1 No such recipient here"

    def test_commands(self, serve: Serve) -> None:
        server = serve(max_commands=3)
        peer = server.peer(b"EHLO cam")
        peer.send(b"NOOP", b"NOOP", b"NOOP")
        assert peer.rest() == ["250 2.0.0 Ok", "250 2.0.0 Ok", "421 4.7.0 gw.lan Too many commands"]
        server.logged("WARNING 127.0.0.1 (cam) was cut off: it sent more than 3 commands ('max_commands').")

    def test_commands_that_make_no_sense(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        peer.send(*[b"\xff\x00rubbish"] * 30)
        replies = peer.rest()
        assert len(replies) == 21
        assert replies[-1] == "421 4.7.0 gw.lan Too many errors"
        server.logged("WARNING 127.0.0.1 (cam) was cut off: it sent more than 20 commands that make no sense.")

    def test_mails_that_break_off_do_not_flood_the_log(self, serve: Serve) -> None:
        server = serve()
        for _ in range(protocol.BROKEN_OFF + 5):
            peer = server.peer(*OPENING, b"DATA")
            peer.reset()
        eventually(lambda: server.intake.aborted == protocol.BROKEN_OFF + 5)
        line = "WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after 0 bytes and was dropped: "
        line += "it hung up."
        more = " More of them are only counted, for an hour."
        assert server.log.lines == [line] * (protocol.BROKEN_OFF - 1) + [line + more]

    def test_http(self, serve: Serve) -> None:
        server = serve()
        peer = server.connect()
        peer.send(b"POST / HTTP/1.1", b"Host: gw", b"", b"EHLO x", b"MAIL FROM:<a>", b"RCPT TO:<b>", b"DATA")
        assert peer.rest() == ["220 gw.lan ESMTP Mailwire", "421 gw.lan This is SMTP, not HTTP"]
        server.logged("WARNING 127.0.0.1: " + REMARKS["http"])

    def test_remarks_are_logged_once_a_day_and_go_with_each_mail(self, serve: Serve) -> None:
        server = serve()
        for _ in range(3):
            peer = server.peer(b"HELO", b"MAIL FROM: a@lan", b"RCPT TO:<b>", b"DATA")
            peer.send(b".")
            peer.reply()
        assert [line for line in server.log.lines if line.startswith("WARNING")] == [
            "WARNING 127.0.0.1: " + REMARKS["empty-helo"],
            "WARNING 127.0.0.1: " + REMARKS["no-brackets"],
        ]
        assert [envelope.details["remarks"] for envelope, _ in server.intake.mails] == [
            ["empty-helo", "no-brackets"]
        ] * 3

    def test_bare_lf_only_for_those_named(self, serve: Serve) -> None:
        mail = b"EHLO cam\nMAIL FROM:<a>\nRCPT TO:<b>\nDATA\nhello\n.\nQUIT\n"
        peer = serve(bare_lf=["127.0.0.1"]).connect()
        peer.socket.sendall(mail)
        assert [reply[:3] for reply in peer.rest()] == ["220", "250", "250", "250", "354", "250", "221"]
        server = serve(bare_lf=["127.0.0.2"])
        peer = server.connect()
        peer.socket.sendall(mail.removesuffix(b"QUIT\n"))
        server.logged("WARNING 127.0.0.1 (cam): " + REMARKS["lf-end"])

    def test_strict(self, serve: Serve) -> None:
        peer = serve(tolerance="strict").peer()
        assert peer.ask(b"HELO") == "501 Say your name"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_server, "SWEEP", 0.02)


SLOW = 30.0
TIMEOUT = "421 4.4.2 gw.lan Timeout, closing"


@pytest.mark.usefixtures("_quick")
class TestTime:
    def until_cut(self, peer: Peer, drip: bytes) -> str:
        """Send this again and again; the reply that ends it."""
        deadline = time.monotonic() + SLOW
        peer.socket.settimeout(0.03)
        while time.monotonic() < deadline:
            try:
                if (reply := peer.reply())[:1] != "2":
                    return reply
            except TimeoutError:
                peer.socket.sendall(drip)
        raise AssertionError("it was never cut off")

    def test_a_silent_peer(self, serve: Serve) -> None:
        peer = serve(timeouts={"command": 0.1}).peer()
        assert peer.rest() == ["421 gw.lan Timeout, closing"]

    def test_half_a_command_is_no_progress(self, serve: Serve) -> None:
        peer = serve(timeouts={"command": 0.3}).peer(b"EHLO cam")
        assert self.until_cut(peer, b"N") == TIMEOUT

    def test_a_command_that_has_begun_must_end_soon(self, serve: Serve) -> None:
        peer = serve(timeouts={"command": 60, "line": 0.2}).peer(b"EHLO cam")
        assert self.until_cut(peer, b"N") == TIMEOUT

    def test_an_endless_command_must_end_soon_too(self, serve: Serve) -> None:
        peer = serve(timeouts={"command": 60, "line": 0.2}).peer(b"EHLO cam")
        assert self.until_cut(peer, b"N" * 5000) == TIMEOUT

    def test_whole_commands_may_follow_half_ones(self, serve: Serve) -> None:
        peer = serve(timeouts={"line": 0.4}).peer(b"EHLO cam")
        begun = time.monotonic()
        peer.socket.sendall(b"NO")
        while time.monotonic() - begun < 1:
            peer.socket.sendall(b"OP\r\nNO")
            assert peer.reply()[:3] == "250"

    def test_commands_are_progress_but_not_for_ever(self, serve: Serve) -> None:
        server = serve(timeouts={"command": 0.2, "session": 0.8})
        peer = server.peer(b"EHLO cam")
        begun = time.monotonic()
        assert self.until_cut(peer, b"NOOP\r\n") == TIMEOUT
        assert time.monotonic() - begun >= 0.7

    def test_a_mail_that_does_not_begin(self, serve: Serve) -> None:
        server = serve(timeouts={"data_start": 0.1})
        peer = server.peer(*OPENING, b"DATA")
        assert peer.rest() == [TIMEOUT]
        server.logged(
            "WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after 0 bytes and was dropped: "
            "nothing came for 0.1 seconds."
        )
        assert server.intake.aborted == 1

    def test_a_mail_that_stops(self, serve: Serve) -> None:
        server = serve(timeouts={"data": 0.1})
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello")
        assert peer.rest() == [TIMEOUT]
        assert server.intake.aborted == 1

    def test_a_slow_mail_is_progress_but_not_for_ever(self, serve: Serve) -> None:
        server = serve(timeouts={"data": 0.2, "mail": 0.8, "session": 0.1})
        peer = server.peer(*OPENING, b"DATA")
        begun = time.monotonic()
        assert self.until_cut(peer, b"x") == TIMEOUT
        assert time.monotonic() - begun >= 0.7
        server.logged(
            f"WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after {server.intake.written} bytes "
            "and was dropped: it took more than 0.8 seconds."
        )

    def test_time_that_the_gateway_takes_is_not_counted(self, serve: Serve) -> None:
        server = serve(timeouts={"command": 0.1, "data": 0.1, "session": 0.3})
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b".")
        eventually(lambda: server.intake.held)
        time.sleep(0.5)  # the store is slow: this is what is tested
        server.release()
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"

    def test_waiting_for_the_disk_is_not_counted(self, serve: Serve) -> None:
        server = serve(timeouts={"data": 0.1})
        server.intake.disk_is_slow = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello")
        eventually(lambda: server.intake.draining)
        time.sleep(0.4)  # the disk is slow: this is what is tested
        peer.send(b".")
        server.drain()
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"

    def test_one_that_does_not_read_its_last_words_is_let_go(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "LINGER", 0.1)
        server = serve(timeouts={"command": 0.3})
        peer = server.peer()
        server.flood(peer)
        eventually(lambda: not server.connections)
