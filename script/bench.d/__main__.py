"""script/bench: the gateway beside its peers, interleaved, on this machine's loopback; what it reaches of its goals.

Every program it starts is ended by its own process id, also on Ctrl-C, and its data is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

import kit
import report
from rows import QUICK, ROWS, Bench


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench", description=__doc__.splitlines()[0], epilog=f"rows: {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only the rows with goals, in less than two minutes instead of a quarter of an hour",
    )
    parser.add_argument("--only", metavar="ROWS", help="these rows, separated by commas; * stands for anything")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured (5; quick 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    patterns = options.only.split(",") if options.only else list(QUICK if options.quick else ROWS)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in ROWS):
            parser.error(f"--only: no row is named {pattern}; the rows are {', '.join(ROWS)}")
    options.rows = [name for name in ROWS if any(fnmatch(name, pattern) for pattern in patterns)]
    return options


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform(),
        "processor": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def interrupt(number: int, frame: FrameType | None) -> None:
    """Once: what is put away then must not be interrupted again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for a thousand connections
    started = time.monotonic()
    try:
        tools = kit.prepare(mailrise=any(name.startswith("receive-") for name in options.rows))
    except kit.Unavailable as trouble:
        print(f"The bench needs postfix's smtp-source: {trouble}", file=sys.stderr)
        return 2
    for reason in tools.missing:
        print(f"Note: {reason}.", file=sys.stderr)
    results: report.Results = {}
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="run-", dir=kit.CACHE) as folder:
        # The project's own disk, since a temporary folder in memory would make fsync free.
        rounds, seconds = (3, 0.6) if options.quick else (5, 1.0)
        bench = Bench(tools, Path(folder) / "row", options.rounds or rounds, seconds, progress)
        try:
            for name in options.rows:
                results[name] = bench.measure(name)
        except KeyboardInterrupt:
            interrupted = True
    progress("")
    checked = report.goals(results)
    for line in (*report.tables(results), *report.goal_lines(checked)):
        print(line)
    print(
        f"{'Interrupted' if interrupted else 'Done'} after {time.monotonic() - started:.0f} s, {bench.rounds} rounds."
    )
    if options.json:
        everything = {"machine": machine(), "rounds": bench.rounds, "rows": results, "goals": checked}
        options.json.write_text(json.dumps(everything, indent=1) + "\n")
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
