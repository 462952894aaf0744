"""What the bench needs beside the project, fetched once into `.cache/bench`; nothing is installed on the machine.

smtp-source, smtp-sink and Postfix come from Debian's postfix package, unpacked and never set up. mailrise gets a
virtual environment of its own, since it pins other versions than ours; Haraka a folder of node modules. The shim that
slows fsync is compiled here. What can't be had is None, and `missing` says why in words.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "bench"
MAILRISE = "mailrise==1.4.0"
# What mailrise 1.4.0 pins, but for PyYAML 6.0, which no longer builds on newer Pythons.
MAILRISE_NEEDS = ("aiosmtpd==1.4.4.post2", "apprise==1.4.5", "PyYAML>=6")
HARAKA = "Haraka@3.3.4"
HARAKA_NODE = 20  # the oldest that it runs on
FSYNC_DELAY_MS = 30


class Unavailable(Exception):
    """Something can't be had on this machine; the text says what and why."""


@dataclass(slots=True)
class Kit:
    """Paths of the programs; `missing` tells in words what could not be had."""

    postfix: Path
    mosquitto: str | None = None
    mailrise: Path | None = None  # the Python that can import it
    haraka: Path | None = None  # its package
    slow_fsync: Path | None = None
    missing: list[str] = field(default_factory=list)

    def postfix_program(self, name: str) -> list[str]:
        """The first words of a command that runs one of postfix's programs (`lib/postfix/sbin/master`: its daemon)."""
        return _with_libraries(self.postfix, str(self.postfix / "usr" / name))


def prepare(*, peers: bool) -> Kit:
    """Fetch and build what is not there yet, with the peers that receive mail if they are wanted.

    A second time it needs no network. Raises `Unavailable` where not even a load can be made.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    kit = Kit(postfix=_once("postfix", _unpack_postfix))
    kit.mosquitto = shutil.which("mosquitto")
    if not kit.mosquitto:
        kit.missing.append("mosquitto is not installed: no way to a subscriber is measured (apt-get install mosquitto)")
    try:
        kit.slow_fsync = _once("slow_fsync", _compile_shim) / "slow_fsync.so"
    except Unavailable as trouble:
        kit.missing.append(f"{trouble}: no slow disk is measured")
    if peers:
        try:
            kit.mailrise = _once("mailrise", _install_mailrise) / "bin" / "python"
        except Unavailable as trouble:
            kit.missing.append(f"{trouble}: mailrise is left out")
        try:
            kit.haraka = _once("haraka", _install_haraka) / "node_modules" / "Haraka"
        except Unavailable as trouble:
            kit.missing.append(f"{trouble}: Haraka is left out")
    return kit


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """`CACHE/name`, made by `make(folder)` if it is not there whole: `.made` is written last."""
    folder = CACHE / name
    if not (folder / ".made").exists():
        print(f"Preparing {name} in {folder} ...", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / ".made").touch()
    return folder


def _unpack_postfix(folder: Path) -> None:
    try:
        _unpack(folder, "postfix")
    except Unavailable:  # on a new machine apt has no list of packages yet
        _run("apt-get", "update", "-q")
        _unpack(folder, "postfix")
    if "not found" in _run(*_with_libraries(folder, "ldd", str(folder / "usr/sbin/smtp-source"))):
        every_kind = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        needs = _run("apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in every_kind), "postfix")
        here = set(_run("dpkg-query", "-W", "-f", "${Package}\n").split())
        _unpack(folder, *(name for name in needs.splitlines() if name.startswith("lib") and name not in here))


def _unpack(folder: Path, *packages: str) -> None:
    with tempfile.TemporaryDirectory() as download:
        _run("apt-get", "download", "-q", *packages, cwd=download)
        for package in Path(download).iterdir():
            _run("dpkg", "-x", str(package), str(folder))


def _with_libraries(folder: Path, *command: str) -> list[str]:
    """A command run with the libraries that were unpacked there."""
    libraries = [folder / "usr/lib/postfix", *folder.glob("lib/*-linux-*"), *folder.glob("usr/lib/*-linux-*")]
    return ["env", f"LD_LIBRARY_PATH={':'.join(map(str, libraries))}", *command]


def _compile_shim(folder: Path) -> None:
    source = HERE / "slow_fsync.c"
    _run("gcc", "-shared", "-fPIC", "-O2", f"-DDELAY_MS={FSYNC_DELAY_MS}", "-o", f"{folder}/slow_fsync.so", str(source))


def _install_mailrise(folder: Path) -> None:
    _run(sys.executable, "-m", "venv", str(folder))
    pip = (str(folder / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check")
    _run(*pip, "--no-deps", MAILRISE)
    _run(*pip, *MAILRISE_NEEDS)


def _install_haraka(folder: Path) -> None:
    version = _run("node", "--version").strip().removeprefix("v")
    if int(version.partition(".")[0]) < HARAKA_NODE:
        raise Unavailable(f"Haraka needs Node.js {HARAKA_NODE} or newer, here is {version}")
    (folder / "package.json").write_text('{"private": true}\n')
    # Its optional dependencies are plug-ins that are not used here.
    options = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund")
    _run("npm", "install", *options, HARAKA, cwd=str(folder))


def _run(*command: str, cwd: str | None = None) -> str:
    """What it printed. Raises `Unavailable`."""
    what = " ".join(command[:3])
    try:
        done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what} took more than 300 s") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["without a word"]
        raise Unavailable(f"{what} failed: {words[-1]}")
    return done.stdout
