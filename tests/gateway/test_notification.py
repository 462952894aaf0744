"""What people and programs want to tell, as they write it, and the draft that becomes of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import notification


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"The cellar is wet", {"title": "The cellar is wet", "text": "The cellar is wet"}),
        (b"Wet\nThe cellar\nis wet\n", {"title": "Wet", "text": "The cellar\nis wet"}),
        (b'{"title": "Wet", "message": "The cellar"}', {"title": "Wet", "text": "The cellar", "files": []}),
        (b'{"message": "One\\ntwo"}', {"title": "One", "text": "One\ntwo", "files": []}),
        (
            b'{"message": "x", "severity": "critical", "data": {"a": 1}, "device": "boiler", "more": 2}',
            {"title": "x", "text": "x", "severity": "critical", "data": {"a": 1}, "device": "boiler", "files": []},
        ),
        (b"[1, 2]", {"title": "[1, 2]", "text": "[1, 2]"}),
        (b'{"msg": "Wet"}', {"title": '{"msg": "Wet"}', "text": '{"msg": "Wet"}'}),
        (b'{"message": ""}', {"title": "", "text": "", "files": []}),
        (b"\xff", {"title": "\ufffd", "text": "\ufffd"}),
        (b"", {"title": "", "text": ""}),
    ],
)
def test_a_notification_is_json_or_text(payload: bytes, expected: dict[str, Any]) -> None:
    assert notification.draft(payload) == expected


def test_attachments_of_a_notification() -> None:
    content = base64.b64encode(b"\xff\xd8").decode()
    said = f'{{"message": "x", "attachments": [{{"name": "a.jpg", "type": "image/jpeg", "content": "{content}"}}]}}'
    assert notification.draft(said.encode())["files"] == [("a.jpg", "image/jpeg", b"\xff\xd8")]
    with pytest.raises(ValueError, match=r"^the content of the attachment 'a.jpg' is not base64$"):
        notification.draft(said.replace(content, "%%").encode())
    with pytest.raises(
        ValueError, match=r'^an attachment is {"name": "…", "type": "image/jpeg", "content": "<base64>"}$'
    ):
        notification.draft(b'{"attachments": ["a.jpg"]}')
    for none in (b"7", b"true", b'{"name": "a.jpg"}', b'"a.jpg"'):
        with pytest.raises(ValueError, match=r"^attachments is a list, and each of them \{"):
            notification.draft(b'{"attachments": %b}' % none)


@given(st.binary(max_size=200))
def test_any_payload_is_a_notification(payload: bytes) -> None:
    assert {"title", "text"} <= set(notification.draft(payload))
