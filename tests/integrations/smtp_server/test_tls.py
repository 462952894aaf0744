"""TLS: STARTTLS and implicit, old devices, distrustful devices, and devices on the wrong port."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.api import Broken
from gateway.integrations import smtp_server
from gateway.integrations.smtp_server import protocol
from gateway.integrations.smtp_server.certificate import self_signed
from gateway.wire.smtp_remarks import REMARKS
from tests.integrations.smtp_server.harness import PATIENCE, Peer, Serve, eventually

OPENING = (b"EHLO cam", b"MAIL FROM:<cam@lan>", b"RCPT TO:<motion@gw>")


def careless() -> ssl.SSLContext:
    """As most devices are: any certificate will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def ancient(ciphers: str = "DEFAULT") -> ssl.SSLContext:
    """TLS 1.0 and nothing newer."""
    context = careless()
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # so it is, and so are the devices
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


def distrustful(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.maximum_version = version
    return context


def start_tls(peer: Peer, context: ssl.SSLContext) -> None:
    assert peer.ask(b"STARTTLS") == "220 2.0.0 Ready to start TLS"
    peer.socket = context.wrap_socket(peer.socket, server_hostname="localhost")


class TestStarttls:
    def test_a_mail_inside(self, serve: Serve) -> None:
        server = serve()
        with smtplib.SMTP(*server.address, timeout=PATIENCE) as client:
            client.starttls(context=careless())
            client.login("cam", "secret")
            client.sendmail("cam@lan", ["motion@gw"], b"x" * 100_000)
        ((envelope, content),) = server.intake.mails
        assert content == b"x" * 100_000 + b"\r\n"
        assert envelope.details["tls"] == {"version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384"}
        assert not [line for line in server.log.lines if "WARNING" in line]

    def test_its_name_is_kept_for_a_device_that_does_not_say_it_again(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        start_tls(peer, careless())
        peer.ask(*OPENING[1:], b"DATA")
        peer.send(b".")
        assert peer.reply() == "250 Ok: stored as ID1"
        assert server.intake.mails[0][0].helo == "cam"

    def test_required(self, serve: Serve) -> None:
        server = serve(tls="required")
        peer = server.peer(b"EHLO cam")
        assert peer.ask(b"MAIL FROM:<a>") == "530 5.7.0 Must issue a STARTTLS command first"
        start_tls(peer, careless())
        assert peer.ask(*OPENING) == "250 2.1.5 Ok"

    def test_none(self, serve: Serve) -> None:
        peer = serve(tls="none").peer()
        assert "STARTTLS" not in peer.ask(b"EHLO cam")
        assert peer.ask(b"STARTTLS") == "502 5.5.1 STARTTLS is not offered"

    def test_what_is_glued_behind_it_is_thrown_away(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        peer.socket.sendall(b"STARTTLS\r\nMAIL FROM:<mallory>\r\nRCPT TO:<b>\r\nDATA\r\n")
        assert peer.reply() == "220 2.0.0 Ready to start TLS"
        peer.socket = careless().wrap_socket(peer.socket)
        assert peer.ask(*OPENING[1:], b"DATA") == "354 End with <CRLF>.<CRLF>"
        peer.send(b".")
        assert peer.reply().startswith("250")
        assert [envelope.mail_from for envelope, _ in server.intake.mails] == ["cam@lan"]

    def test_behind_more_than_is_answered_at_once(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        peer.send(*[b"NOOP"] * 1000, b"STARTTLS")
        for _ in range(1000):
            assert peer.reply() == "250 2.0.0 Ok"
        assert peer.reply() == "220 2.0.0 Ready to start TLS"
        peer.socket = careless().wrap_socket(peer.socket)
        assert peer.ask(*OPENING[1:], b"DATA") == "354 End with <CRLF>.<CRLF>"

    def test_half_a_hello_glued_behind_it_is_thrown_away_too(self, serve: Serve) -> None:
        server = serve(timeouts={"handshake": 0.3})
        peer = server.peer(b"EHLO cam")
        begun, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            careless().wrap_bio(ours, begun).do_handshake()
        hello = begun.read()
        peer.socket.sendall(b"STARTTLS\r\n" + hello[:100])
        assert peer.reply() == "220 2.0.0 Ready to start TLS"
        peer.socket.sendall(hello[100:])
        peer.socket.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            while peer.socket.recv(1000):  # an alert: this is not how a handshake begins
                pass
        eventually(lambda: not server.connections)
        assert server.peer().ask(b"NOOP") == "250 Ok"

    def test_what_comes_after_it_in_plain_text_never_counts(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        assert peer.ask(b"STARTTLS") == "220 2.0.0 Ready to start TLS"
        peer.send(b"MAIL FROM:<mallory>")
        peer.socket.settimeout(PATIENCE)
        eventually(lambda: not server.connections)
        server.logged(
            "WARNING TLS with 127.0.0.1 (cam) failed: it speaks no TLS. Remedy: switch encryption off in the device. "
            "For an hour it is not offered STARTTLS."
        )

    def test_it_says_that_nothing_more_will_come_and_still_hears_the_250(self, serve: Serve) -> None:
        server = serve()
        server.intake.holding = True
        peer = server.peer(b"EHLO cam")
        assert peer.ask(b"STARTTLS") == "220 2.0.0 Ready to start TLS"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = careless().wrap_bio(incoming, outgoing)

        def until_done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    peer.socket.sendall(outgoing.read())
                    incoming.write(peer.socket.recv(65536))

        until_done(tls.do_handshake)
        tls.write(b"MAIL FROM:<cam@lan>\r\nRCPT TO:<b>\r\nDATA\r\nhello\r\n.\r\n")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()  # sends close_notify
        peer.socket.sendall(outgoing.read())
        peer.half_close()
        eventually(lambda: server.intake.held)
        server.release()
        while data := peer.socket.recv(65536):
            incoming.write(data)
        heard = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while part := tls.read(65536):
                heard += part
        assert heard.endswith(b"250 Ok: stored as ID1\r\n")

    def test_gone_right_after_the_dot(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO cam")
        start_tls(peer, careless())
        peer.send(*OPENING[1:], b"DATA", b"x" * 300_000, b".")
        peer.wait_until_acknowledged()
        peer.reset()
        eventually(lambda: server.intake.mails)
        eventually(lambda: not server.connections)


class TestImplicit:
    def test_a_mail_with_a_login(self, serve: Serve) -> None:
        server = serve(tls="implicit", users={"cam": "secret"})
        with smtplib.SMTP_SSL(*server.address, timeout=PATIENCE, context=careless()) as client:
            client.login("cam", "secret")
            client.sendmail("cam@lan", ["motion@gw"], b"x")
        details = server.intake.mails[0][0].details
        assert (details["user"], details["tls"]["version"]) == ("cam", "TLSv1.3")

    def test_no_starttls_inside(self, serve: Serve) -> None:
        server = serve(tls="implicit")
        with smtplib.SMTP_SSL(*server.address, timeout=PATIENCE, context=careless()) as client:
            client.ehlo()
            assert not client.has_extn("starttls")

    def test_a_device_that_speaks_plain_text(self, serve: Serve) -> None:
        server = serve(tls="implicit")
        peer = server.connect()
        peer.send(b"EHLO cam")
        while peer.socket.recv(1000):
            pass
        server.logged(
            "WARNING TLS with 127.0.0.1 failed: it speaks no TLS. "
            "Remedy: set its encryption to SSL/TLS, or send its mail to a port without TLS."
        )

    def test_a_device_that_waits_for_a_greeting(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(smtp_server, "SWEEP", 0.02)
        monkeypatch.setattr(protocol, "PROBE", 0.05)
        server = serve(tls="implicit", timeouts={"handshake": 0.1})
        assert server.connect().socket.recv(1000) == b""
        server.logged(
            "WARNING TLS with 127.0.0.1 failed: it said nothing, as a device does that waits for a greeting in plain "
            "text. Remedy: set its encryption to SSL/TLS, or send its mail to a port without TLS."
        )

    def test_a_monitor_that_only_looks(self, serve: Serve) -> None:
        server = serve(tls="implicit")
        peer = server.connect()
        eventually(lambda: server.connections)
        peer.close()
        eventually(lambda: not server.connections)
        assert server.log.lines == []

    def test_refused_in_silence(self, serve: Serve) -> None:
        server = serve(tls="implicit", allow=["192.0.2.1"])
        assert server.connect().socket.recv(1000) == b""


class TestOldTls:
    def test_only_for_those_named(self, serve: Serve) -> None:
        server = serve(old_tls=["127.0.0.1"])
        peer = server.peer(b"EHLO printer")
        start_tls(peer, ancient())
        assert peer.ask(*OPENING, b"DATA") == "354 End with <CRLF>.<CRLF>"
        peer.send(b".")
        assert peer.reply() == "250 2.0.0 Ok: stored as ID1"
        assert server.intake.mails[0][0].details["tls"]["version"] == "TLSv1"

    def test_from_before_elliptic_curves(self, serve: Serve) -> None:
        server = serve(old_tls=["127.0.0.1"], tls="implicit")
        peer = server.connect()
        peer.socket = ancient("AES128-SHA").wrap_socket(peer.socket)
        assert peer.reply() == "220 gw.lan ESMTP Mailwire"

    def test_the_others_are_told_what_to_do_and_not_tempted_again(self, serve: Serve) -> None:
        server = serve(old_tls=["192.0.2.1"])
        peer = server.peer()
        assert "STARTTLS" in peer.ask(b"EHLO printer")
        with pytest.raises(ssl.SSLError):
            start_tls(peer, ancient())
        server.logged(
            "WARNING TLS with 127.0.0.1 (printer) failed: it offers TLS 1.0 at most. Remedy: add its address to "
            "'old_tls', or switch encryption off in the device. For an hour it is not offered STARTTLS."
        )
        peer = server.peer()
        assert "STARTTLS" not in peer.ask(b"EHLO printer")
        assert peer.ask(*OPENING[1:]) == "250 2.1.5 Ok"

    def test_required_is_offered_again_and_again(self, serve: Serve) -> None:
        server = serve(tls="required")
        for _ in range(2):
            peer = server.peer(b"EHLO printer")
            with pytest.raises(ssl.SSLError):
                start_tls(peer, ancient())
        eventually(lambda: not server.connections)
        assert server.log.lines == [
            "WARNING TLS with 127.0.0.1 (printer) failed: it offers TLS 1.0 at most. Remedy: add its address to "
            "'old_tls', or switch encryption off in the device."
        ]


class TestDistrust:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_device_that_checks_certificates(self, serve: Serve, version: ssl.TLSVersion) -> None:
        server = serve()
        peer = server.peer(b"EHLO nas")
        with pytest.raises(ssl.SSLCertVerificationError):
            start_tls(peer, distrustful(version))
        server.logged(
            "WARNING TLS with 127.0.0.1 (nas) failed: it does not trust this gateway's certificate. Remedy: switch the "
            "checking of certificates off in the device, or give it this gateway's certificate. "
            "For an hour it is not offered STARTTLS."
        )
        assert "STARTTLS" not in server.peer().ask(b"EHLO nas")

    def test_one_device_does_not_take_tls_from_others_at_its_address(self, serve: Serve) -> None:
        server = serve()
        good = server.peer(b"EHLO cam")
        start_tls(good, careless())
        assert good.ask(b"NOOP") == "250 Ok"
        bad = server.peer(b"EHLO nas")
        with pytest.raises(ssl.SSLCertVerificationError):
            start_tls(bad, distrustful(ssl.TLSVersion.TLSv1_3))
        server.logged(
            "WARNING TLS with 127.0.0.1 (nas) failed: it does not trust this gateway's certificate. Remedy: switch the "
            "checking of certificates off in the device, or give it this gateway's certificate."
        )
        assert "STARTTLS" in server.peer().ask(b"EHLO cam")

    def test_a_device_that_leaves_without_a_word(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO nas")
        start_tls(peer, careless())
        peer.close()
        server.logged(
            "WARNING TLS with 127.0.0.1 (nas) failed: it hung up as soon as it had seen this gateway's certificate. "
            "Remedy: switch the checking of certificates off in the device, or give it this gateway's certificate. "
            "For an hour it is not offered STARTTLS."
        )

    def test_a_device_that_leaves_in_the_middle(self, serve: Serve) -> None:
        server = serve()
        peer = server.peer(b"EHLO nas")
        peer.ask(b"STARTTLS")
        peer.close()
        server.logged(
            "WARNING TLS with 127.0.0.1 (nas) failed: it hung up in the middle. Remedy: switch the checking of "
            "certificates off in the device, or give it this gateway's certificate, or add its address to 'old_tls', "
            "or switch encryption off in the device. For an hour it is not offered STARTTLS."
        )


def test_tls_hello_on_a_plain_port(serve: Serve) -> None:
    server = serve()
    with pytest.raises(ssl.SSLError):
        careless().wrap_socket(server.connect().socket)
    server.logged("WARNING 127.0.0.1: " + REMARKS["tls-hello"])


def test_rubbish_inside_tls(serve: Serve) -> None:
    server = serve()
    peer = server.peer(b"EHLO cam")
    start_tls(peer, careless())
    assert peer.ask(b"NOOP") == "250 Ok"
    with socket.socket(fileno=peer.socket.detach()) as bare:
        bare.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        eventually(lambda: not server.connections)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that don't make a pair."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty.pem").touch()
    for name in ("one", "two"):
        (folder / name).mkdir()
        certificate, key = self_signed(folder / name, ["gw"])
        certificate.rename(folder / f"{name}.pem")
        key.rename(folder / f"key-of-{name}.pem")
    key = serialization.load_pem_private_key((folder / "key-of-one.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    (folder / "locked.pem").write_bytes(locked)
    return folder


class TestCertificate:
    def test_it_is_made_once_while_mail_comes_in_and_its_key_is_secret(self, serve: Serve, tmp_path: Path) -> None:
        certificate, key = tmp_path / "certificate-ec.pem", tmp_path / "key-ec.pem"
        certificate.unlink()
        key.unlink()
        server = serve()
        server.peer(*OPENING)  # with or without STARTTLS: nobody waits
        eventually(lambda: "STARTTLS" in server.peer().ask(b"EHLO cam"))
        before = certificate.read_bytes(), key.read_bytes()
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert "STARTTLS" in serve().peer().ask(b"EHLO cam")
        assert (certificate.read_bytes(), key.read_bytes()) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["certificate-ec.pem", "key-ec.pem"]

    @pytest.mark.parametrize("mode", ["required", "implicit"])
    def test_where_nothing_goes_without_it_is_made_first(self, serve: Serve, tmp_path: Path, mode: str) -> None:
        (tmp_path / "certificate-ec.pem").unlink()
        server = serve(tls=mode)
        assert (tmp_path / "certificate-ec.pem").exists()
        context = ssl.create_default_context(cafile=str(tmp_path / "certificate-ec.pem"))
        for name in ("gw.lan", "localhost", "127.0.0.1", "::1", socket.gethostname()):
            peer = server.connect()
            if mode == "required":
                peer.ask(b"STARTTLS")
                peer.reply()
            peer.socket = context.wrap_socket(peer.socket, server_hostname=name)
            peer.send(b"NOOP")
            assert peer.reply()[:3] in ("220", "250")

    def test_it_can_not_be_made(self, serve: Serve, tmp_path: Path) -> None:
        (tmp_path / "key-ec.pem").unlink()
        (tmp_path / "key-ec.new").mkdir()  # in its way
        server = serve()
        server.logged(
            f"WARNING STARTTLS is not offered: a certificate can't be made in {tmp_path}: "
            f"IsADirectoryError: [Errno 21] Is a directory: '{tmp_path}/key-ec.new'."
        )
        with pytest.raises(Broken, match="a certificate can't be made in"):
            serve(tls="required")

    def test_the_gateway_itself_never_loads_the_library_for_it(self, tmp_path: Path) -> None:
        script = f"""
import sys
from pathlib import Path
from gateway.integrations.smtp_server.certificate import self_signed
self_signed(Path({str(tmp_path)!r}), ["gw.lan"])
sys.exit("cryptography" in sys.modules)
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

    def test_ten_years(self, tmp_path: Path) -> None:
        path, _ = self_signed(tmp_path, ["gw.lan", "10.0.0.1", "gw.lan"])
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert certificate.not_valid_before_utc.year == 2000
        assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=3652)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name.value) for name in names] == ["gw.lan", "10.0.0.1"]

    def test_ones_own(self, serve: Serve, tmp_path: Path) -> None:
        folder = tmp_path / "own"
        folder.mkdir()
        certificate, key = self_signed(folder, ["mail.example"])
        (tmp_path / "key-ec.pem").unlink()
        server = serve(certificate=str(certificate), key=str(key))
        with smtplib.SMTP(*server.address, timeout=PATIENCE) as client:
            client._host = "mail.example"  # type: ignore[attr-defined]
            client.starttls(context=ssl.create_default_context(cafile=str(certificate)))
            assert client.noop()[0] == 250
        assert not (tmp_path / "key-ec.pem").exists()

    @pytest.mark.parametrize(
        ("certificate", "key", "words"),
        [
            ("nowhere.pem", None, "{0}/nowhere.pem can't be read: No such file or directory"),
            ("one.pem", "nowhere.pem", "{0}/nowhere.pem can't be read: No such file or directory"),
            (
                "one.pem",
                "key-of-two.pem",
                "the key in {0}/key-of-two.pem is not that of the certificate in {0}/one.pem",
            ),
            (
                "empty.pem",
                None,
                "{0}/empty.pem and {0}/empty.pem are no certificate and key: both must be in PEM form, the key without "
                "a password",
            ),
            (
                "one.pem",
                "locked.pem",
                "{0}/one.pem and {0}/locked.pem are no certificate and key: both must be in PEM form, the key without "
                "a password",
            ),
        ],
    )
    def test_one_that_can_not_be_used(
        self, serve: Serve, wrong: Path, certificate: str, key: str | None, words: str
    ) -> None:
        options = {"certificate": str(wrong / certificate)} | ({"key": str(wrong / key)} if key else {})
        with pytest.raises(Broken) as refusal:
            serve(**options)
        assert str(refusal.value) == words.format(wrong)
