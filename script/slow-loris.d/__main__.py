"""How long an honest device's mail takes while hundreds of peers never come to an end (slow-loris).

Starts a gateway with its defaults, sends it mails without and with the slow peers, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import smtplib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gateway.store import Store
from tests.live import Gateway, until
from tests.slow_peers import SlowPeers, honest_mail


def measure(gateway: Gateway, store: Store, count: int, mails: int) -> dict[str, float]:
    """One row: seconds of the honest device's mails, from the connection to 250, and to its event."""
    answered: list[float] = []
    known: list[float] = []
    refused = 0
    with SlowPeers(gateway.port, count) as peers:
        alive = peers.alive()
        for number in range(mails):
            text = f"{count} slow peers, mail {number}"
            while True:
                began = time.perf_counter()
                try:
                    honest_mail(gateway.port, text)
                    break
                except (smtplib.SMTPException, ConnectionError):
                    refused += 1
                    time.sleep(0.2)
            answered.append(time.perf_counter() - began)
            until(lambda text=text: any(text in event["text"] for _, event in store.events(1)), text)
            known.append(time.perf_counter() - began)
        return {
            "peers": count,
            "held": alive,
            "held_after": peers.alive(),
            "refused": refused,
            "answered_median": statistics.median(answered),
            "answered_worst": max(answered),
            "event_median": statistics.median(known),
            "event_worst": max(known),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/slow-loris", description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--peers", type=int, nargs="+", default=[0, 500, 2000], metavar="N", help="rows (default: 0 500 2000)"
    )
    parser.add_argument("--mails", type=int, default=30, metavar="N", help="honest mails a row (default: 30)")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Gateway(Path(folder)) as gateway:
        store = Store(gateway.data)
        if not options.json:
            print("                         an honest device's mail: connection to 250   connection to event   turned")
            print("slow peers  held, after        median     worst      median     worst    away")
        for count in options.peers:
            row = measure(gateway, store, count, options.mails)
            if options.json:
                print(json.dumps(row), flush=True)
                continue
            times = "  ".join(
                f"{1000 * row[key]:7.1f} ms"
                for key in ("answered_median", "answered_worst", "event_median", "event_worst")
            )
            print(f"{count:10}  {row['held']:4}, {row['held_after']:5}  {times}  {row['refused']:6}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
