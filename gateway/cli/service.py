"""Make the gateway a service of this machine: systemd's unit files, written, shown or removed.

`install` writes the units (for the whole machine also a user `mailwire` for them to run as, and a configuration if
there is none yet), and says what to type next; nothing is started. What somebody has changed is never overwritten or
removed without --force, and then kept beside it as .old. To change a unit's settings, use `systemctl edit mailwire`.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway import paths
from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.config import Settings

_UNITS = Path(__file__).parent.parent / "units"
_HERE = "mailwire.yaml"
_MARK = "# Written by `mailwire service install`; what follows it had this sum: "
_SYSTEM, _SYSUSERS = Path("/etc/systemd/system"), Path("/etc/sysusers.d")
_HOMES = ("/home", "/root", "/run/user")  # what ProtectHome=yes hides
_STATE = "StateDirectory=mailwire\nStateDirectoryMode=0700\nEnvironment=MAILWIRE_DATA=%S/mailwire"


# By what /proc/devices calls them (systemd.resource-control(5)): USB, built in, and on a Raspberry Pi.
_SERIAL_PORTS = "DevicePolicy=closed\n" + "\n".join(
    f"DeviceAllow=char-{kind} rw" for kind in ("ttyUSB", "ttyACM", "ttyS", "ttyAMA")
)


class _File(NamedTuple):
    """A file of the service; `ours` may be written again, a configuration is a person's from the first moment."""

    path: Path
    text: str
    ours: bool = True


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("install", "uninstall", "show"), help="show: print what would be written")
    parser.add_argument("--user", action="store_true", help="a service of this user instead of the machine")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--force", action="store_true", help="replace or remove files that somebody has changed, too")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="a folder that stands for / (for packages)")


def run(args: argparse.Namespace) -> int:
    if args.root and args.user:
        show.fail("--root is for the whole machine: leave out --user.", 2)
    files = _files(args)
    if args.action == "show":
        for file in files:
            print(f"# {file.path}\n{file.text}")
        return 0
    try:
        return _uninstall(args, files) if args.action == "uninstall" else _install(args, files)
    except BrokenPipeError:  # who reads what is printed has seen enough; that is no trouble with a file
        raise
    except PermissionError as error:
        hint = "" if args.user else " Run this as root (sudo), or for yourself alone with --user."
        show.fail(f"{error.filename}: this user may not write here.{hint}")
    except OSError as error:
        show.fail(f"{error.filename}: {error.strerror}.")


# --- what is written -----------------------------------------------------------------------------------------------


def _files(args: argparse.Namespace) -> list[_File]:
    if args.user:
        units = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
        return [
            _File(units / "mailwire.service", _service(args, "mailwire-user.service")),
            _File(units / "mailwire.socket", _socket(args)),
        ]
    return [
        _File(_SYSUSERS / "mailwire.conf", _signed(_template("mailwire.sysusers"))),
        _File(_SYSTEM / "mailwire.service", _service(args, "mailwire.service")),
        _File(_SYSTEM / "mailwire.socket", _socket(args)),
        *([] if args.config else [_File(paths.machines_config_file(), _template("mailwire.yaml"), ours=False)]),
    ]


def _template(name: str) -> str:
    return (_UNITS / name).read_text(encoding="utf-8")


def _service(args: argparse.Namespace, name: str) -> str:
    options = ""
    for option, path in (
        ("--config", args.config or (None if args.user else paths.machines_config_file())),
        ("--data", args.data),
    ):
        if path:
            options += f" {option} {quoted(path.absolute())}"
    filled = {
        "@python@": program_word(Path(sys.executable)),
        "@options@": options,
        "@home@": "read-only" if _in_a_home(args) else "yes",
        "@devices@": "" if args.user else _devices(args),
        "@data@": f"ReadWritePaths={quoted(args.data.absolute())}" if args.data else _STATE,
    }
    return _signed(re.sub("@[a-z]+@", lambda word: filled[word[0]], _template(name)))


def _settings(args: argparse.Namespace) -> Settings:
    """The configuration as it is now, or the default."""
    from gateway.config import load

    if args.config:
        return common.settings(args).settings
    path = paths.config_file() if args.user else _in_root(args, paths.machines_config_file())
    return load(path if path and path.exists() else None, loader=common.make_loader(path))


def _devices(args: argparse.Namespace) -> str:
    """Which devices it sees: none, or the serial ports, if the configuration names one of this machine."""
    configs: list[Any] = [one.config for one in _settings(args).integrations.values() if one.type == "serial"]
    if all("://" in config.port and not config.port.startswith("hwgrep") for config in configs):
        return "PrivateDevices=yes\nDevicePolicy=closed"
    return "\n".join([_SERIAL_PORTS, f"SupplementaryGroups={_group_of_ports()}"])


def _group_of_ports() -> str:
    """Those who may open a serial port: dialout on Debian, uucp elsewhere."""
    with contextlib.suppress(KeyError):
        return grp.getgrnam("dialout").gr_name
    return "uucp"


