"""script/fuzz: coverage-guided fuzzing of whatever reads other people's bytes.

Each target (tests/fuzz) starts from the files of tests/ and, unless told otherwise, from what earlier runs learned
(.cache/fuzz). An input that breaks a promise is minimised and kept in tests/fuzz/crashes, where it is a test from then
on; the target goes on and tells only of crashes at other places. Exit code 1: there was one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz import targets

ONE = Path(__file__).with_name("one.py")
CACHE = targets.CRASHES.parents[2] / ".cache" / "fuzz"
LONGEST = 20_000  # octets of an input; the longest line that SMTP may have is 12 KiB
PATIENCE = 25  # seconds for one input
MEMORY = 1024  # MiB
LIMITS = {70: f"more than {PATIENCE} s", 71: f"more than {MEMORY} MiB"}  # by libFuzzer's exit code for it
RESTS = 3.0  # seconds that are not worth a start
STATUS = re.compile(r"#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/")


@dataclass
class Result:
    """What became of a target. `coverage` and `features` are libFuzzer's counts, of its last process."""

    target: str
    seconds: float = 0
    cpu_seconds: float = 0
    executions: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    crashes: list[str] = field(default_factory=list)
    failed: str = ""

    def row(self) -> list[str]:
        rate = self.executions / self.seconds if self.seconds else 0
        numbers = [f"{self.seconds:,.0f}", f"{self.cpu_seconds:,.0f}", f"{self.executions:,}", f"{rate:,.0f}"]
        return [
            self.target,
            *numbers,
            f"{self.coverage:,}",
            f"{self.features:,}",
            f"{self.corpus:,}",
            str(len(self.crashes)),
        ]


HEAD = ["target", "s", "CPU s", "executions", "per s", "coverage", "features", "corpus", "new crashes"]
OF_ONE = (5, 6, 7)  # columns of HEAD that mean nothing for all together


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/fuzz", description=__doc__.split("\n\n")[1], epilog=f"targets: {', '.join(targets.NAMES)}"
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all without one")
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument("--seconds", type=float, metavar="N", help="for each target (60)")
    how_long.add_argument("--minutes", type=float, metavar="N", help="for all of them together")
    parser.add_argument("--jobs", type=int, metavar="N", default=os.cpu_count(), help="targets at a time (all cores)")
    parser.add_argument("--from-seeds", action="store_true", help="leave alone what earlier runs learned")
    parser.add_argument("--json", action="store_true", help="print the table as JSON, one target a line")
    options = parser.parse_args()
    for name in options.targets:
        if name not in targets.NAMES:
            parser.error(f"there is no target {name}; the targets are {', '.join(targets.NAMES)}")
    options.targets = options.targets or list(targets.NAMES)
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    options.jobs = min(options.jobs, len(options.targets))
    if options.minutes is not None:
        options.seconds = options.minutes * 60 / math.ceil(len(options.targets) / options.jobs)
    elif options.seconds is None:
        options.seconds = 60.0
    if options.seconds < RESTS:
        parser.error(f"that is {options.seconds:.1f} s for each target; it needs {RESTS:.0f} at least")
    return options


