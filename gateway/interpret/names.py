"""Names of attachments: what a mail says, made fit to be shown, logged and used as a file name anywhere.

It stays metadata all the same: nothing may choose a place on disk by it.
"""

from __future__ import annotations

import re

LIMIT = 100  # characters

_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")
_RESERVED = re.compile(r'[<>:"|?*]+')
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)  # Windows opens these as devices

_EXTENSIONS = {
    "image/jpeg": "jpg", "image/jpg": "jpg", "image/pjpeg": "jpg", "image/png": "png", "image/gif": "gif",
    "image/bmp": "bmp", "image/webp": "webp", "image/tiff": "tif", "image/svg+xml": "svg",
    "application/pdf": "pdf", "application/zip": "zip", "application/gzip": "gz", "application/json": "json",
    "application/xml": "xml", "application/ms-tnef": "dat", "application/vnd.ms-tnef": "dat",
    "text/plain": "txt", "text/html": "html", "text/csv": "csv", "text/xml": "xml", "text/calendar": "ics",
    "message/rfc822": "eml", "message/delivery-status": "txt", "video/mp4": "mp4", "video/x-msvideo": "avi",
    "audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3",
}  # fmt: skip


def cleaned(name: str, kind: str, number: int) -> str:
    """A base name of at most `LIMIT` characters, its extension kept; one made from the type if nothing is left."""
    name = _INVISIBLE.sub("", name.replace("\\", "/").rpartition("/")[2])
    name = _RESERVED.sub("_", name).strip(" .")
    if not name:
        if kind == "message/rfc822":
            return "message.eml"
        stem = "picture" if kind.startswith("image/") else "attachment"
        extension = _EXTENSIONS.get(kind, "txt" if kind.startswith("text/") else "bin")
        return f"{stem}-{number}.{extension}"
    if _DEVICE.match(name):
        name = "_" + name
    if len(name) > LIMIT:
        stem, dot, extension = name.rpartition(".")
        tail = dot + extension if stem and len(extension) <= 10 else ""
        name = name[: LIMIT - len(tail)].rstrip(" .") + tail
    return name