def _socket(args: argparse.Namespace) -> str:
    """Its ports are those of the configuration."""
    places = [show.address(one.host, one.port) for one in common.listeners(_settings(args)) if one.port]
    return _signed(_template("mailwire.socket").replace("@listen@", "\n".join(f"ListenStream={one}" for one in places)))


def program_word(path: Path) -> str:
    """The first word of a command line, in which systemd replaces no `$`, and takes neither quotes nor backslashes."""
    if re.search(r"""["'\\]""", str(path)):
        show.fail(f"{path}: systemd can't start a program whose path has a quote or a backslash. Install it elsewhere.")
    return quoted(path).replace("$$", "$")


def quoted(path: Path | str) -> str:
    """One word of a command line, to systemd (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers")."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[^\w/.,+@%$:-]", text) else text


def _signed(text: str) -> str:
    return f"{_MARK}{_sum(text)}\n{text}"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_unchanged(text: str) -> bool:
    """Whether a file that is there is one of ours, of this version or another."""
    first, _, rest = text.partition("\n")
    return first == _MARK + _sum(rest)


# --- install and uninstall -----------------------------------------------------------------------------------------


def _install(args: argparse.Namespace, files: list[_File]) -> int:
    if not args.user and not args.root:
        _is_reachable(args)
    changed = False
    for file in files:
        path = _in_root(args, file.path)
        there = path.read_text(errors="replace") if path.exists() else None
        if there == file.text:
            print(f"{path}: is as it should be")
        elif there is not None and not file.ours:
            print(f"{path}: is there, and stays as it is")
        elif there is not None and not _is_unchanged(there) and not args.force:
            changed = True
            print(
                f"{path}: was changed by somebody, and stays as it is. With --force it is replaced (and kept as .old)."
            )
        elif args.dry_run:
            print(f"{path}: would be written")
            print("".join(f"    {line}\n" for line in file.text.splitlines()))
        else:
            _write(path, file.text, keep=there is not None and not _is_unchanged(there))
            print(f"{path}: written")
    _say_next(args)
    return 1 if changed else 0


def _write(path: Path, text: str, *, keep: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if keep:
        path.rename(path.with_name(path.name + ".old"))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _uninstall(args: argparse.Namespace, files: list[_File]) -> int:
    manager = "systemctl --user" if args.user else "systemctl"
    if not args.root:
        print(f"If it runs, stop it: {manager} disable --now mailwire.service mailwire.socket")
    code = 0
    for file in files:
        path = _in_root(args, file.path)
        if not path.exists():
            continue
        if not file.ours:
            print(f"{path}: stays, as the data does")
        elif not _is_unchanged(path.read_text(errors="replace")) and not args.force:
            code = 1
            print(f"{path}: was changed by somebody, and stays. With --force it is removed.")
        elif args.dry_run:
            print(f"{path}: would be removed")
        else:
            path.unlink()
            print(f"{path}: removed")
    if not args.root:
        print(f"When all is removed: {manager} daemon-reload")
    return code


def _in_root(args: argparse.Namespace, path: Path) -> Path:
    return Path(args.root) / path.relative_to("/") if args.root else path


def _in_a_home(args: argparse.Namespace) -> bool:
    """Whether something that the service needs is where ProtectHome would hide it."""
    places = [*_program(), *(path for path in (args.config, args.data) if path)]
    return any(place.resolve().is_relative_to(home) for place in places for home in _HOMES)


def _program() -> list[Path]:
    """Where all of this program is."""
    return [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve(), _UNITS]


def _is_reachable(args: argparse.Namespace) -> None:
    """The service's user is none of those who may enter a private folder; ends the command if one is in its way."""
    for place in _program():
        for folder in (place.resolve(), *place.resolve().parents):
            if not folder.stat().st_mode & 0o001 and not args.force:
                show.fail(
                    f"{folder}: the user 'mailwire' must enter this folder, for this program is in it, and may not. "
                    "Install Mailwire elsewhere (python3 -m venv /opt/mailwire), or run it as yourself with --user. "
                    "With --force the units are written all the same."
                )


def _say_next(args: argparse.Namespace) -> None:
    if not args.config and Path(_HERE).exists():
        print(f"Note: the {_HERE} in this folder is not the service's: if it shall be, name it with --config.")
    if args.root:
        return
    if args.data and not args.user:
        print(f"Note: {args.data} must belong to the user 'mailwire'.")
    print("\nNow type:" if not args.dry_run else "\nThen you would type:")
    if args.user:
        print("  systemctl --user daemon-reload")
        print("  systemctl --user enable --now mailwire.service")
        print('  sudo loginctl enable-linger "$USER"     # so that it runs while you are not logged in, too')
    else:
        sudo = "" if os.geteuid() == 0 else "sudo "
        print(f"  {sudo}systemd-sysusers")
        print(f"  {sudo}systemctl daemon-reload")
        print(f"  {sudo}systemctl enable --now mailwire.service")
    print("To have systemd keep the ports open while it restarts, enable mailwire.socket as well, before the service.")
