"""TLS for one connection over memory buffers, and words for a handshake that failed.

Not `loop.start_tls`, for four reasons: it keeps 256 KiB for each connection; it stops writing as soon as a peer says
that it will send no more, so that a device which does so right after its final dot would never hear the 250; it drops
what a peer that resets has sent already; and it hides the ClientHello, which says why an old device fails.
STARTTLS and implicit TLS are the same here.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable
from pathlib import Path

Chain = tuple[Path, Path | None]
"""Certificate file, and key file unless the key is in the first."""


def context(chains: Iterable[Chain], *, old: bool = False) -> ssl.SSLContext:
    """A server's context; `old` takes TLS 1.0 and 1.1 too, for the peers that are named for it. Raises OSError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.options |= ssl.OP_NO_RENEGOTIATION
    if old:
        # Only both together work with OpenSSL 3: security level 1 has no TLS below 1.2.
        made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        made.set_ciphers("DEFAULT:@SECLEVEL=0")
    else:
        made.minimum_version = ssl.TLSVersion.TLSv1_2
    for certificate, key in chains:
        made.load_cert_chain(certificate, key, password="")  # or OpenSSL would ask the terminal for one
    return made


class Tls:
    """The server's side of TLS, sans-I/O. After `receive` the bytes of `outgoing()` are due to the peer, always."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "error", "established", "facts", "first", "peer_ended", "used")

    def __init__(self, made: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = made.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.used = False
        """Something was said in TLS."""
        self.peer_ended = False
        """The peer will send nothing more, and has said so properly."""
        self.error: ssl.SSLError | None = None
        """Why it has failed."""
        self.first = b""
        """The beginning of what the peer said: a ClientHello, or something that is no TLS at all."""
        self.facts: dict[str, str] = {}
        """Version and cipher suite, for the envelope."""

    def receive(self, data: bytes) -> bytes:
        """What the peer said, as far as it is complete. On failure `error` is set."""
        self._incoming.write(data)
        if len(self.first) < _HELLO:
            self.first += data[:_HELLO]
        parts = []
        try:
            if not self.established:
                self._tls.do_handshake()
                self._settled()
            while part := self._tls.read(64 * 1024):
                parts.append(part)
            self.peer_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _settled(self) -> None:
        self.established = True
        cipher = self._tls.cipher()
        self.facts = {"version": self._tls.version() or "", "cipher": cipher[0] if cipher else ""}

    def send(self, data: bytes) -> bytes:
        """What goes over the wire for `data`; nothing once TLS has failed or was ended."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.write(data)
        return self.outgoing()

    def end(self) -> bytes:
        """What goes over the wire to say that nothing more will come (close_notify)."""
        if self.established:
            with contextlib.suppress(ssl.SSLError):  # the peer has not said the same yet; nobody waits for that
                self._tls.unwrap()
        return self.outgoing()

    def outgoing(self) -> bytes:
        return self._outgoing.read()


_HELLO = 11  # octets up to the version that a ClientHello offers (RFC 8446 §4.1.2, §5.1)
_VERSIONS = {b"\x03\x00": "SSL 3.0", b"\x03\x01": "TLS 1.0", b"\x03\x02": "TLS 1.1"}

# Words in OpenSSL's names of errors, which differ between its versions in the words around these.
_TOO_OLD = ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "PROTOCOL_VERSION")
_NOTHING_SHARED = ("NO_SHARED", "NO_SUITABLE")
_DISTRUST = ("UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "UNSUPPORTED_CERTIFICATE")


def failure(tls: Tls, *, implicit: bool, old: bool) -> tuple[str, str]:
    """(what went wrong, what to do) of a handshake that failed, or of TLS that was left unused.

    `implicit`: the port speaks TLS from the first byte. `old`: the peer may speak old TLS already.
    """
    reason = (tls.error and tls.error.reason) or ""
    if implicit:
        without = "send its mail to a port without TLS"
        if not tls.first:
            return "it said nothing, as a device does that waits for a greeting in plain text", (
                "set its encryption to SSL/TLS, or " + without
            )
    else:
        without = "switch encryption off in the device"
    if tls.first and tls.first[:1] != b"\x16":
        return "it speaks no TLS", ("set its encryption to SSL/TLS, or " if implicit else "") + without
    older = without if old else "add its address to 'old_tls', or " + without
    if any(word in reason for word in _TOO_OLD):
        return f"it offers {_VERSIONS.get(tls.first[9:11], 'an old version')} at most", older
    if any(word in reason for word in _NOTHING_SHARED):
        return "it offers old cipher suites only", older
    trust = "switch the checking of certificates off in the device, or give it this gateway's certificate"
    if any(word in reason for word in _DISTRUST):
        return "it does not trust this gateway's certificate", trust
    if tls.established:
        return "it hung up as soon as it had seen this gateway's certificate", trust
    if not reason or "EOF" in reason:
        return "it hung up in the middle", trust + ", or " + older
    return reason.lower().replace("_", " "), older
