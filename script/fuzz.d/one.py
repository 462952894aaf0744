"""One process of a fuzz run: `one.py TARGET KNOWN [libFuzzer's flags and folders]`.

Or `one.py TARGET minimise FILE`, or `one.py TARGET alone FILE SECONDS MIB`: a single input, within that CPU time and
memory. KNOWN is a file with the signatures of crashes that were found before, one a line: they count as no crash.
"""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import targets

MINIMISE = 30.0  # seconds


def signature(error: BaseException) -> str:
    """What two crashes of one cause have in common: the exception, its `kind`, the last of our lines in it."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/gateway/" in frame.filename or "/tests/" in frame.filename
    ]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {place} {getattr(error, 'kind', '')}".strip()


def fuzz(name: str, known: frozenset[str], flags: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["gateway", "aiosmtpd"]):
        target = targets.load(name)

    def one(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as error:
            if signature(error) not in known:
                print(f"signature: {signature(error)}", file=sys.stderr)
                raise

    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


def minimise(data: bytes, run: Callable[[bytes], None]) -> bytes:
    """As much of it taken away as can be, in ever smaller pieces, with the same crash."""

    def crash(data: bytes) -> str:
        try:
            run(data)
        except Exception as error:  # noqa: BLE001  # any is a crash
            return signature(error)
        return ""

    wanted, deadline = crash(data), time.monotonic() + MINIMISE
    size = len(data) // 2
    while wanted and size and time.monotonic() < deadline:
        at, before = 0, len(data)
        while at < len(data) and time.monotonic() < deadline:
            shorter = data[:at] + data[at + size :]
            if crash(shorter) == wanted:
                data = shorter
            else:
                at += size
        if len(data) == before:
            size //= 2
    return data


def alone(run: Callable[[bytes], None], data: bytes, seconds: int, mib: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (mib << 20, mib << 20))
    run(data)


def main() -> None:
    name, how, *rest = sys.argv[1:]
    if how == "minimise":
        path = Path(rest[0])
        path.write_bytes(minimise(path.read_bytes(), targets.load(name).run))
    elif how == "alone":
        alone(targets.load(name).run, Path(rest[0]).read_bytes(), int(rest[1]), int(rest[2]))
    else:
        fuzz(name, frozenset(Path(how).read_text().splitlines()), rest)


if __name__ == "__main__":
    main()
