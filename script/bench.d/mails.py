"""The mails that are sent: a text of 1 KiB, a report of 8 KB as HTML, a camera's mail of 200 KiB, a scan of 20 MB.

Written to files with LF, as smtp-source wants them. `HEAD` comes first and is what differs from mail to mail where our
own sender sends: who sends it, and its number.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

HEAD = (
    "From: {name} <{address}>\nTo: <gw@bench.example>\nSubject: {subject}\n"
    "Date: Mon, 23 Nov 2026 06:00:00 +0000\nMessage-ID: <{id}@bench.example>\nMIME-Version: 1.0\n"
)
SIZES = {"1k": 1024, "8k": 8 * 1024, "200k": 200 * 1024}  # bytes, about

_STATUS = "Device: camera 1\nLink speed: 100 Mbit/s\nUptime: 12 days\nTemperature: 41 C\n"
_ROW = (
    '<tr><td style="padding:4px 8px">Volume {n}</td><td style="padding:4px 8px;color:#080">Healthy</td>'
    "<td>{used} GB of 4,000 GB</td></tr>\n"
)


def rest(kind: str) -> bytes:
    """What follows `HEAD` in a mail of that kind (a key of `SIZES`, or `scan`)."""
    return {"1k": _text, "8k": _report, "200k": _picture, "scan": _scan}[kind]()


def whole(folder: Path, kind: str) -> Path:
    """The file of a whole mail of that kind in `folder`, made if it is not there."""
    path = folder / f"{kind}.eml"
    if not path.exists():
        head = HEAD.format(name="Camera", address="camera@bench.example", subject="Status", id="bench")
        path.write_bytes(head.encode() + rest(kind))
    return path


def _text() -> bytes:
    return ("Content-Type: text/plain\n\n" + (_STATUS * 20)[:770] + "\n").encode()


def _report() -> bytes:
    """A NAS's report in two alternatives, the HTML quoted-printable as most programs write it."""
    volumes = [(n, 100 + 37 * n) for n in range(1, 39)]
    plain = "Storage report\n\n" + "".join(f"Volume {n}: Healthy, {used} GB of 4,000 GB\n" for n, used in volumes)
    page = (
        '<html><head><meta charset="utf-8"><style>body{font-family:sans-serif} h1{font-size:18px} '
        "td{border-bottom:1px solid #ddd}</style></head>\n<body><h1>Storage report</h1>\n"
        "<p>Dear user,<br>the weekly check of <b>nas-1</b> found &uuml;ber 30 volumes:</p>\n<table>\n"
        + "".join(_ROW.format(n=n, used=used) for n, used in volumes)
        + "</table>\n<p>From your NAS</p></body></html>\n"
    )
    return (
        'Content-Type: multipart/alternative; boundary="frontier"\n\n'
        f"--frontier\nContent-Type: text/plain; charset=utf-8\n\n{plain}\n"
        "--frontier\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
        + page.replace("=", "=3D").replace(">", ">=\n")
        + "\n--frontier--\n"
    ).encode()


def _picture() -> bytes:
    picture = b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(SIZES["200k"] * 57 // 77 - 600)
    return _with_attachment(_STATUS, "image/jpeg", "ch01.jpg", picture)


def _scan() -> bytes:
    document = b"%PDF-1.4\n" + random.Random(2).randbytes(20_000_000 * 57 // 77)
    return _with_attachment("A scan is attached.\n", "application/pdf", "scan.pdf", document)


def _with_attachment(text: str, kind: str, name: str, content: bytes) -> bytes:
    return (
        (
            'Content-Type: multipart/mixed; boundary="frontier"\n\n'
            f"--frontier\nContent-Type: text/plain\n\n{text}"
            f'--frontier\nContent-Type: {kind}; name="{name}"\nContent-Transfer-Encoding: base64\n'
            f'Content-Disposition: attachment; filename="{name}"\n\n'
        ).encode()
        + base64.encodebytes(content)
        + b"--frontier--\n"
    )
