"""Put MicroPython and Mailwire on a board, with its settings; or renew the application on one that runs it.

Passwords are never options: they come from the environment (MAILWIRE_WIFI_PASSWORD, MAILWIRE_MQTT_PASSWORD,
MAILWIRE_POST_PASSWORD), from the system's keyring, or are asked for.
"""

from __future__ import annotations

import argparse
import getpass
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from gateway.cli import boards as listing
from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.flash.boards import Board
    from gateway.flash.plan import Job, Way

_RESETS = ("default-reset", "usb-reset", "no-reset", "no-reset-no-sync")
_AFTER = ("hard-reset", "soft-reset", "no-reset", "watchdog-reset")
_FAST = 460800  # baud on a real port; behind a URL nobody knows who turns bytes into bits
_WAIT, _WAIT_UNRESET = 30, 5  # seconds for hello; where the board was not reset, it may yet start by itself
_OF_SETTINGS = (
    "name", "wifi_ssid", "wifi_password_env", "mqtt", "mqtt_user", "mqtt_password_env", "set", "settings", "remember",
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", nargs="?", metavar="BOARD", help="such as ESP32_GENERIC; `mailwire boards` lists them")
    parser.add_argument(
        "--port", metavar="PORT", help="path, USB serial number, VID:PID, or a pyserial URL (socket://...)"
    )
    parser.add_argument("--firmware", type=Path, metavar="FILE", help="MicroPython's file (default: it is downloaded)")
    parser.add_argument("--micropython", metavar="VERSION", help="which MicroPython to download")
    parser.add_argument("--update", action="store_true", help="the application alone; settings and spool stay")
    parser.add_argument(
        "--files-only", action="store_true", help="leave MicroPython as it is, write files over its prompt"
    )
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="write the file system's image to FILE, and stop there"
    )
    parser.add_argument("--dry-run", action="store_true", help="print every step, and do nothing")
    parser.add_argument("--yes", action="store_true", help="ask nothing; overwrite what is on the board")
    parser.add_argument("--erase", action="store_true", help="erase the whole flash first (ESP32)")
    parser.add_argument(
        "--drive", type=Path, metavar="FOLDER", help="where the board's drive is mounted (UF2); HOST: where to"
    )
    parser.add_argument("--wait", type=_seconds, metavar="SECONDS", help=f"for the board's hello (default: {_WAIT})")
    parser.add_argument("--no-wait", dest="wait", action="store_const", const=0.0, help="do not wait for hello")
    group = parser.add_argument_group("settings of the board")
    group.add_argument("--name", help="what it is called in topics and on the network")
    group.add_argument("--wifi-ssid", metavar="SSID", help="its Wi-Fi")
    group.add_argument("--wifi-password-env", metavar="NAME", help="the environment variable with the Wi-Fi's password")
    group.add_argument("--mqtt", metavar="URL", help="the broker, such as mqtt://192.168.1.2 or mqtts://user@host:8883")
    group.add_argument("--mqtt-user", metavar="NAME", help="log in to the broker")
    group.add_argument(
        "--mqtt-password-env", metavar="NAME", help="the environment variable with the broker's password"
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, such as smtp.port=25"
    )
    group.add_argument("--settings", type=Path, metavar="FILE", help="settings in JSON or YAML, beneath these options")
    group.add_argument("--remember", action="store_true", help="keep the passwords asked for in the system's keyring")
    group = parser.add_argument_group("how the board is reached")
    group.add_argument("--before", choices=_RESETS, default="default-reset", help="esptool's (default: %(default)s)")
    group.add_argument("--after", choices=_AFTER, default="hard-reset", help="esptool's (default: %(default)s)")
    group.add_argument("--no-stub", action="store_true", help="esptool's: talk to the boot ROM alone, slowly")
    group.add_argument(
        "--baud", type=int, metavar="RATE", help=f"while flashing (default: {_FAST}; behind a URL 115200)"
    )
    group.add_argument("--flash-size", type=_size, metavar="SIZE", help="such as 4MB, if the board does not tell")
    group.add_argument("--mirror", metavar="URL", help="another folder with MicroPython's files than micropython.org's")


