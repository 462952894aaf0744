"""pydantic's errors in plain words: one row for each kind of them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    ByteSize,
    DirectoryPath,
    Field,
    FilePath,
    IPvAnyAddress,
    IPvAnyNetwork,
    SecretStr,
    UrlConstraints,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic.dataclasses import dataclass

from gateway import problem
from gateway.problem import Finding, Problem, dotted, nearest


class Inner(BaseModel, extra="forbid"):
    name: str
    floor: int = 0


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int


def told(kind: Any, value: object) -> list[str]:
    model = create_model("Model", key=(kind, ...))
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"key": value})
    findings = problem.explain(caught.value, model, {"key": value})
    return [str(Problem("", None, dotted(one.at), one.message, one.hint)) for one in findings]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (str, 5, "key: must be text, not a number. Put it in quotes."),
        (str, True, "key: must be text, not true or false. Put it in quotes."),
        (str, ["a"], "key: must be text, not a list."),
        (str, {"a": 1}, "key: must be text, not a set of keys."),
        (str, None, "key: must be text, but nothing is given."),
        (SecretStr, 1234, "key: must be text, not a number. Put it in quotes."),
        (int, "many", "key: must be a whole number, not 'many'."),
        (int, "x" * 99, f"key: must be a whole number, not '{'x' * 40}'."),
        (int, 1.5, "key: must be a whole number, not 1.5."),
        (int, [1], "key: must be a whole number, not a list."),
        (float, "much", "key: must be a number, not 'much'."),
        (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "key: must be a number, not inf."),
        (bool, "maybe", "key: must be true or false, not 'maybe'."),
        (bool, 7, "key: must be true or false, not 7."),
        (list[int], 7, "key: must be a list, not a number."),
        (tuple[int, ...], "a", "key: must be a list, not text."),
        (set[int], "a", "key: must be a list, not text."),
        (frozenset[int], "a", "key: must be a list, not text."),
        (dict[str, int], "a", "key: must be a set of keys, not text."),
        (Inner, "a", "key: must be a set of keys, not text."),
        (Point, "a", "key: must be a set of keys, not text."),
        (Path, 7, "key: must be a path, not a number."),
        (FilePath, "/nowhere/at/all", "key: there is no such file."),
        (DirectoryPath, "/nowhere/at/all", "key: there is no such folder."),
        (AnyUrl, 7, "key: must be a URL, not a number."),
        (AnyUrl, "no url", "key: must be a URL."),
        (Annotated[AnyUrl, UrlConstraints(allowed_schemes=["mqtt", "mqtts"])], "http://a",
         "key: must be a URL that begins with 'mqtt' or 'mqtts'."),
        (ByteSize, "plenty", "key: must be a size such as '500 KiB' or '2 GiB', not 'plenty'."),
        (ByteSize, "2 Elephants", "key: must be a size such as '500 KiB' or '2 GiB', not '2 Elephants'."),
        (IPvAnyAddress, "house", "key: must be an IP address such as 192.168.1.20, not 'house'."),
        (IPvAnyNetwork, "10.0.0.1/8", "key: must be a network such as 192.168.1.0/24, not '10.0.0.1/8'."),
        (Literal["red", "blue"], "rde", "key: must be 'red' or 'blue', not 'rde'. Did you mean 'red'?"),
        (Literal["red", "blue"], 3, "key: must be 'red' or 'blue', not 3."),
        (Literal[1, 2], "one", "key: must be 1 or 2, not 'one'."),
        (Colour, "bleu", "key: must be 'red' or 'blue', not 'bleu'. Did you mean 'blue'?"),
        (Annotated[int, Field(gt=3)], 3, "key: must be more than 3."),
        (Annotated[int, Field(ge=3)], 2, "key: must be at least 3."),
        (Annotated[float, Field(lt=3)], 3, "key: must be less than 3."),
        (Annotated[float, Field(le=2.5)], 3, "key: must be at most 2.5."),
        (Annotated[str, Field(min_length=2)], "a", "key: must have at least 2 characters."),
        (Annotated[str, Field(max_length=2)], "abc", "key: must have at most 2 characters."),
        (Annotated[str, Field(pattern="^[a-z]+$")], "A", "key: must have the form ^[a-z]+$."),
        (Annotated[list[int], Field(min_length=1)], [], "key: must have at least 1 of them, not 0."),
        (Annotated[list[int], Field(max_length=1)], [1, 2], "key: must have at most 1 of them, not 2."),
        (type, "a", "key: should be a type."),
    ],
)  # fmt: skip
def test_words(kind: Any, value: object, words: str) -> None:
    assert told(kind, value) == [words]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (list[Inner], [{"name": "a"}, {"flor": 1}], ["key[1]: the key 'name' is missing.",
         "key[1].flor: there is no such key here. Did you mean 'floor'?"]),
        (list[Inner], [{"nmae": "a"}], ["key[0].nmae: there is no such key here. Did you mean 'name'?"]),
        (dict[str, Inner], {"a": {"name": "b", "zzz": 1}},
         ["key.a.zzz: there is no such key here. The keys are name, floor."]),
        (Inner | None, {"name": 1}, ["key.name: must be text, not a number. Put it in quotes."]),
        (str | Inner, {"name": "a", "flor": 1}, ["key.flor: there is no such key here. Did you mean 'floor'?"]),
        (int | list[int], "early", ["key: must be a whole number, not 'early', or a list, not text."]),
        (int | list[int], ["a", 1, "b"], ["key[0]: must be a whole number, not 'a'.",
         "key[2]: must be a whole number, not 'b'."]),
        (int | float, "a", ["key: must be a whole number, not 'a', or a number, not 'a'."]),
        (Annotated[tuple[int, ...], Field(min_length=1)], ["a"], ["key[0]: must be a whole number, not 'a'."]),
    ],
)  # fmt: skip
def test_places(kind: Any, value: object, words: list[str]) -> None:
    assert told(kind, value) == words


def test_a_missing_key_is_told_where_it_belongs() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({})
    assert problem.explain(caught.value, Inner, {}, ("a", 0)) == [Finding(("a", 0), "the key 'name' is missing")]


def test_a_validators_own_words_are_kept() -> None:
    class Model(BaseModel):
        a: int
        b: int

        @field_validator("a")
        @classmethod
        def _even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("must be even.")
            return value

        @field_validator("b")
        @classmethod
        def _odd(cls, value: int) -> int:
            if not value % 2:
                raise problem.Wrong("must be odd", "Add one")
            return value

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"a": 1, "b": 2})
    assert problem.explain(caught.value, Model, {"a": 1, "b": 2}) == [
        Finding(("a",), "must be even"),
        Finding(("b",), "must be odd", "Add one"),
    ]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Problem("a.yaml", 3, "b[0]", "is wrong", "Mend it"), "a.yaml:3: b[0]: is wrong. Mend it."),
        (Problem("a.yaml", 3, "b[0]", "is wrong", "Is it?"), "a.yaml:3: b[0]: is wrong. Is it?"),
        (Problem("a.yaml", None, "", "is wrong"), "a.yaml: is wrong."),
        (Problem("", None, "b", "is wrong"), "b: is wrong."),
    ],
)
def test_a_problem_is_one_line(one: Problem, words: str) -> None:
    assert str(one) == words


def test_dotted() -> None:
    assert dotted(("routes", 0, "to", 1)) == "routes[0].to[1]"
    assert dotted((0, "a")) == "[0].a"
    assert dotted(()) == ""


def test_nearest() -> None:
    assert nearest("PHNOE", ["Phone", "panel"]) == "Did you mean 'Phone'?"
    assert nearest("x", ["phone", "panel"], "There are") == "There are phone, panel"
    assert nearest("x", ["phone", "panel"]) == nearest("x", [], "There are") == ""
