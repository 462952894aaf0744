"""List the boards that Mailwire can be flashed to, or show one.

A board is a folder with a board.json; one of your own goes into the folder `boards` beside the configuration.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.flash.boards import Board


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", nargs="?", metavar="BOARD", help="show this one, such as ESP32_GENERIC")
    parser.add_argument("--json", action="store_true", help="one board a line: its board.json, `name` and `folder`")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of board.json, for editors")


def run(args: argparse.Namespace) -> int:
    from gateway.flash import FlashError, boards

    if args.schema:
        print(show.json_line(boards.json_schema(), indent=2))
        return 0
    places = folders(args)
    if args.board:
        try:
            board = boards.find(args.board, places)
        except FlashError as error:
            show.fail(str(error), 2)
        print(_json(board)) if args.json else _show(board)
        return 0
    found, wrong = [], []
    for folder in boards.names(places).values():
        try:
            found.append(boards.read(folder))
        except FlashError as error:
            wrong.append(str(error))
    if args.json:
        for board in found:
            print(_json(board))
    else:
        show.Table.print(
            ("BOARD", "PRODUCT", "CHIP", "NETWORK", "FLASHED BY"),
            [(one.name, one.product, one.mcu, _network(one), one.mailwire.flash) for one in found],
        )
    if wrong:
        show.fail("\n".join(wrong), 2)
    return 0


def folders(args: argparse.Namespace) -> list[Path]:
    """Where boards are looked for: beside the configuration, or where it would be; then ours."""
    from gateway import paths
    from gateway.flash import boards

    return boards.folders((common.config_path(args) or paths.default_config_file()).absolute().parent / "boards")


def _json(board: Board) -> str:
    return show.json_line({"name": board.name, "folder": str(board.folder), **board.model_dump(mode="json")})


def _network(board: Board) -> str:
    if board.mailwire.flash in ("steps", "folder"):
        return "its system's"
    return ", ".join(board.mailwire.network) or "serial only"


def _show(board: Board) -> None:
    ours = board.mailwire
    facts = [
        ("board", board.name),
        ("product", f"{board.product} ({board.vendor})"),
        ("chip", board.mcu),
        ("network", _network(board)),
        ("flashed by", ours.flash),
        ("boot loader", ours.start),
        ("MicroPython", ours.firmware.file if ours.firmware else ""),
        ("written at", f"{board.deploy_options.flash_offset:#x}" if ours.flash == "esptool" else ""),
        ("flash", show.size(ours.flash_size) if ours.flash_size else ""),
        ("files", show.size(ours.file_system) if ours.file_system else ""),
        ("free heap", f"{ours.heap} bytes after boot" if ours.heap else ""),
        ("LED", "" if ours.led is None else f"{ours.led}{', on when low' if ours.led_active_low else ''}"),
        ("UART", f"{ours.uart.id}: TX {ours.uart.tx}, RX {ours.uart.rx}" if ours.uart else ""),
        ("Ethernet", _ethernet(board)),
        ("USB", ", ".join(ours.usb)),
        ("folder", str(board.folder)),
    ]
    show.facts([fact for fact in facts if fact[1]])
    if ours.steps:
        print("\nsteps:")
        for number, step in enumerate(ours.steps, 1):
            print(f"{number:3}. {step}")
    else:
        print(f"\nmailwire flash {board.name} --dry-run   shows what would be done")


def _ethernet(board: Board) -> str:
    pins = board.mailwire.ethernet
    if pins is None:
        return ""
    return ", ".join(f"{key} {value}" for key, value in pins.model_dump(exclude_none=True).items())