def run(args: argparse.Namespace) -> int:
    from gateway.flash import FlashError, boards

    places = listing.folders(args)
    if not args.board:
        show.fail(
            f"Which board? {', '.join(boards.names(places))}\nmailwire flash BOARD; `mailwire boards` tells more.", 2
        )
    try:
        board = boards.find(args.board, places)
    except FlashError as error:
        show.fail(str(error), 2)
    try:
        return _run(args, board)
    except FlashError as error:
        show.fail(str(error), error.exit_code)
    except EOFError:
        show.fail("\nNobody answers. Nothing was changed.")


def _run(args: argparse.Namespace, board: Board) -> int:
    from gateway.flash import need

    if board.mailwire.flash == "steps":
        print(f"{board.product}: no program can do this for you.")
        for number, text in enumerate(board.mailwire.steps, 1):
            print(f"{number:3}. {text}")
        return 0
    way = _way(args, board)
    if not args.dry_run:
        need(*way.NEEDS)  # before anything is asked
    job = _job(args, board)
    if args.image:
        return _image(args, job)
    steps = way(job).steps()
    for number, step in enumerate(steps, 1):
        print(show.plain(f"{number}/{len(steps)}  {step.text}"), flush=True)
        if not args.dry_run:
            step.run()
    if args.dry_run:
        print("Nothing was done.")
    else:
        _tell(job, args)
    return 0


def _way(args: argparse.Namespace, board: Board) -> type[Way]:
    from gateway.flash import esp32, others, pico, update

    method = board.mailwire.flash
    ways: dict[str, type[Way]] = {
        "esptool": esp32.Esp32,
        "uf2": pico.Pico,
        "lines": others.Lines,
        "folder": others.Folder,
    }
    for option in ("update", "files_only", "image"):
        if getattr(args, option) and method not in ("esptool", "uf2"):
            show.fail(f"--{option.replace('_', '-')} is not for {board.name}.", 2)
    given = [f"--{option.replace('_', '-')}" for option in _OF_SETTINGS if getattr(args, option)]
    if given and (args.update or method == "lines"):
        keeps = "--update leaves the board's settings as they are" if args.update else f"{board.name} has no settings"
        show.fail(f"{keeps}: leave out {', '.join(given)}.", 2)
    return update.Update if args.update else pico.Pico if args.files_only else ways[method]


def _image(args: argparse.Namespace, job: Job) -> int:
    from gateway.flash import esp32, pico

    content = (esp32 if job.board.mailwire.flash == "esptool" else pico).image_only(job)
    try:
        args.image.touch()
        args.image.chmod(0o600)  # there may be passwords in it
        args.image.write_bytes(content)
    except OSError as error:
        show.fail(f"{args.image}: can't be written: {error.strerror}.")
    print(f"{args.image}: {len(content)} bytes, for {job.board.name}")
    return 0


def _job(args: argparse.Namespace, board: Board) -> Job:
    from gateway import paths
    from gateway.flash import micropython
    from gateway.flash.plan import ANY_PORT, Job

    method = board.mailwire.flash
    source = None
    if not args.firmware and board.mailwire.firmware and not (args.update or args.files_only):
        site = args.mirror or micropython.SITE
        source = micropython.source(board, args.micropython or micropython.DEFAULT, paths.cache_dir(), site)
    on_terminal = sys.stdout.isatty()
    asks = sys.stdin.isatty() and on_terminal and not args.yes and not args.dry_run
    settings = {} if args.update or method == "lines" else _settings(args, board, asks=asks)
    port = ANY_PORT if method == "folder" or args.image else _port(args, board, asks=asks)
    wait = args.wait if args.wait is not None else _WAIT_UNRESET if args.after == "no-reset" else _WAIT
    return Job(
        board,
        settings,
        say=lambda text: print(show.plain(f"     {text}"), flush=True),
        ask=lambda question: _confirmed(question, args, asks=asks),
        progress=_progress if on_terminal else lambda done, total: None,
        port=port,
        firmware=args.firmware,
        source=source,
        baud=args.baud or (None if "://" in port or port == ANY_PORT else _FAST),
        before=args.before,
        after=args.after,
        stub=not args.no_stub,
        flash_size=args.flash_size,
        erase=args.erase,
        files_only=args.files_only,
        drive=args.drive,
        wait=wait,
        on_terminal=on_terminal,
    )


# --- the port ------------------------------------------------------------------------------------------------------


