"""The certificate of a listener that was given none: made at the first start, signed by itself, kept for good.

Devices can't check such a certificate, but it keeps passwords off the wire, and a device or a person may pin it;
therefore it is never renewed by itself. Deleting the files makes a new one at the next start.

It is made by this file as a program of its own, because the library for it would cost the gateway 11 MiB and 0.1 s for
something that is done once in the life of an installation: `python certificate.py FOLDER KIND NAME...`. In the same
way it tells when a certificate expires: `python certificate.py --expires FILE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

Kind = Literal["ec", "rsa"]

VALID_FROM = datetime(2000, 1, 1, tzinfo=UTC)  # a board or a camera whose clock was never set must not be refused
VALID = timedelta(days=3653)


def files(folder: Path, kind: Kind) -> tuple[Path, Path]:
    """(certificate, key), whether they exist or not."""
    return folder / f"certificate-{kind}.pem", folder / f"key-{kind}.pem"


def exists(folder: Path, kind: Kind) -> bool:
    """Whether there is nothing to be made."""
    return all(path.exists() for path in files(folder, kind))


def self_signed(folder: Path, names: Iterable[str], kind: Kind = "ec") -> tuple[Path, Path]:
    """(certificate, key) in `folder`, made there if one is missing; takes a second then. Raises OSError.

    `ec` is P-256, quick even on a small board. `rsa` (2048 bits) is for devices from before elliptic curves.
    """
    if not exists(folder, kind):
        _ourselves(str(folder), kind, *names)
    return files(folder, kind)


def expires(certificate: Path) -> datetime:
    """When the first certificate of a PEM file does, in UTC; takes a second. Raises OSError."""
    return datetime.fromisoformat(_ourselves("--expires", str(certificate)))


def _ourselves(*words: str) -> str:
    command = [sys.executable, "-P", __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # nobody else
    if done.returncode:
        raise OSError(done.stderr.strip().rpartition("\n")[2])
    return done.stdout.strip()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others in between."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _make(names: list[str], kind: Kind) -> tuple[bytes, bytes]:
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0][:64])])
    # A clock that was never set (a Raspberry Pi has no battery) must not make a certificate that has expired already.
    now = max(datetime.now(UTC), datetime(2026, 1, 1, tzinfo=UTC))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([general(name) for name in names if name.isascii()]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)  # so that devices can import it
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _expires(certificate: Path) -> datetime:
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _main(folder: Path, kind: Kind, names: list[str]) -> None:
    certificate, key = files(folder, kind)
    certificate_pem, key_pem = _make(list(dict.fromkeys(names)), kind)
    _write(key, key_pem)
    _write(certificate, certificate_pem)


if __name__ == "__main__":
    if sys.argv[1] == "--expires":
        sys.stdout.write(_expires(Path(sys.argv[2])).isoformat())
    else:
        _main(Path(sys.argv[1]), "rsa" if sys.argv[2] == "rsa" else "ec", sys.argv[3:])
