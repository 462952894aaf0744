"""Programs that a test needs: missing ones fail in CI, and skip with the install hint on a person's machine."""

import fcntl
import os
import shutil
import subprocess
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