def _port(args: argparse.Namespace, board: Board, *, asks: bool) -> str:
    from gateway import ports
    from gateway.flash.plan import ANY_PORT

    if args.port and args.dry_run:
        return str(args.port)
    try:
        if args.port:
            return ports.find(args.port)
    except ports.PortError as error:
        show.fail(f"{error}")
    found = [port for port in ports.list_ports() if port.vid is not None]
    likely = [port for port in found if f"{port.vid:04X}:{port.pid:04X}" in board.mailwire.usb]
    if len(likely) == 1:
        print(show.plain(f"The board is taken to be at {likely[0]}."))
        return likely[0].path
    if args.dry_run:
        return ANY_PORT
    if not likely and board.mailwire.flash == "uf2" and not (args.files_only or args.update):
        return board.mailwire.usb[0] if board.mailwire.usb else ANY_PORT  # it will be there when MicroPython runs
    candidates = likely or found
    if not candidates:
        show.fail(
            "No board is plugged in, as far as this machine can see. Use a cable that carries data, not just power; "
            "or name the port with --port.",
        )
    listed = "\n".join(f"{number:3}. {port}" for number, port in enumerate(candidates, 1))
    if not asks:
        show.fail(f"Which port is the board at? Name it with --port:\n{listed}", 2)
    print(show.plain(f"Which port is the board at?\n{listed}", keep="\n"))
    answer = input("number: ").strip()
    if not answer.isdecimal() or not 0 < int(answer) <= len(candidates):
        show.fail("That is none of them.", 2)
    return candidates[int(answer) - 1].path


# --- settings ------------------------------------------------------------------------------------------------------


def _settings(args: argparse.Namespace, board: Board, *, asks: bool) -> dict[str, Any]:
    from gateway.flash import WrongSettings, key, secret
    from gateway.flash import settings as making
    from gateway.wire.event import slug

    options: dict[str, Any] = {}
    if args.name:
        options["name"] = args.name
    if args.wifi_ssid:
        options["wifi"] = {"ssid": args.wifi_ssid}
    if args.mqtt:
        options["mqtt"] = _mqtt(args.mqtt)
    if args.mqtt_user:
        options.setdefault("mqtt", {})["user"] = args.mqtt_user
    layers = [_from_file(args.settings), options, making.from_words(args.set)]
    settings = making.combined(board, *layers)
    needing = [key for key in ("wifi", "ethernet", "mqtt", "post") if settings.get(key) is not None]
    if needing and not board.mailwire.network and board.mailwire.flash == "uf2":
        raise WrongSettings(
            f"{board.name} has no network, and these settings need one: {', '.join(needing)}. Leave them out: its "
            "events come as frames over USB, and would wait on it for ever."
        )
    if asks:
        _ask_for(settings, board)
    named = {"wifi": args.wifi_password_env, "mqtt": args.mqtt_password_env, "post": None}
    asked: list[tuple[secret.Wanted, str]] = []

    def prompt(wanted: secret.Wanted) -> str:
        password = getpass.getpass(f"{wanted.about[:1].upper()}{wanted.about[1:]} (empty for none): ")
        asked.append((wanted, password))
        return password

    for wanted in making.passwords(settings):
        section, word = wanted.place
        password = secret.find(wanted, named[section], prompt if asks else None)
        if password is None and section != "wifi" and not args.dry_run:
            raise WrongSettings(f"{wanted.about[:1].upper()}{wanted.about[1:]} is not known. Set {wanted.variable}.")
        if not password and section == "wifi":
            print(show.plain(f"No password for the Wi-Fi '{settings['wifi']['ssid']}': it is taken to be an open one."))
        settings[section][word] = password or ""
    making.check(settings)
    if settings.get("mqtt") and settings.get("name") and "update" not in settings and not args.dry_run:
        settings["update"] = {"key": key.make(common.data_folder(args), slug(settings["name"]))}
    for wanted, password in asked if args.remember else ():
        secret.remember(wanted, password)
    if board.mailwire.network and not settings.get("wifi") and "ethernet" not in settings:
        print("No network is named (--wifi-ssid): the board will hear nobody but its own sensors.", file=sys.stderr)
    return settings


