"""YAML as data with lines. What a person can do wrong in it is in `tests/configs/bad`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as Fail
from keyring.errors import KeyringLocked

from gateway import yaml
from gateway.problem import Document, Place


def read(folder: Path, text: str, **others: str) -> Document:
    for name, content in others.items():
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    path = folder / "main.yaml"
    path.write_text(text, encoding="utf-8")
    return yaml.read(path)


def said(document: Document) -> list[str]:
    return [str(problem).replace(f"{Path(document.file).parent}/", "") for problem in document.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("no", "no"), ("on", "on"),
        ("12", 12), ("0123", 123), ("0x1F", 31), ("1_000", 1000), ("1.5", 1.5), ("1e3", 1000.0), ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"), ("'12'", "12"), ("1.2.3", "1.2.3"), ("!!str 12", "12"), ("|\n  a\n  b", "a\nb\n"),
        ("[]", []), ("{}", {}), ("+1", 1), ("'!secret x'", "!secret x"),
    ],
)  # fmt: skip
def test_values(tmp_path: Path, text: str, value: object) -> None:
    document = read(tmp_path, f"key: {text}\n")
    assert document.problems == []
    assert document.data == {"key": value}
    assert type(document.data["key"]) is type(value)


def test_keys_are_text_as_written(tmp_path: Path) -> None:
    document = read(tmp_path, "on: 1\n12: 2\n~: 3\n0x10: 4\n'a b': 5\n")
    assert document.data == {"on": 1, "12": 2, "~": 3, "0x10": 4, "a b": 5}


def test_every_value_has_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "# first\na:\n  - b\n  -\n    c: 1\n    d: {e: 2,\n        f: 3}\n")
    lines = {place: line for place, (_, line) in document.marks.items()}
    assert lines == {
        (): 2,
        ("a",): 2,
        ("a", 0): 3,
        ("a", 1): 5,
        ("a", 1, "c"): 5,
        ("a", 1, "d"): 6,
        ("a", 1, "d", "e"): 6,
        ("a", 1, "d", "f"): 7,
    }
    assert document.mark(("a", 1, "d", "no", 7)) == (document.file, 6)
    assert Document("x").mark(("a",)) == ("x", None)


def test_lines_of_an_included_file_are_its_own(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  b: !include part.yaml\n", part="\n\nc:\n  d: 1\n")
    assert document.data == {"a": {"b": {"c": {"d": 1}}}}
    assert document.mark(("a", "b")) == (str(tmp_path / "main.yaml"), 2)
    assert document.mark(("a", "b", "c", "d")) == (str(tmp_path / "part.yaml"), 4)


def test_an_include_counts_from_its_own_folder_and_may_be_used_twice(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "near.yaml").write_text("[!include leaf.yaml, !include leaf.yaml, !include empty.yaml]")
    (tmp_path / "sub" / "leaf.yaml").write_text("7")
    (tmp_path / "sub" / "empty.yaml").write_text("")
    document = read(tmp_path, "a: !include sub/near.yaml\n")
    assert (document.problems, document.data) == ([], {"a": [7, 7, None]})


def test_secrets_are_text_as_written(tmp_path: Path) -> None:
    secrets = "number: 0123\ntruth: yes\ntext: 'a b'\nlong: >-\n  a\n  b\ntagged: !x y\nunused: [1]\n"
    document = read(
        tmp_path, "[!secret number, !secret truth, !secret text, !secret long, !secret tagged]", secrets=secrets
    )
    assert document.problems == []
    assert document.data == ["0123", "yes", "a b", "a b", "y"]
    assert document.secrets == {(n,): value for n, value in enumerate(document.data)}


def test_secrets_of_an_included_file_are_beside_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "part.yaml").write_text("!secret word")
    document = read(tmp_path, "a: !include sub/part.yaml\n", secrets="word: x\n")
    assert document.data == {"a": "x"}


def test_a_doubled_secret_is_told(tmp_path: Path) -> None:
    document = read(tmp_path, "a: !secret word\n", secrets="word: x\nother: y\nword: z\n")
    assert said(document) == ["secrets.yaml:3: word: this key was already given in line 1. Remove one of the two."]


def test_an_unreadable_secrets_file_is_told_once(tmp_path: Path) -> None:
    document = read(tmp_path, "a: !secret word\nb: !secret other\n", secrets="word: 'never closed\n")
    assert said(document) == ["secrets.yaml:1: a quote is opened here and never closed."]
    assert not document.is_known(("a",))
    assert not document.is_known(("b", "below"))


@pytest.mark.parametrize(
    "torn", ["word: *opensesame\n", "word: @opensesame\n", "word: !open!sesame x\n", "word: %opensesame\n"]
)
def test_what_is_wrong_in_the_secrets_file_is_told_without_repeating_it(tmp_path: Path, torn: str) -> None:
    document = read(tmp_path, "a: !secret word\n", secrets=torn)
    assert len(document.problems) == 1
    assert "sesame" not in str(document.problems[0])


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILWIRE_TEST", "12")
    document = read(tmp_path, "a: !env MAILWIRE_TEST\n")
    assert (document.data, document.secrets) == ({"a": "12"}, {("a",): "12"})


def test_reading_goes_on_after_a_mistake(tmp_path: Path) -> None:
    document = read(tmp_path, "a: !secret x\nb: !env MAILWIRE_NO\nc: !include no.yaml\nd: 1\n", secrets="y: 1")
    assert document.data == {"a": None, "b": None, "c": None, "d": 1}
    assert [place for place in document.data if document.is_known((place,))] == ["d"]
    assert len(document.problems) == 3


def test_a_later_anchor_of_the_same_name_counts(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &x 1\nb: *x\nc: &x 2\nd: *x\n")
    assert (document.problems, document.data) == ([], {"a": 1, "b": 1, "c": 2, "d": 2})


def test_own_keys_win_over_merged_ones(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {z: 3, <<: [*b, *a], x: 3}\n")
    assert document.problems == []
    assert document.data["c"] == {"x": 3, "y": 2, "z": 3}
    assert document.mark(("c", "y"))[1] == 2


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffa: 1\n").data == {"a": 1}


def test_hide() -> None:
    document = Document("x", secrets={("a", "b"): "open sesame", ("c",): "no"})
    assert document.hide("with open sesame in it, and no more") == "with *** in it, and no more"
    assert document.hide("'sesame' and 'word'", ("a", "b")) == "'***' and 'word'"
    assert document.hide("'sesame' and 'word'", ("a",)) == "'***' and 'word'"
    assert document.hide('a bell\'s "open" and `same`', ("a", "b", 0)) == "a bell's '***' and '***'"
    assert document.hide("'sesame' and 'word'", ("d",)) == "'sesame' and 'word'"
    assert document.hide("no") == "***"
    assert document.hide("mqtt://me:pw@host/x") == "mqtt://***@host/x"


_PLACES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="ab: #'\"\n", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(data=_PLACES)
def test_json_is_yaml(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:

    document = read(tmp_path_factory.mktemp("json"), json.dumps(data, indent=1))
    assert (document.problems, document.data) == ([], data)
    _walk(data, (), document)


def _walk(data: object, place: Place, document: Document) -> None:
    assert place in document.marks
    for key, item in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        _walk(item, (*place, key), document)


class Ring(KeyringBackend):
    priority = 1  # type: ignore[assignment]

    def get_password(self, service: str, username: str) -> str | None:
        if username == "locked":
            raise KeyringLocked("The collection is locked\nand more")
        return {"broker": "hu5h"}.get(username) if service == "mailwire" else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("ring", "name", "problem"),
    [
        (Ring(), "broker", None),
        (Ring(), "other", "there is no 'other' in the keyring. Put it there: keyring set mailwire other."),
        (Ring(), "locked", "the keyring can't be asked for 'locked': The collection is locked. Use '!secret locked'"),
        (
            Fail(),
            "broker",
            "this machine has no keyring (no desktop is running, or it brings none). Use '!secret broker'",
        ),
    ],
)
def test_passwords_of_the_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ring: KeyringBackend, name: str, problem: str | None
) -> None:
    monkeypatch.setattr("keyring.core._keyring_backend", ring)
    document = read(tmp_path, f"key: !keyring {name}\n")
    if problem:
        (text,) = said(document)
        assert text.startswith("main.yaml:1: key: ")
        assert problem in text
    else:
        assert document.data == {"key": "hu5h"}
        assert document.secrets == {("key",): "hu5h"}
        assert "hu5h" not in document.hide("it is hu5h")
