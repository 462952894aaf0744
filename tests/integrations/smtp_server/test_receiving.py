"""Mail in, over real sockets: what reaches the intake, what the device hears, what the log says."""

from __future__ import annotations

import smtplib
import socket

import pytest

from gateway.api import StoreFull, StoreTrouble
from gateway.wire.smtp_remarks import REMARKS
from tests.integrations.smtp_server.harness import PATIENCE, Peer, Serve, Server, eventually

MAIL = b"Subject: Motion\r\n\r\nA1\r\n"
OPENING = (b"EHLO cam", b"MAIL FROM:<cam@lan>", b"RCPT TO:<motion@gw>")


def deliver(server: Server) -> None:
    with smtplib.SMTP(*server.address, timeout=PATIENCE) as client:
        client.sendmail("cam@lan", ["motion@gw"], MAIL)


def test_a_mail_reaches_the_intake_with_its_envelope_and_its_bytes(serve: Serve) -> None:
    server = serve()
    with smtplib.SMTP(*server.address, local_hostname="ipc", timeout=PATIENCE) as client:
        client.sendmail("cam@lan", ["motion@gw", "log@gw"], b"Subject: Motion\r\n\r\n.stuffed\r\n")
        client.sendmail("", ["motion@gw"], MAIL)

    (first, content), (second, _) = server.intake.mails
    assert (first.source, first.peer, first.helo) == ("lan-mail", "127.0.0.1", "ipc")
    assert (first.mail_from, first.rcpt_to) == ("cam@lan", ["motion@gw", "log@gw"])
    assert first.details == {"params": {"SIZE": "29"}}
    assert content == b"Subject: Motion\r\n\r\n.stuffed\r\n"
    assert second.mail_from == ""
    server.logged("DEBUG mail ID1 from 127.0.0.1 (ipc): sender <cam@lan>, recipients: 2, bytes: 29")


def test_what_a_device_says_can_not_forge_lines_of_the_log(serve: Serve) -> None:
    server = serve()
    peer = server.peer("EHLO c\u202eam\x1b[2J".encode(), "MAIL FROM:<a\u200bb@lan>".encode(), b"RCPT TO:<x>", b"DATA")
    peer.send(b".")
    assert peer.reply().startswith("250")
    server.logged(
        "DEBUG mail ID1 from 127.0.0.1 (c\\u202eam\ufffd[2J): sender <a\\u200bb@lan>, recipients: 1, bytes: 0"
    )


def test_it_listens_on_each_address_and_says_so(serve: Serve) -> None:
    server = serve(listen=["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"])
    ports = [port for _, port in server.addresses]
    assert len(set(ports)) == 3
    for address in server.addresses:
        peer = Peer(address)
        assert peer.reply() == "220 gw.lan ESMTP Mailwire"
        peer.close()
    assert server.it.describe() == (
        f"SMTP on 127.0.0.1:{ports[0]} and 127.0.0.1:{ports[1]} and [::1]:{ports[2]} "
        "(STARTTLS offered, login: any, open to private networks)"
    )


