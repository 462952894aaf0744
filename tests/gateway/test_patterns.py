"""Patterns: which are taken, which could run away, and that those taken do not."""

import time

import pytest

from gateway.patterns import LONGEST, compiled

GOOD = [
    r"TEMP (?P<data_celsius>-?\d+\.\d+)",
    r"^(?P<device>\w+)\s+(?P<state>ON|OFF)$",
    r"ERROR (?P<title>.*) at (?P<data_place>.*)",
    r"(?P<data_ip>(?:\d{1,3}\.){3}\d{1,3})",
    r"\[(?P<device>[^\]]*)\] (?P<title>.*)",
    r"(?P<a>[^,]*),(?P<b>[^,]*),(?P<c>[^,]*),(?P<d>[^,]*),(?P<e>[^,]*)",
    r"(?:AB)+C",
    r"(?>a+)b++c",
    r"(?i)fault\s*[:=]\s*(?P<title>.+)",
    r"(?P<a>\d+) (?P<b>\d+) (?P<c>\d+) (?P<d>\d+) (?P<e>\d+) (?P<f>.*)",
    r"^\s*#\s*(?P<kind>[a-z]+)\s*=\s*(?P<state>[a-z]+)\s*;?\s*$",
    r"(?P<q>['\"])x(?P=q)",
    r"(a)?(?(1)b|c)",
    r"[^\W\d]+ (?!x)\S+",
    r"",
]
RUNAWAY = [
    r"(a+)+$",
    r"(a*)*b",
    r"(a|aa)+$",
    r"(\w+\s?)*x",
    r"([a-z]+)*\d",
    r".*.*.*x",
    r"(?P<a>.*)x(?P<b>.*)x(?P<c>.*)x$",
    r"(x+x+)+y",
    r"(?:a?){30}a{30}",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(?=(a+)+$)x",
    r"(?i)[A-Z]+[a-z]+[A-Z]+[a-z]+1",
    r"\d+\d+\d+x",
    r"a*b*a*b*a*c",
    r"(?:(?:a+)+b)*+",
]


@pytest.mark.parametrize("pattern", GOOD)
def test_taken(pattern):
    compiled(pattern)


@pytest.mark.parametrize("pattern", RUNAWAY)
def test_refused(pattern):
    with pytest.raises(ValueError, match="busy for minutes"):
        compiled(pattern)


@pytest.mark.parametrize("pattern", GOOD)
def test_what_is_taken_comes_to_an_end(pattern):
    """Not a measurement: without a bound this would take hours."""
    made = compiled(pattern)
    for piece in ("a", "1", " ", "1.", "a ", "ERROR  at ", ",", "AB", "[", "fault: "):
        line = (piece * LONGEST)[: LONGEST - 1] + "\0"
        began = time.process_time()
        made.search(line)
        assert time.process_time() - began < 10


def test_what_is_no_pattern():
    with pytest.raises(ValueError, match=r"this is no regular expression: missing \), unterminated subpattern"):
        compiled("(a")
    with pytest.raises(ValueError, match="this is no regular expression"):
        compiled("(?P<a>x)(?P<a>y)")
