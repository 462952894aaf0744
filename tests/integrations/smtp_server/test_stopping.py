"""The end: idle devices are told, mails under way are finished, and the port is free for a successor at once."""

from __future__ import annotations

import pytest

from gateway.integrations import smtp_server
from tests.integrations.smtp_server.harness import PATIENCE, Serve, eventually

OPENING = (b"EHLO cam", b"MAIL FROM:<cam@lan>", b"RCPT TO:<motion@gw>")
GOODBYE = "421 4.3.2 gw.lan Service shutting down"


def test_an_idle_peer_is_told(serve: Serve) -> None:
    server = serve()
    peers = [server.peer(b"EHLO cam") for _ in range(3)]
    server.stop().result(PATIENCE)
    assert [peer.rest() for peer in peers] == [[GOODBYE]] * 3


def test_a_mail_under_way_is_finished(serve: Serve) -> None:
    server = serve()
    begun = server.peer(*OPENING[:2])
    receiving = server.peer(*OPENING, b"DATA")
    kept = server.peer(*OPENING, b"DATA")
    server.call(setattr, server.intake, "holding", True)
    kept.send(b".")
    eventually(lambda: server.intake.held)
    stopped = server.stop()
    eventually(lambda: server.it._shared and server.it._shared.stopping)

    server.call(setattr, server.intake, "holding", False)
    server.release()
    assert kept.rest() == ["250 2.0.0 Ok: stored as ID1", GOODBYE]
    receiving.send(b"hello", b".", b"NOOP")
    assert receiving.rest() == ["250 2.0.0 Ok: stored as ID2", "250 2.0.0 Ok", GOODBYE]
    assert not stopped.done()
    begun.send(*OPENING[2:], b"DATA")
    assert begun.reply() == "250 2.1.5 Ok"
    begun.reply()
    begun.send(b".")
    assert begun.rest() == ["250 2.0.0 Ok: stored as ID3", GOODBYE]
    stopped.result(PATIENCE)


def test_a_mail_whose_sender_is_gone_is_finished_too(serve: Serve) -> None:
    server = serve()
    server.intake.holding = True
    peer = server.peer(*OPENING, b"DATA")
    peer.send(b".")
    peer.reset()
    eventually(lambda: server.intake.held and server.connections[0]._transport is None)
    stopped = server.stop()
    eventually(lambda: server.it._shared and server.it._shared.stopping)
    assert not stopped.done()
    server.release()
    stopped.result(PATIENCE)
    assert len(server.intake.mails) == 1


def test_patience_has_an_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_server, "GRACE", 0.1)
    server = serve()
    peer = server.peer(*OPENING, b"DATA")
    peer.send(b"hello")
    eventually(lambda: server.intake.written)
    stopped = server.stop()
    assert peer.rest() == [GOODBYE]
    stopped.result(PATIENCE)
    server.logged(
        "WARNING A mail from 127.0.0.1 (cam), sender <cam@lan>, broke off after 5 bytes and was dropped: "
        "the gateway stops."
    )
    assert server.intake.aborted == 1


def test_even_with_a_peer_that_does_not_read(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_server, "GRACE", 0.1)
    monkeypatch.setattr(smtp_server, "LAST_WORDS", 0.1)
    server = serve()
    peer = server.peer()
    server.flood(peer)
    server.stop().result(PATIENCE)
    assert server.connections == []


def test_a_successor_has_the_port_at_once(serve: Serve) -> None:
    server = serve()
    peer = server.peer(*OPENING, b"DATA")
    host, port = server.address
    stopped = server.stop()
    successor = serve(listen=[f"{host}:{port}"])
    assert successor.peer().ask(b"NOOP") == "250 Ok"
    assert not stopped.done()
    peer.send(b".")
    assert peer.rest() == ["250 2.0.0 Ok: stored as ID1", GOODBYE]
    stopped.result(PATIENCE)


def test_after_a_start_that_failed(serve: Serve) -> None:
    server = serve()
    host, port = server.address
    with pytest.raises(Exception, match="is taken by another program"):
        serve(listen=["127.0.0.1:0", f"{host}:{port}"])
