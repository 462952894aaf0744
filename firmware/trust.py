"""TLS towards a server, and the certificate that it is known by: a board has none of its own that it trusts."""

from binascii import a2b_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def context(ca: str, verify: bool = True) -> "Any":
    """An SSLContext for a client. `ca`: a file (PEM or DER) with whoever signs the server's certificate.

    Raises ValueError, with words, if that can't be read or is no certificate.
    """
    import tls

    made: Any = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if not verify:
        made.verify_mode = tls.CERT_NONE
        return made
    try:
        with open(ca, "rb") as file:
            data = file.read()
    except OSError:
        raise ValueError(f"there is no file '{ca}' on the board")
    try:
        for one in _certificates(data):
            made.load_verify_locations(one)
    except (OSError, ValueError):
        raise ValueError(f"'{ca}' is no certificate")
    made.verify_mode = tls.CERT_REQUIRED
    return made


def _certificates(data: bytes) -> "Iterator[bytes]":
    """Each as DER: not every board's TLS reads PEM."""
    if _BEGIN not in data:
        yield data
    for part in data.split(_BEGIN)[1:]:
        yield a2b_base64(part.split(_END)[0])
