"""Conditions: what they can say, what they can't, and that none of them costs much."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import api, template
from gateway.template import MAX_OUTPUT, TemplateError, condition, text

EVENT: dict[str, Any] = {
    "v": 1,
    "id": "01JD0000000000000000000000",
    "time": "2026-11-22T19:11:28.123Z",
    "source": "lan-mail",
    "device": {"id": "front_door", "name": "Front door", "manufacturer": None, "model": None, "profile": None},
    "kind": "motion",
    "state": None,
    "severity": "warning",
    "title": "Motion detected on channel A1",
    "text": "EVENT TYPE: motion\nTemperature 31 °C",
    "data": {"channel": "A1", "temperature": 31, "items": 3, "get": "got", "list": [1, 2], "none": None},
    "attachments": [{"name": "ch01.jpg", "type": "image/jpeg", "size": 48211, "sha256": ""}],
    "mail": {"from": "cam@lan", "to": ["motion@gw"], "subject": None, "message_id": None, "helo": "ipc", "peer": "::1"},
}
NO_MAIL = EVENT | {"mail": None, "data": {}, "attachments": []}


def test_names_are_the_keys_of_an_event() -> None:
    assert set(template.NAMES) == set(api.Event.__annotations__) - {"v"}


@pytest.mark.parametrize(
    "text",
    [
        "kind == 'motion'",
        "{{ kind == 'motion' }}",
        "  {{kind}}  ",
        "{'{{': 1}['{{'] == 1",
        "severity in ['warning', 'critical'] and not state",
        "data.temperature > 30 or data.humidity > 80",
        "data['channel'] == 'A1'",
        "data.items == 3",
        "data.get == 'got'",
        "device.get('id') == 'front_door'",
        "'channel a1' in title|lower",
        "'channel a1' in title.lower()",
        "title.startswith('Motion') and text.splitlines()[1].endswith('°C')",
        "title[:6] == 'Motion'",
        "text.split()[-2]|int == 31",
        "attachments|length == 1 and attachments[0].type.startswith('image/')",
        "'motion@gw' in mail.to",
        "mail.to|first == 'motion@gw'",
        "mail.subject is none and mail.subject == none",
        "state is none",
        "data.nothing is undefined and data.nothing is not defined and data.temperature is defined",
        "data.temperature is divisibleby 31",
        "data.temperature * 2 == 62 and data.temperature % 30 == 1 and 2 ** 5 == 32 and 7 // 2 == 3",
        "'ab' * 3 == 'ababab'",
        "(-data.temperature)|abs == 31",
        "(1 if kind == 'motion' else 0) == 1",
        "title ~ '!' == 'Motion detected on channel A1!'",
        "data.nothing|default('x') == 'x'",
    ],
)
def test_holds(text: str) -> None:
    assert condition(text).judge(EVENT) == (True, None)


@pytest.mark.parametrize(
    "text",
    [
        "data.nothing",
        "data.nothing.of.that[3].kind",
        "data.nothing > 3",
        "data.nothing <= 3",
        "3 > data.nothing",
        "data.nothing + 1 > 0",
        "1 - data.nothing * 2 == -1",
        "data.nothing % 2 == 0",
        "data.nothing ** 2 > 0",
        "-data.nothing > -5",
        "data.nothing|float > 0",
        "data.nothing|int > 0",
        "data.nothing|abs > 0",
        "data.nothing|length > 0",
        "data.nothing|lower",
        "data.nothing == 0",
        "data.nothing == ''",
        "'x' in data.nothing",
        "data.none.lower() == 'x'",
        "'alarm' in mail.subject",
        "mail.subject.lower().startswith('alarm')",
        "mail.subject != none",
        "attachments[7].name == 'x'",
        "attachments[0].nothing",
        "title.format",
        "title.__class__",
        "title['__class__']",
        "data.list.append",
        "[].__class__.__base__",
    ],
)
@pytest.mark.parametrize("event", [EVENT, NO_MAIL], ids=["mail", "no mail"])
def test_what_is_missing_is_false_and_no_error(text: str, event: dict[str, Any]) -> None:
    assert condition(text).judge(event) == (False, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("'x' * 10 ** 6 * 999", "SecurityError: this product would be too long"),
        ("text * 5000", "SecurityError: this product would be too long"),
        ("9999999 * title", "SecurityError: this product would be too long"),
        ("data.list * 99999", "SecurityError: this product would be too long"),
        ("10 ** 7 > 1", "SecurityError: this power would be too large"),
        ("9 ** 9 ** 9 > 1", "SecurityError: this power would be too large"),
        ("1001 ** 2 > 1", "SecurityError: this power would be too large"),
        ("'%0999999999d' % 1", "SecurityError: '%' is for numbers"),
        ("title > 3", "TypeError: '>' not supported between instances of 'str' and 'int'"),
    ],
)
def test_what_fails_is_false_and_says_why(text: str, reason: str) -> None:
    assert condition(text).judge(EVENT) == (False, reason)


def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    test = condition("1 / 0")
    with caplog.at_level(logging.WARNING, "gateway.template"):
        assert [test(EVENT), test(EVENT)] == [False, False]
    assert caplog.messages == ["the condition '1 / 0' failed and counts as false: ZeroDivisionError: division by zero"]


_NEVER = "this condition can't be understood: "
_ONE = "A condition is one expression, such as kind == 'motion'"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "this condition is empty", "Write an expression, such as kind == 'motion'"),
        ("{{ }}", "this condition is empty", "Write an expression, such as kind == 'motion'"),
        ("kind" + " " * 996 + "x", "this condition has 1001 characters, more than 1000", "Use several routes"),
        ("kind ==", _NEVER + "it ends too early", _ONE),
        ("kind = 'x'", _NEVER + "chunk after expression", _ONE),
        ("{% if kind %}", _NEVER + "unexpected '%'", _ONE),
        ("{{ kind }} and {{ kind }}", _NEVER + "chunk after expression", _ONE),
        ("sevrity", "an event has no 'sevrity'", "Did you mean 'severity'?"),
        ("range(9)", "an event has no 'range'", f"It has {', '.join(template.NAMES)}"),
        ("self", "an event has no 'self'", f"It has {', '.join(template.NAMES)}"),
        ("v == 1", "an event has no 'v'", f"It has {', '.join(template.NAMES)}"),
        ("title.startwith('M')", "there is no method 'startwith' in a condition", "Did you mean 'startswith'?"),
        ("title.center(999999999)", "there is no method 'center' in a condition", "There are "),
        ("kind(1)", "only methods can be called", "There are "),
        ("(title.lower)()(1)", "only methods can be called", "There are "),
        ("title|center(999999999)", _NEVER + "No filter named 'center'", "The filters are abs, "),
        ("text is callable", _NEVER + "No test named 'callable'", "The tests are boolean, "),
        ("(" * 400 + "1" + ")" * 400, "this condition is nested too deeply", "Use several routes"),
        ("not " * 240 + "kind", "this condition is nested too deeply", "Use several routes"),
    ],
)
def test_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        condition(text)
    assert str(caught.value) == message
    assert caught.value.hint == hint or (hint.endswith(" ") and caught.value.hint.startswith(hint))


_ATOMS = st.sampled_from(
    ["kind", "text", "title", "data.temperature", "data.x", "mail.to", "attachments", "1", "999", "'ab'", "2.5", "none",
     "[1, 'a']", "{'a': 1}", "text.split()", "title.lower()", "device.name"]
)  # fmt: skip
_OPERATORS = ["+", "-", "*", "**", "/", "//", "%", "~", "==", "<", "in", "and", "or"]
_EXPRESSIONS = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(_OPERATORS), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, st.sampled_from(template._FILTERS)).map(lambda parts: f"({parts[0]}|{parts[1]})"),
        st.tuples(inner, st.sampled_from(template._METHODS)).map(lambda parts: f"({parts[0]}).{parts[1]}('a')"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}]"),
        st.tuples(inner, st.sampled_from(["none", "defined", "string", "mapping", "odd"])).map(" is ".join),
    ),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=_EXPRESSIONS)
def test_any_expression_is_judged(text: str) -> None:
    try:
        test = condition(text)
    except TemplateError:
        return
    holds, reason = test.judge(EVENT)
    assert holds in (True, False)
    assert reason is None or not holds


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40) | st.text(alphabet="kind{}%()[]|.'\"~*-+ 09", max_size=40))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    with contextlib.suppress(TemplateError):
        condition(text).judge(EVENT)


def test_no_condition_takes_memory() -> None:
    """In a process that may have 100 MB more than it has: what costs a gigabyte elsewhere must not even be tried."""
    expressions = [
        "'x' * 999999999", "999999999 * [0]", "'%0999999999d' % 1", "text * 9999999", "9 ** 99999999",
        "data.x * 99999999", "('x' * 9999) ~ ('x' * 9999)", "'a' * 9999 * 9999", "2 ** 6 ** 6 ** 6",
        "text.splitlines() * 99999999",
    ]  # fmt: skip
    code = (
        "import json, resource, sys\n"
        "from gateway.template import condition\n"
        "expressions, event = json.load(sys.stdin)\n"
        "condition('kind').judge(event)\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 100_000_000,) * 2)\n"
        "print(*[condition(text).judge(event)[1] for text in expressions], sep='\\n')\n"
    )

    event = EVENT | {"text": "line\n" * 20_000}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps([expressions, event]), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "MemoryError" not in done.stdout


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "filled"),
    [
        ("{{ device.name }}: {{ title|upper }}", "Front door: MOTION DETECTED ON CHANNEL A1"),
        ("{% if state %}{{ state }}{% else %}an alert{% endif %}", "an alert"),
        ("{% for a in attachments %}{{ a.name }};{% endfor %}", "ch01.jpg;"),
        ("{{ nothing_of if false }}{{ data.nothing }}{{ mail.nothing.at.all }}|", None),
        ("{{ data.nothing }}{{ mail.nothing.at.all }}|", "|"),
        ("a\n{% if true %}\nb\n{% endif %}\n", "a\nb\n"),
    ],
)
def test_text(source: str, filled: str | None) -> None:
    event = EVENT | {"device": EVENT["device"] | {"name": "Front door"}}
    if filled is None:
        with pytest.raises(TemplateError, match="an event has no 'nothing_of'"):
            text(source)
    else:
        assert text(source)(event) == filled


def test_a_loop_over_the_values_works_whatever_a_mail_brings() -> None:
    made = text("{% for key, value in data.items() %}{{ key }}={{ value }} {% endfor %}")
    assert made(EVENT | {"data": {"items": "x", "keys": 1}}) == "items=x keys=1 "


def test_html_escapes_what_an_event_fills_in() -> None:
    made = text("<b>{{ title }}</b> {{ title ~ '&' }} {{ title|upper }}", html=True)
    assert made(EVENT | {"title": "<i>"}) == "<b>&lt;i&gt;</b> &lt;i&gt;&amp; &lt;I&gt;"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% set x = title %}", "a template here has no 'assign'"),
        ("{% macro m() %}{% endmacro %}", "a template here has no 'macro'"),
        ("{% include 'x' %}", "a template here has no 'include'"),
        ("{% for x in text %}{% endfor %}", "a loop can't go over this"),
        ("{% for x in data.channel %}{% endfor %}", "a loop can't go over this"),
        (
            "{% for x in attachments %}{% if x %}{% for y in attachments %}{% endfor %}{% endif %}{% endfor %}",
            "a loop inside another one is refused: its work would have no bound",
        ),
        ("{{ range(9) }}", "an event has no 'range'"),
        ("{{ title.format(1) }}", "there is no method 'format' in a template"),
        ("{{ title", "this text can't be understood"),
        ("{{ title|replace('a', text) }}", "No filter named 'replace'"),
        ("x" * 20_001, "this template has 20001 characters, more than 20000"),
        ("{{" + "(" * 400 + "1" + ")" * 400 + "}}", "this template is nested too deeply"),
    ],
)
def test_texts_that_are_refused(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        text(source)
    assert words in str(caught.value)


def test_a_text_ends_where_it_becomes_too_long() -> None:
    made = text("{% for a in attachments %}{{ text }}{% endfor %}")
    long = EVENT | {"text": "x" * 32 * 1024, "attachments": EVENT["attachments"] * 100}
    assert len(made(long)) == MAX_OUTPUT


def test_a_text_that_fails_says_why() -> None:
    with pytest.raises(ValueError, match="the template failed: ZeroDivisionError: division by zero"):
        text("{{ 1 / 0 }}")(EVENT)