def test_replies_go_out_at_once(serve: Serve) -> None:
    server = serve()
    server.peer()
    (connection,) = server.connections
    assert connection._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestHangUps:
    def test_half_closed_right_after_the_dot_still_hears_the_250(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello", b".")
        peer.half_close()
        assert peer.rest() == ["250 2.0.0 Ok: stored as ID1"]
        assert server.intake.mails[0][1] == b"hello\r\n"

    @pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.half_close])
    def test_gone_right_after_the_dot_loses_nothing(self, serve: Serve, leave: object) -> None:
        server = serve()
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello", b".")
        leave(peer)  # type: ignore[operator]
        eventually(lambda: server.intake.mails)
        eventually(lambda: not server.connections)
        assert server.intake.aborted == 0

    @pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.half_close])
    def test_gone_long_before_the_mail_is_kept_loses_nothing(self, serve: Serve, leave: object) -> None:
        server = serve()
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello", b".", b"MAIL FROM:<second@lan>", b"RCPT TO:<b@gw>", b"DATA", b"again", b".", b"QUIT")
        leave(peer)  # type: ignore[operator]
        eventually(lambda: server.intake.held)
        server.call(setattr, server.intake, "holding", False)
        server.release()
        eventually(lambda: len(server.intake.mails) == 2)
        eventually(lambda: not server.connections)
        assert [content for _, content in server.intake.mails] == [b"hello\r\n", b"again\r\n"]

    def test_everything_in_one_breath_and_gone(self, serve: Serve) -> None:
        server = serve()
        peer = server.connect()
        mail = [*OPENING[1:], b"DATA", b"hello", b"."]
        peer.send(b"EHLO cam", *mail, *mail, *mail, b"QUIT")
        peer.half_close()
        replies = [reply[:3] for reply in peer.rest()]
        assert replies == ["220", "250", *["250", "250", "354", "250"] * 3, "221"]
        assert len(server.intake.mails) == 3

    @pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.half_close])
    def test_a_mail_behind_a_thousand_questions_and_gone(self, serve: Serve, leave: object) -> None:
        """They are more than are answered at once, and nobody is left to hear the answers."""
        server = serve()
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello", b".")
        eventually(lambda: server.intake.held)
        peer.send(*[b"NOOP"] * 1000, *OPENING[1:], b"DATA", b"again", b".", b"QUIT")
        peer.wait_until_acknowledged()
        leave(peer)  # type: ignore[operator]
        server.call(setattr, server.intake, "holding", False)
        server.release()
        eventually(lambda: not server.connections)
        assert [content for _, content in server.intake.mails] == [b"hello\r\n", b"again\r\n"]
        if leave is Peer.half_close:
            assert [reply[:3] for reply in peer.rest()] == [*["250"] * 1003, "354", "250", "221"]

    def test_lines_that_end_in_lf_and_nobody_who_reads(self, serve: Serve) -> None:
        server = serve()
        peer = server.connect()
        peer.socket.sendall(b"HELO x\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\nDATA\nhello\r\n.\r\n")
        peer.close()
        (envelope, content) = eventually(lambda: server.intake.mails)[0]
        assert content == b"hello\r\n"
        assert envelope.details == {"remarks": ["lf-commands"]}
        server.logged("WARNING 127.0.0.1 (x): " + REMARKS["lf-commands"])

    def test_what_the_system_still_holds_is_read_when_writing_fails(self, serve: Serve) -> None:
        server = serve()
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello", b".")
        eventually(lambda: server.intake.held)
        peer.send(b"MAIL FROM:<second@lan>", b"RCPT TO:<b@gw>", b"DATA", b"x" * 70_000)
        eventually(lambda: server.connections[0]._held)  # so much has come that reading is paused
        peer.send(b"y" * 30_000, b".", b"MAIL FROM:<third@lan>")
        peer.wait_until_acknowledged()
        peer.reset()
        server.call(setattr, server.intake, "holding", False)
        server.release()  # the 250 can't be sent any more
        eventually(lambda: len(server.intake.mails) == 2)
        eventually(lambda: not server.connections)
        assert server.intake.mails[1][1] == b"x" * 70_000 + b"\r\n" + b"y" * 30_000 + b"\r\n"

    @pytest.mark.parametrize("leave", [Peer.close, Peer.reset, Peer.half_close])
    def test_gone_in_the_middle_is_dropped_and_logged(self, serve: Serve, leave: object) -> None:
        server = serve()
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"hello")
        eventually(lambda: server.intake.written)
        leave(peer)  # type: ignore[operator]
        server.logged(
            "WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after 5 bytes and was dropped: "
            "it hung up."
        )
        eventually(lambda: not server.connections)
        assert (server.intake.aborted, server.intake.mails) == (1, [])


