"""A certificate that is renewed while the gateway runs, and one that is about to expire."""

from __future__ import annotations

import shutil
import smtplib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.integrations import smtp_server
from gateway.integrations.smtp_server import Config, SmtpServer
from gateway.integrations.smtp_server.certificate import self_signed
from tests.integrations.smtp_server.harness import Peer, Serve, Server, eventually
from tests.integrations.smtp_server.test_tls import careless, start_tls
from tests.live import PATIENCE, Gateway


def issue(folder: Path, name: str, left: timedelta = timedelta(days=90)) -> tuple[Path, Path]:
    """As an authority does: a certificate for one name, no authority itself, and its key."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now + left)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "fullchain.pem", folder / "privkey.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def shown(peer: Peer) -> str:
    """Whose certificate a peer was shown."""
    assert isinstance(peer.socket, ssl.SSLSocket)
    raw = peer.socket.getpeercert(binary_form=True)
    assert raw
    return str(x509.load_der_x509_certificate(raw).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


def visit(server: Server) -> str:
    peer = server.peer(b"EHLO cam")
    start_tls(peer, careless())
    name = shown(peer)
    peer.ask(b"NOOP")  # one that leaves without a word distrusts us, and is not offered STARTTLS again
    peer.close()
    return name


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """A folder like certbot's: links to files elsewhere."""
    folder = tmp_path / "live"
    folder.mkdir()
    link(folder, *issue(tmp_path / "first", "first"))
    return folder


def link(folder: Path, certificate: Path, key: Path | None) -> None:
    for name, target in (("cert", certificate), ("key", key)):
        if target:
            (folder / "new").symlink_to(target)
            (folder / "new").rename(folder / f"{name}.pem")


@pytest.fixture
def start(serve: Serve, live: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**options: Any) -> tuple[Server, list[str | None]]:
        server = serve(certificate=str(live / "cert.pem"), key=str(live / "key.pem"), **options)
        problems: list[str | None] = []
        server.it.context.problem = problems.append
        return server, problems

    monkeypatch.setattr(smtp_server, "SWEEP", 0.02)
    return make


def test_a_new_one_is_taken_at_the_next_look_and_open_connections_stay(
    start: Any, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_server, "RENEWAL", 0.05)
    server, problems = start()
    peer = server.peer(b"EHLO cam")
    start_tls(peer, careless())
    assert shown(peer) == "first"
    link(live, *issue(tmp_path / "second", "second"))
    eventually(lambda: visit(server) == "second")
    assert peer.ask(b"NOOP").startswith("250")
    eventually(lambda: any("The certificate was renewed; it expires on" in line for line in server.log.lines))
    eventually(lambda: "certificate_expires" in server.it.health())
    assert not problems or problems[-1] is None  # a look may come between the renewal of the one and of the other


def test_reloading_looks_at_once(start: Any, live: Path, tmp_path: Path) -> None:
    server, _ = start()
    eventually(lambda: "certificate_expires" in server.it.health())
    link(live, *issue(tmp_path / "second", "second"))
    server.call(server.it.reload)
    eventually(lambda: visit(server) == "second")


@pytest.mark.parametrize("old_tls", [[], ["127.0.0.1"]])
def test_a_broken_one_is_said_once_and_the_old_one_goes_on(
    start: Any, live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_tls: list[str]
) -> None:
    monkeypatch.setattr(smtp_server, "RENEWAL", 0.05)
    server, problems = start(old_tls=old_tls)
    certificate, key = issue(tmp_path / "second", "second")
    link(live, certificate, None)  # its key is to come
    eventually(lambda: any(problems))
    assert [problem for problem in problems if problem] == [
        "the new certificate is refused, the old one goes on: "
        f"the key in {live}/key.pem is not that of the certificate in {live}/cert.pem"
    ]
    assert visit(server) == "first"
    (live / "cert.pem").unlink()
    eventually(lambda: len([problem for problem in problems if problem]) == 2)
    assert problems[-1] == (
        f"the new certificate is refused, the old one goes on: {live}/cert.pem can't be read: No such file or directory"
    )
    assert visit(server) == "first"
    link(live, certificate, key)
    eventually(lambda: visit(server) == "second")
    eventually(lambda: problems[-1] is None)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=14, minutes=5), None),
        (timedelta(days=13, hours=5), "expires in 13 days, on "),
        (timedelta(days=1, hours=5), "expires in 1 day, on "),
        (timedelta(hours=5), "expires within a day, on "),
        (timedelta(hours=-5), "has expired on "),
    ],
)
def test_its_end_is_said_before_it_comes(start: Any, live: Path, left: timedelta, words: str | None) -> None:
    issue(live.parent / "first", "first", left)
    server, problems = start()
    eventually(lambda: problems)
    expected = f"{live}/cert.pem {words}" if words else ""
    assert (problems[0] or "").startswith(expected)
    assert bool(problems[0]) == bool(words)
    assert server.it.health()["certificate_expires"].startswith(f"{datetime.now(UTC) + left:%Y-%m-%dT%H}")
    (found,) = SmtpServer.examine("lan", server.it.config, live)
    assert (found.check, found.result) == ("certificate", "fail" if left < timedelta(0) else "warn" if words else "ok")
    assert found.text.startswith(f"lan: {live}/cert.pem {words or 'expires on '}")


def test_the_doctor_and_our_own(tmp_path: Path, certificate_folder: Path) -> None:
    assert list(SmtpServer.examine("lan", Config(), tmp_path)) == []
    shutil.copytree(certificate_folder, tmp_path, dirs_exist_ok=True)
    (found,) = SmtpServer.examine("lan", Config(), tmp_path)
    assert (found.check, found.result) == ("certificate", "ok")
    config = Config.model_validate({"certificate": str(tmp_path / "nowhere.pem")})
    (found,) = SmtpServer.examine("lan", config, tmp_path)
    assert found.result == "fail"
    assert found.text.startswith(f"lan: {tmp_path}/nowhere.pem can't be used: FileNotFoundError: ")


def test_our_own_files_are_nobody_elses(tmp_path: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in self_signed(tmp_path, ["gw"])] == [0o600, 0o600]


def test_a_running_gateway_takes_it_at_sighup(live: Path, tmp_path: Path) -> None:
    """Though nothing in the configuration has changed. The next look of its own would be a minute away."""
    config = (
        'integrations:\n  lan: {type: smtp_server, listen: ["127.0.0.1:0"], '
        f"certificate: {live}/cert.pem, key: {live}/key.pem}}\n"
    )
    with Gateway(tmp_path / "gw", config) as gateway:
        link(live, *issue(tmp_path / "second", "second", timedelta(days=5)))
        gateway.hang_up()
        gateway.logged("INFO .*The certificate was renewed; it expires on ")
        gateway.logged(
            rf"WARNING .* lan: {live}/cert.pem expires in 4 days, on .*: renew it; it is taken within a minute"
        )
        with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
            client.starttls(context=careless())
            raw = client.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
    assert "CN=second" in x509.load_der_x509_certificate(raw).subject.rfc4514_string()
