"""Find the mistakes in a configuration: all of them at once, each with its place and what to do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gateway.cli import common


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the configuration (default: as --config)")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a configuration, for editors")


def run(args: argparse.Namespace) -> int:
    if args.schema:
        from gateway.config import json_schema

        print(json.dumps(json_schema(common.make_loader(args.file or common.config_path(args))), indent=2))
        return 0
    if args.file:
        args.config = args.file
    chosen = common.settings(args)
    print(f"{chosen.path or 'No configuration file, so the defaults'}: fine. {common.summary(chosen.settings)}.")
    return 0