class TestStoring:
    def test_trouble_is_temporary_and_the_next_mail_goes_through(self, serve: Serve) -> None:
        server = serve()
        server.intake.trouble = StoreTrouble("the disk does not answer")
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b".")
        assert peer.reply() == "451 4.3.0 The gateway could not keep this mail, try again later"
        server.logged("WARNING A mail from 127.0.0.1 (cam) was put off, not kept: the disk does not answer.")
        server.intake.trouble = StoreFull("the disk is full")
        for line in OPENING[1:]:
            peer.ask(line)
        peer.ask(b"DATA")
        peer.send(b".")
        assert peer.reply() == "452 4.3.1 The gateway's disk is full, try again later"
        server.intake.trouble = None
        for line in OPENING[1:]:
            peer.ask(line)
        peer.ask(b"DATA")
        peer.send(b".")
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"

    def test_nothing_is_said_before_the_mail_is_kept(self, serve: Serve) -> None:
        server = serve()
        server.intake.holding = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b".", b"NOOP")
        eventually(lambda: server.intake.held)
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.socket.recv(1)
        peer.socket.settimeout(PATIENCE)
        server.release()
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"
        assert peer.reply() == "250 2.0.0 Ok"

    def test_thousands_of_mails_in_one_breath_answered_at_once(self, serve: Serve) -> None:
        server = serve()
        server.intake.immediate = True
        peer = server.peer(b"EHLO cam")
        peer.send(*[b"MAIL FROM:<>", b"RCPT TO:<a>", b"DATA", b"x", b"."] * 3000, b"QUIT")
        assert len(peer.rest()) == 4 * 3000 + 1
        assert len(server.intake.mails) == 3000

    def test_reading_waits_for_the_disk(self, serve: Serve) -> None:
        server = serve()
        server.intake.disk_is_slow = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"x" * 1000)
        eventually(lambda: server.intake.draining)
        peer.send(b"y" * 1000)
        peer.wait_until_acknowledged()
        assert server.intake.written <= 1002
        server.drain()
        peer.send(b".")
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"
        assert server.intake.mails[0][1] == b"x" * 1000 + b"\r\n" + b"y" * 1000 + b"\r\n"

    def test_a_mail_that_ends_while_the_disk_is_slow(self, serve: Serve) -> None:
        server = serve()
        server.intake.disk_is_slow = True
        peer = server.peer(*OPENING, b"DATA")
        peer.send(b"x" * 1000, b".")
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"
        assert peer.ask(b"NOOP") == "250 2.0.0 Ok"

    def test_a_big_mail_goes_on_piece_by_piece(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(*OPENING, b"DATA")
        line = b"x" * 998
        peer.send(*[line] * 20_000, b".")
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"
        assert len(server.intake.mails[0][1]) == 20_000_000
        assert server.intake.largest <= 300_000

    def test_free_space_is_asked_before_a_mail_is_taken(self, serve: Serve) -> None:
        server = serve()
        server.intake.space = 1000
        peer = server.peer(b"EHLO cam")
        assert peer.ask(b"MAIL FROM:<a> SIZE=1001") == "452 4.3.1 Not enough storage now, try again later"
        assert peer.ask(b"MAIL FROM:<a> SIZE=1000") == "250 2.1.0 Ok"


def test_a_peer_that_never_reads_is_not_read_from_either(serve: Serve) -> None:
    server = serve()
    peer = server.peer()
    server.flood(peer)
    assert server.connections[0]._transport.get_write_buffer_size() < 200_000
    peer.reset()
    eventually(lambda: not server.connections)


def test_one_that_reads_at_last_has_all_its_replies(serve: Serve) -> None:
    server = serve()
    peer = server.peer()
    server.flood(peer)
    peer.socket.settimeout(PATIENCE)
    while server.connections[0]._held:
        assert peer.reply() == "250 Ok"


def test_mails_in_a_row_on_one_connection_and_on_many(serve: Serve) -> None:
    server = serve()
    with smtplib.SMTP(*server.address, timeout=PATIENCE) as client:
        for _ in range(20):
            client.sendmail("cam@lan", ["motion@gw"], MAIL)
    for _ in range(20):
        deliver(server)
    assert [content for _, content in server.intake.mails] == [MAIL] * 40


def test_bdat(serve: Serve) -> None:
    server = serve()
    peer = server.peer(*OPENING)
    assert peer.ask(b"BDAT 7\r\nhello") == "250 2.0.0 Ok: chunk taken"
    assert peer.ask(b"BDAT 7 LAST\r\nagain") == "250 2.0.0 Ok: stored as ID1"
    assert server.intake.mails[0][1] == b"hello\r\nagain\r\n"
    for line in OPENING[1:]:
        peer.ask(line)
    peer.ask(b"BDAT 7\r\nhello")
    assert peer.ask(b"RSET") == "250 2.0.0 Ok"
    assert server.intake.aborted == 1
