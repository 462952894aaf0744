"""Fuzzes the configuration: any text is one, or it has mistakes that are told with file and line.

An input is the bytes of mailwire.yaml; behind two NULs those of secrets.yaml, and behind two more those of parts.yaml,
which the first may include.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gateway import config
from gateway.config import ConfigErrors
from gateway.loader import Loader
from gateway.problem import Problem

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = ("mailwire.yaml", "secrets.yaml", "parts.yaml")
SEPARATOR = b"\0\0"
SLOW = ("nested_too_deeply", "too_many_aliases")  # what grows out of them takes a second each
OF_A_WHOLE_FILE = ("can't be read: ", "nested too deeply", "stands for more than ")
WORDS = [
    b"integrations:\n", b"  a: {type: bell}\n", b"type: ", b"smtp_server", b"mqtt", b"archive", b"aiosmtpd_handler",
    b"bell", b"devices:\n", b"routes:\n", b"  - {to: a}\n", b"if: ", b"to: ", b"stop: true", b"expire: 1 h",
    b"template: ", b"'{{ ", b" }}'", b"{% if %}", b"store: ", b"keep_size: 1 GB", b"learn: ", b"log: debug\n",
    b"duplicates: ", b"match: ", b"from: ", b"!secret ", b"!env ", b"!include ", b"parts.yaml", b"mailwire.yaml",
    b"listen: ", b"url: ", b"password: ", b"&a ", b"*a", b"<<: ", b"- ", b": ", b"? ", b"| ", b"> ", b"{", b"}", b"[",
    b"]", b", ", b"'", b'"', b"# ", b"---\n", b"...\n", b"%YAML 1.1\n", b"!!int ", b"!!binary ", b"!!python/object:",
    b"null", b"~", b".inf", b".nan", b"1e999", b"0x1F", b"0o17", b"2026-11-22", b"\n", b"\n  ", b"\n    ", b"\t",
    b"\0\0", b"\xef\xbb\xbf", b"\xc3\xbc", b"\xff", b"\x85", b"\xe2\x80\xa8",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    for folder in ("good", "bad"):
        secrets = (CONFIGS / folder / "secrets.yaml").read_bytes()
        for path in sorted((CONFIGS / folder).rglob("*.yaml")):
            data = path.read_bytes()
            if path.stem not in SLOW:
                yield SEPARATOR.join([data, secrets, b"{a: 1}"]) if b"!" in data else data


@cache
def loader() -> Loader:
    return Loader(CONFIGS / "custom_integrations")


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mailwire-fuzz-")


def fuzz_configuration(data: bytes) -> None:
    """AssertionError if a mistake is not told as it should be; nothing else is raised."""
    home = Path(folder().name)
    for name, text in zip(FILES, data.split(SEPARATOR, len(FILES) - 1) + [b""] * len(FILES), strict=False):
        (home / name).write_bytes(text)
    os.environ.setdefault("MAILWIRE_TEST_PORT", "2525")
    try:
        settings = config.load(home / FILES[0], loader=loader())
    except ConfigErrors as errors:
        problems = errors.problems
    else:
        assert re.fullmatch("[0-9a-f]{12}", settings.hash())
        assert settings.integrations
        return
    assert problems
    for problem in problems:
        check_problem(problem)


def check_problem(problem: Problem) -> None:
    """Which file, which line of it, and what is wrong there, on one line."""
    assert problem.message
    path = Path(problem.file)
    lines = len(re.split("[\n\r\x85\u2028\u2029]", path.read_bytes().decode("utf-8", "replace")))
    if problem.line is None:
        assert any(words in problem.message for words in OF_A_WHOLE_FILE), problem
    else:
        assert 1 <= problem.line <= lines, problem
        assert str(problem).startswith(f"{path}:{problem.line}: "), problem
    assert str(problem).isprintable(), problem
