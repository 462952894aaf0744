"""What is fuzzed: a module of this folder each, named like its target."""

import hashlib
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

NAMES = ("smtp", "interpret", "frame", "link", "configuration", "aiosmtpd")
CRASHES = Path(__file__).parent / "crashes"
"""CRASHES / target / file: every input that once broke a promise. They are played as tests for ever."""


class Target(NamedTuple):
    """`run` raises for an input that breaks a promise. `words` are worth inserting; `seeds` is where to begin."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: list[bytes]


def load(name: str) -> Target:
    """Imports what it fuzzes."""
    module = import_module(f"tests.fuzz.{name}")
    return Target(getattr(module, f"fuzz_{name}"), module.seeds, module.WORDS)


def keep(name: str, data: bytes) -> Path:
    """Keep an input that broke a promise; the file's path."""
    path = CRASHES / name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
