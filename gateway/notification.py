"""What a person or a program wants to tell, as JSON or plain text, and the draft of an event that becomes of it.

The JSON object has `message` (or `text`), and as it likes `title`, `severity`, `kind`, `state`, `device`, `data` and
`attachments`: a list of `{"name", "type", "content"}`, whose content is base64. Of plain text, the first line is the
title.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

_TELLING = ("message", "text", "title", "kind", "state", "data", "attachments")
_FILE = '{"name": "…", "type": "image/jpeg", "content": "<base64>"}'


def draft(payload: bytes) -> dict[str, Any]:
    """The draft of what somebody wants to tell. Raises ValueError for attachments that can't be read."""
    text = payload.decode("utf-8", "replace").strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    return of_object(said) if isinstance(said, dict) else of_text(text)


def says_something(said: Mapping[str, Any]) -> bool:
    """Is there anything in this object that we know of?"""
    return any(key in said for key in _TELLING)


def of_text(text: str) -> dict[str, Any]:
    """The first line is the title; a single one is the text as well."""
    title, _, rest = text.strip().partition("\n")
    return {"title": title.strip(), "text": rest.strip() or title.strip()}


def of_object(said: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError as `draft`. An object of another program's is told as it stands, rather than as nothing."""
    if said and not says_something(said):
        return of_text(json.dumps(said, ensure_ascii=False))
    message = said.get("message", said.get("text", ""))
    made = {key: said[key] for key in ("device", "kind", "state", "severity", "data") if key in said}
    title = said.get("title") or str(message).partition("\n")[0]
    files = said.get("attachments") or []
    if not isinstance(files, list):
        raise ValueError(f"attachments is a list, and each of them {_FILE}")
    return made | {"title": title, "text": message, "files": [_file(one) for one in files]}


def _file(one: Any) -> tuple[str, str, bytes]:
    """(name, media type, bytes) of `{"name", "type", "content"}`, whose content is base64."""
    if not isinstance(one, Mapping) or not isinstance(one.get("content"), str):
        raise ValueError(f"an attachment is {_FILE}")
    try:
        content = base64.b64decode(one["content"], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the content of the attachment {one.get('name')!r} is not base64") from None
    return str(one.get("name") or "attachment"), str(one.get("type") or "application/octet-stream"), content
