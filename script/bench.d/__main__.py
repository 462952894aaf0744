"""script/bench: the gateway beside its peers, interleaved, on this machine's loopback; what it reaches of its goals.

README.md beside this file says what is compared with what, and how to read it.
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
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

import goals
import kit
import picture
import report
from measure import Bench
from rows import QUICK, ROWS

BUSY = 0.5  # programs that want a core, from where on measuring is a waste of time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench", description=__doc__.splitlines()[0], epilog=f"rows: {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only the rows with goals, beside fewer peers, in less than two minutes instead of twenty",
    )
    parser.add_argument("--only", metavar="ROWS", help="these rows, separated by commas; * stands for anything")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured (5; quick 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the main rows as a picture in FILE")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="measured", help="measure nothing; show what --json wrote to FILE"
    )
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
        "fsync_ms": fsync_ms(),
        "busy": os.getloadavg()[0],
    }


def fsync_ms() -> float:
    """What the disk below the bench takes to keep 4 KiB: the median of 50 times."""
    with tempfile.TemporaryFile(dir=kit.CACHE) as file:
        times = []
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Once: what is put away then must not be interrupted again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    if options.measured:
        try:
            everything = json.loads(options.measured.read_text())
            if not everything.keys() >= {"machine", "rows", "goals"}:
                raise ValueError("it has no rows")
        except (OSError, ValueError, AttributeError) as error:
            print(f"--from: {options.measured} is not what --json wrote: {error}", file=sys.stderr)
            return 2
        show(everything)
        return write(everything, None, options.svg)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for thousands of connections
    started = time.monotonic()
    try:
        tools = kit.prepare(peers=any(name.startswith(("receive-", "idle-")) for name in options.rows))
    except kit.Unavailable as trouble:
        print(f"The bench needs postfix's smtp-source: {trouble}", file=sys.stderr)
        return 2
    for reason in tools.missing:
        print(f"Note: {reason}.", file=sys.stderr)
    on = machine()  # before the bench itself makes it busy
    if on["busy"] > BUSY:
        print(f"Note: this machine is busy (load {on['busy']:.1f}), and the numbers will tell.", file=sys.stderr)
    results: goals.Results = {}
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="run-", dir=kit.CACHE) as folder:
        # The project's own disk, since a temporary folder in memory would make fsync free.
        rounds, seconds = (3, 0.4) if options.quick else (5, 0.8)
        bench = Bench(tools, Path(folder) / "row", options.rounds or rounds, seconds, options.quick, progress)
        try:
            for name in options.rows:
                results[name] = bench.measure(ROWS[name][1])
        except KeyboardInterrupt:
            interrupted = True
    progress("")
    everything = {"machine": on, "rounds": bench.rounds, "rows": results, "goals": goals.check(results)}
    show(everything)
    took = f"{time.monotonic() - started:.0f} s, {bench.rounds} rounds"
    print(f"{'Interrupted' if interrupted else 'Done'} after {took}.")
    return write(everything, options.json, options.svg) or (130 if interrupted else 0)


def show(everything: dict[str, Any]) -> None:
    on = everything["machine"]
    print(f"{report.machine(on)}; fsync {on['fsync_ms']:.2f} ms, load before {on['busy']:.1f}")
    for line in (*report.tables(everything["rows"]), *goals.lines(everything["goals"])):
        print(line)


def write(everything: dict[str, Any], as_json: Path | None, as_svg: Path | None) -> int:
    """The files that were asked for; 1 if one can't be written, as that is said."""
    texts = [
        (as_json, lambda: json.dumps(everything, indent=1) + "\n"),
        (as_svg, lambda: picture.draw(everything["rows"], everything["machine"])),
    ]
    for path, text in texts:
        try:
            if path:
                path.write_text(text())
        except OSError as error:
            print(f"{path} could not be written: {error.strerror}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