def _ask_for(settings: dict[str, Any], board: Board) -> None:
    """What a person has not said yet, and may leave empty."""
    if "name" not in settings and (name := input("Name of the board (empty: it makes one): ").strip()):
        settings["name"] = name
    needs_wifi = "wifi" in board.mailwire.network and "ethernet" not in settings and "wifi" not in settings
    if needs_wifi and (ssid := input("Wi-Fi network (empty: none): ").strip()):
        settings["wifi"] = {"ssid": ssid}
    if board.mailwire.network and "mqtt" not in settings:
        url = input("MQTT broker, such as mqtt://192.168.1.2 (empty: events come as frames over USB): ").strip()
        if url:
            settings["mqtt"] = _mqtt(url)


def _mqtt(url: str) -> dict[str, Any]:
    """The section `mqtt` of a URL; a login in it becomes keys of their own."""
    try:
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
    except ValueError as error:
        show.fail(f"--mqtt: this is no URL: {error}.", 2)
    section: dict[str, Any] = {"url": f"{parts.scheme}://{host}{parts.path}" if login else url}
    if login:
        user, colon, password = login.partition(":")
        section["user"] = unquote(user)
        if colon:
            section["password"] = unquote(password)
            print("Others may see a password on a command line; MAILWIRE_MQTT_PASSWORD hides it.", file=sys.stderr)
    return section


def _from_file(path: Path | None) -> dict[str, Any]:
    from gateway import yaml

    if path is None:
        return {}
    document = yaml.read(path)  # JSON is YAML too
    if document.problems:
        show.fail("\n".join(map(str, document.problems)), 2)
    if not isinstance(document.data, dict):
        show.fail(f"{path}: settings are a set of keys, such as name: attic.", 2)
    return document.data


# --- talking -------------------------------------------------------------------------------------------------------


def _confirmed(question: str, args: argparse.Namespace, *, asks: bool) -> bool:
    if args.yes:
        return True
    if not asks:
        show.fail(f"{question}\nNobody is here to answer: if that is what you want, add --yes. Nothing was changed.", 2)
    return input(f"     {show.plain(question)} [y/N] ").strip().lower() in ("y", "yes")


def _progress(done: int, total: int) -> None:
    of = f" of {show.size(total)}" if total else ""
    print(f"\r     {show.size(done)}{of}\033[K", end="\n" if done == total else "", flush=True)


def _tell(job: Job, args: argparse.Namespace) -> None:
    """What a person does next."""
    settings, board = job.settings, job.board
    lines: list[str] = []
    if board.mailwire.flash == "lines":
        lines = [f"{board.name} prints lines. In the gateway's mailwire.yaml:", "", *_serial(job, "lines")]
    elif args.update:
        lines = ["The application is renewed."]
    elif board.mailwire.flash != "folder":
        lines = [f"{board.name} is a mail gateway now.", *_reached(settings, job.hello or {}), *_events(job)]
    if lines:
        print(show.plain("\n".join(["", *lines]), keep="\n"))


def _reached(settings: Any, hello: dict[str, Any]) -> Sequence[str]:
    from gateway.wire.event import slug

    if not settings.get("wifi") and "ethernet" not in settings:
        return ()
    port = (settings.get("smtp") or {}).get("port", 2525)
    board = hello.get("id") or slug(settings.get("name", ""))
    address = f"{board.replace('_', '-')[:32]}.local" if board else "the board's address"  # as firmware/net.py has it
    return (
        "",
        "Point a device at it:",
        f"  SMTP server  {address}",
        f"  port         {port}",
        "  encryption   none; login: none, or any",
    )


def _events(job: Job) -> Sequence[str]:
    mqtt = job.settings.get("mqtt")
    if mqtt:
        parts = urlsplit(mqtt["url"])
        host, port = parts.hostname, f" -p {parts.port}" if parts.port else ""
        return ("", f"Its events:  mosquitto_sub -h {host}{port} -t '{mqtt.get('base', 'mailwire')}/#' -v")
    return (
        "",
        f"Its events come as frames:  mailwire monitor {job.port}",
        "or, into a gateway, in mailwire.yaml:",
        "",
        *_serial(job, "frames"),
    )


def _serial(job: Job, form: str) -> Sequence[str]:
    return ("integrations:", f"  board: {{type: serial, port: {job.port}, format: {form}}}")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+) ?(K|M)i?B?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 4MB")
    return int(found[1]) << (10 if found[2] in "kK" else 20)
