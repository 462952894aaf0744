"""What is offered to a board, and asked for: nothing that comes over the line raises anything but Malformed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flash.offer import Bundle
from gateway.wire import update as wire

FILES = {"firmware/app.mpy": b"app" * 1000, "gateway/wire/smtp.mpy": b"smtp", "firmware/empty.mpy": b""}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def bundle(**named):
    return Bundle(**({"board": "attic", "version": "1.2.3", "files": FILES, "key": "key", "made": 1000} | named))


def test_an_offer_is_read_as_it_was_made():
    offer = wire.read_offer(bundle().offer)
    assert offer["files"] == 3
    assert offer["size"] == 3004
    assert len(bundle().offer) < 512


@pytest.mark.parametrize(
    "other",
    [{"board": "cellar"}, {"version": "1.2.4"}, {"files": {"firmware/app.mpy": b"app"}}, {"key": "k"}, {"made": 1001}],
)
def test_the_signature_covers_everything(other):
    assert json.loads(bundle().offer)["hmac"] != json.loads(bundle(**other).offer)["hmac"]


def test_the_manifest_names_every_file():
    lines = bundle()._files[wire.MANIFEST].splitlines()
    assert sorted(wire.manifest_line(line)[:2] for line in lines) == sorted((name, len(FILES[name])) for name in FILES)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_offer_is_malformed(payload):
    with pytest.raises(wire.Malformed):
        wire.read_offer(payload)


@given(
    st.sampled_from(["made", "version", "files", "size", "manifest"]),
    JSON.filter(lambda value: not isinstance(value, int)),
)
def test_an_offer_with_a_wrong_field_is_malformed(field, value):
    offer = json.loads(bundle().offer) | {field: value}
    try:
        read = wire.read_offer(json.dumps(offer).encode())
    except wire.Malformed:
        return
    assert field == "version"
    assert read["version"] == value
    assert value.isascii()


PATHS = [
    "../main.py",
    "/main.py",
    "main.py",
    "settings.json",
    "firmware/../../main.py",
    "firmware//a",
    "firmware/",
    "firmware/./a",
]
PATHS += ["firmware/a b", "firmware/" + "x" * 80, "firmwares/a", "firmware", "firmware/ä", "gateway/\0"]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_a_slot(path):
    with pytest.raises(wire.Malformed):
        wire.manifest_line(f"{'0' * 64} 5 {path}".encode())


@given(st.binary())
def test_what_is_no_line_of_a_manifest_is_malformed(line):
    with pytest.raises(wire.Malformed):
        wire.manifest_line(line)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_asks_for_nothing_gets_no_answer(payload):
    assert bundle().answer(payload) is None


def test_every_byte_of_a_file_can_be_asked_for():
    one, at, found = bundle(), 0, b""
    while at < 3000:
        line = wire.request(1000, "firmware/app.mpy", at)
        answer = one.answer(line)
        assert answer.startswith(line + b"\n")
        found += answer[len(line) + 1 :]
        at = len(found)
    assert found == FILES["firmware/app.mpy"]
    assert one.answer(wire.request(1000, "firmware/app.mpy", 3000)) is None
    assert one.answer(wire.request(999, "firmware/app.mpy", 0)) is None