class Run:
    """All targets of one call. Each is a process at a time, which is ended by its own id when the run is."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options = options
        self.scratch = scratch
        self.over = threading.Event()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.shown: dict[str, str] = {}

    def target(self, name: str) -> Result:
        result = Result(name)
        known = self.scratch / f"{name}.known"
        known.write_text("")
        folders = [self.corpus(name), self.seeds(name)]
        flags = [
            f"-timeout={PATIENCE}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}", "-print_final_stats=1",
            f"-report_slow_units={PATIENCE}",
            f"-dict={self.dictionary(name)}", f"-artifact_prefix={self.scratch}/{name}-", *map(str, folders),
        ]  # fmt: skip
        deadline = time.monotonic() + self.options.seconds
        while not self.over.is_set() and (left := deadline - time.monotonic()) >= RESTS:
            code, signature = self.process(result, [str(known), f"-max_total_time={left:.0f}", *flags])
            if code == 0 or self.over.is_set():
                break
            found = [path for kind in ("crash", "timeout", "oom") for path in self.scratch.glob(f"{name}-{kind}-*")]
            if not found:
                result.failed = f"its process ended with exit code {code}: see {self.log(name)}"
                break
            if code in LIMITS and self.passes(name, found[0]):
                say(f"{name}: an input took {LIMITS[code]} and does not when it is alone; the machine was busy")
                found[0].unlink()
                continue
            self.keep(result, found[0], signature or LIMITS.get(code, f"exit code {code}"))
            if not signature:
                break  # nothing of it can be told apart from what else may be found
            with known.open("a") as file:
                file.write(signature + "\n")
        say(f"{name}: {result.executions:,} executions, {len(result.crashes)} new crashes")
        return result

    def process(self, result: Result, words: list[str]) -> tuple[int, str]:
        """Fuzz until the time is over or there is a crash: the exit code, and what the crash was."""
        name, signature = result.target, ""
        started, before = time.monotonic(), result.executions
        command = [sys.executable, str(ONE), name, *words]
        with (
            self.log(name).open("a") as log,
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=os.environ | {"TMPDIR": str(self.scratch)},  # libFuzzer leaves without cleaning up
            ) as process,
        ):
            self.processes[name] = process
            for line in process.stderr or ():
                log.write(line)
                if found := STATUS.match(line):
                    result.executions = before + int(found[1])
                    result.coverage, result.features, result.corpus = (int(found[number]) for number in (2, 3, 4))
                    self.show(name, f"{name} {result.executions:,}, coverage {result.coverage:,}")
                elif line.startswith("signature: "):
                    signature = line.removeprefix("signature: ").strip()
                elif line.startswith("stat::number_of_executed_units:"):
                    result.executions = before + int(line.split()[1])
            _, wait_status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(wait_status)
        result.seconds += time.monotonic() - started
        result.cpu_seconds += usage.ru_utime + usage.ru_stime
        return process.returncode, signature

    def passes(self, name: str, path: Path) -> bool:
        """Whether an input is within the limits when it is alone: a busy machine takes time that is not its own."""
        command = [sys.executable, str(ONE), name, "alone", str(path), str(PATIENCE), str(MEMORY)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def keep(self, result: Result, path: Path, signature: str) -> None:
        name = result.target
        self.show(name, f"{name}: a crash, it is being minimised")
        if signature not in LIMITS.values():
            subprocess.run([sys.executable, str(ONE), name, "minimise", str(path)], check=False)
        kept = targets.keep(name, path.read_bytes())
        path.unlink()
        result.crashes.append(str(kept))
        say(f"{name}: {signature}; kept as {kept}")

    def corpus(self, name: str) -> Path:
        folder = (self.scratch if self.options.from_seeds else CACHE) / name / "corpus"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seeds(self, name: str) -> Path:
        """A folder with the seeds, and with the crashes of the past: what lies around those is worth a look."""
        folder = self.scratch / name / "seeds"
        folder.mkdir(parents=True)
        past = [path.read_bytes() for path in sorted((targets.CRASHES / name).glob("*"))]
        for data in (*targets.load(name).seeds(), *past):
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        return folder

    def dictionary(self, name: str) -> Path:
        path = self.scratch / f"{name}.dict"
        words = ("".join(f"\\x{byte:02x}" for byte in word) for word in targets.load(name).words)
        path.write_text("".join(f'"{word}"\n' for word in words))
        return path

    def log(self, name: str) -> Path:
        return CACHE / f"{name}.log"

    def show(self, name: str, text: str) -> None:
        """Progress, on a terminal only."""
        self.shown[name] = text
        if sys.stderr.isatty():
            line = " | ".join(self.shown.values())[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        self.over.set()
        for process in self.processes.values():
            if process.returncode is None:
                process.terminate()


def say(text: str) -> None:
    print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Run]:
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in options.targets:
        (CACHE / f"{name}.log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as scratch:
        yield Run(options, Path(scratch))


def table(results: list[Result]) -> str:
    total = Result("all")
    for one in results:
        total.seconds += one.seconds
        total.cpu_seconds += one.cpu_seconds
        total.executions += one.executions
        total.crashes += one.crashes
    last = [cell if number not in OF_ONE else "" for number, cell in enumerate(total.row())]
    rows = [HEAD, *(result.row() for result in results), last]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def main() -> int:
    options = arguments()
    if importlib.util.find_spec("atheris") is None:
        here = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        say(f"script/fuzz: skipped, for atheris has no wheel for {here}; it has for CPython on x86-64 Linux.")
        return 2 if os.environ.get("CI") and platform.machine() == "x86_64" else 0
    with prepared(options) as run, ThreadPoolExecutor(options.jobs) as pool:
        signal.signal(signal.SIGTERM, lambda number, frame: run.stop())
        signal.signal(signal.SIGINT, lambda number, frame: run.stop())
        results = list(pool.map(run.target, options.targets))
    for result in results if options.json else ():
        print(json.dumps(asdict(result)))
    if not options.json:
        print(table(results))
    for result in results:
        if result.failed:
            say(f"{result.target}: {result.failed}")
    if any(result.failed for result in results):
        return 2
    return 130 if run.over.is_set() else int(any(result.crashes for result in results))


if __name__ == "__main__":
    sys.exit(main())
