"""script/torture: breaks everything around the gateway while numbered mails come in, then holds the count to the law.

250 means stored: what was acknowledged is on disk, becomes one event, and reaches MQTT at least once. All is on
loopback and in temporary folders; every program that is started is ended by its own process id, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "bench.d"), str(HERE.parents[1])]  # for process.free_port, and for the gateway's store

import shim  # noqa: E402
from law import Account, LawBroken  # noqa: E402
from scenarios import SCENARIOS, run  # noqa: E402
from world import Failed, Program  # noqa: E402

CACHE = HERE.parent.parent / ".cache" / "torture"
COLUMNS = {  # of the closing table: heading, key
    "scenario": "scenario",
    "faults": "faults",
    "sent": "sent",
    "250": "acknowledged",
    "stored": "stored",
    "delivered": "delivered",
    "4xx": "put_off",
    "repeats": "repeats",
    "deaths": "deaths",
    "LOST": "lost",
    "250, NO ROW": "not_stored",
    "TWO IDS": "two_ids",
    "5xx": "permanent",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/torture", description=__doc__.splitlines()[0], epilog=f"scenarios: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--minutes", type=float, default=2, metavar="N", help="how long in all, about (2)")
    parser.add_argument("--seed", type=int, metavar="N", help="play the faults of an earlier run (else by chance)")
    parser.add_argument("--only", metavar="SCENARIO,…", help="these scenarios, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the closing table to FILE")
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error("--minutes must be more than 0")
    options.scenarios = options.only.split(",") if options.only else list(SCENARIOS)
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"--only: there is no scenario {name}; there are {', '.join(SCENARIOS)}")
    if options.seed is None:
        options.seed = random.randrange(1_000_000)
    return options


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=sys.stderr, flush=True)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Once: what is put away then must not be interrupted again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def table(rows: list[dict[str, object]]) -> list[str]:
    """The closing table, as wide as it needs to be."""
    shown = [list(COLUMNS)]
    for row in rows:
        if row["skipped"]:
            shown.append([str(row["scenario"]), f"skipped: {row['skipped']}"])
        else:
            shown.append([str(row[key]) for key in COLUMNS.values()])
    full = [line for line in shown if len(line) == len(COLUMNS)]
    widths = [max(len(line[column]) for line in full) for column in range(len(COLUMNS))]
    widths[0] = max(len(line[0]) for line in shown)
    return [
        "  ".join(
            cell.ljust(width) if column == 0 or len(line) < len(COLUMNS) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in shown
    ]


def play(name: str, seconds: float, seed: int, library: Path | None) -> tuple[Account, str]:
    """The account of one scenario, and what was broken. Its folder is kept only then."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name} ", dir=CACHE))
    account, broken = Account(name), ""
    try:
        account = run(name, seconds, seed, folder, library, progress)
        account.check()
    except shim.Unavailable as reason:
        account.skipped = str(reason)
    except LawBroken as error:
        broken = f"{error}. Evidence: {folder}"
    except Failed as error:
        account.trouble.append(str(error))
        broken = f"{error}. Evidence: {folder}"
    finally:
        Program.end_all()
        if not broken:
            shutil.rmtree(folder)
    return account, broken


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}, {options.minutes:g} minutes: {', '.join(options.scenarios)}", flush=True)
    try:
        library: Path | None = shim.build(CACHE)
    except shim.Unavailable as reason:
        library = None
        print(f"Note: {reason}.", file=sys.stderr)
    shares = sum(SCENARIOS[name].share for name in options.scenarios)
    rows, faults, interrupted = [], [], False
    started = time.monotonic()
    for name in options.scenarios:
        seconds = options.minutes * 60 * SCENARIOS[name].share / shares
        try:
            account, broken = play(name, seconds, options.seed, library)
        except KeyboardInterrupt:
            interrupted = True
            break
        rows.append(account.row())
        faults += [f"{name}: {broken}"] if broken else []
    progress("")
    for line in table(rows):
        print(line)
    for row in rows:
        for note in row["notes"]:
            print(f"{row['scenario']}: {note}")
    print()
    for fault in faults:
        print(f"BROKEN: {fault}")
    skipped = sum(1 for row in rows if row["skipped"])
    verdict = "The law is broken." if faults else "The law holds." if len(rows) > skipped else "Nothing was played."
    print(f"{'Interrupted. ' if interrupted else ''}{verdict} seed {options.seed}, {time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(
            json.dumps({"seed": options.seed, "scenarios": rows, "broken": faults}, indent=1) + "\n"
        )
    return 130 if interrupted else 1 if faults or len(rows) == skipped else 0


if __name__ == "__main__":
    sys.exit(main())
