"""The scripts a person types: what they do when all is there, and what they say when something is missing.

Each runs as a copy in a folder with a blank in its name, from another folder, with only the programs that it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL_SCRIPTS = sorted(
    path.relative_to(ROOT)
    for path in [*(ROOT / "script").iterdir(), ROOT / ".ci/run"]
    if path.is_file() and (path.name == "common" or path.read_bytes().startswith(b"#!/usr/bin/env bash"))
)
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "flock", "grep", "head", "mkdir")


class Copy:
    """A copy of the scripts, and a PATH of its own (`bin`), so that a test decides what the machine has."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "mail wire"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for script in SHELL_SCRIPTS:
            (self.root / script).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / script, self.root / script)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or f"/missing/{tool}")
        self.program("id", "echo 1000")  # nobody who could install anything

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def python(self, *, version: str, new_enough: bool) -> None:
        """A python3 that can tell its version and nothing else."""
        self.program(
            "python3",
            f'case $1 in --version) echo "Python {version}" ;; '
            f"-c) echo /usr {version}; exit {0 if new_enough else 1} ;; *) exit 70 ;; esac",
        )

    def set_up(self, *extras: str) -> None:
        """The virtual environment as `setup` leaves it, with a program that prints how it was called."""
        self.python(version="3.12.1", new_enough=True)
        self.program(f"{self.root}/.venv/bin/mailwire", 'printf "%s|" "$@"')
        facts = subprocess.check_output(["cksum"], input=(self.root / "pyproject.toml").read_bytes()).decode()
        has = "".join(f"has {extra}\n" for extra in ("the package", *extras))
        (self.root / ".venv/mailwire-setup").write_text(f"{self.root}/.venv /usr 3.12.1\n{facts}{has}")

    def run(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / script), *words],
            cwd=self.bin,
            env={"PATH": str(self.bin), **environment},
            input="typed",
            capture_output=True,
            text=True,
            timeout=30,
        )


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=str)
def test_shell_syntax(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.name == "common" or os.access(ROOT / script, os.X_OK)


def test_old_python_is_refused(copy: Copy) -> None:
    copy.python(version="3.9.2", new_enough=False)
    done = copy.run("script/run")
    assert done.returncode == 2
    assert done.stderr == (
        "Mailwire needs Python 3.11 or newer; here Python 3.9.2 was found.\n"
        "On Debian 12, Raspberry Pi OS (bookworm) and newer: sudo apt-get install python3 python3-venv\n"
    )


def test_no_python_at_all(copy: Copy) -> None:
    done = copy.run("script/run")
    assert done.returncode == 2
    assert done.stderr.startswith("Mailwire needs Python 3.11 or newer; here no python3 was found.\n")


def test_venv_module_missing_and_nobody_may_install_it(copy: Copy) -> None:
    copy.program("python3", 'case "$2" in *ensurepip*) exit 1 ;; *version_info*) echo /usr 3.12.1 ;; esac')
    done = copy.run("script/run")
    assert done.returncode == 2
    assert done.stderr == "Missing here: python3-venv. Please install with: sudo apt-get install python3-venv\n"


def test_run_is_quiet_and_installs_nothing_when_all_is_there(copy: Copy) -> None:
    copy.set_up()
    copy.program("mosquitto", "")
    copy.program("mosquitto_sub", "")
    done = copy.run("script/run", "--config", "a b.yaml")
    assert (done.stdout, done.stderr, done.returncode) == ("run|--config|a b.yaml|", "", 0)


def test_run_goes_on_without_mosquitto(copy: Copy) -> None:
    copy.set_up()
    copy.program("mosquitto", "")
    done = copy.run("script/run")
    assert (done.stdout, done.returncode) == ("run|", 0)
    assert done.stderr == (
        "Missing here: mosquitto-clients. Please install with: sudo apt-get install mosquitto-clients\n"
        "Without Mosquitto the gateway runs all the same: mail is taken and kept, and its events wait for a broker.\n"
    )


def test_what_is_missing_is_installed_by_who_may(copy: Copy) -> None:
    copy.set_up()
    copy.program("id", "echo 0")
    copy.program("apt-get", f'echo "$@" >> {copy.bin}/calls')
    copy.program("mosquitto", "")
    done = copy.run("script/run")
    assert (done.stdout, done.returncode) == ("run|", 0)
    assert (copy.bin / "calls").read_text() == ("update -q\ninstall -q -y --no-install-recommends mosquitto-clients\n")
    assert done.stderr == "Reading Debian's list of packages ...\nInstalling mosquitto-clients ...\n"


def test_a_changed_pyproject_is_installed_again_and_a_failure_is_shown(copy: Copy) -> None:
    copy.set_up()
    with (copy.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    copy.program(f"{copy.root}/.venv/bin/python", 'echo "no network: $*"; exit 1')
    done = copy.run("script/run")
    assert done.returncode == 1
    assert done.stderr == (
        "Installing Mailwire into it (the first time takes a minute) ...\n"
        f"no network: -m pip install --disable-pip-version-check --editable {copy.root}\n"
        "That failed: Installing Mailwire into it (the first time takes a minute).\n"
        "The first set-up needs the network; afterwards it is not used.\n"
    )


@pytest.mark.parametrize("broken", [(), ("mypy",), ("ruff", "pytest"), ("fuzz",)])
def test_test_runs_every_check_and_tells_which_failed(copy: Copy, broken: tuple[str, ...]) -> None:
    copy.set_up("test", "fuzz")
    for script in ("micropython", "mtas", "home-assistant", "firmware-types"):
        copy.program(f"{copy.root}/script/{script}", "")
    copy.program(f"{copy.root}/script/fuzz", f"echo fuzz says $*; exit {int('fuzz' in broken)}")
    for program in ("mosquitto", "mosquitto_sub", "swaks", "msmtp", "curl", "gcc", "perl"):
        copy.program(program, "")
    for program in ("ruff", "mypy", "lint-imports", "pytest"):
        copy.program(f"{copy.root}/.venv/bin/{program}", f"echo {program} says $*; exit {int(program in broken)}")
    done = copy.run("script/test")
    assert done.returncode == (1 if broken else 0)
    assert done.stdout.splitlines() == [
        "pytest says --numprocesses auto --dist worksteal",
        "fuzz says smtp interpret frame link configuration --minutes 1 --from-seeds",
    ]
    closing = done.stderr.splitlines()[-1]
    assert closing.startswith(f"script/test: {'FAILED' if broken else 'all is well'}")
    failures = {(): " s", ("ruff", "pytest"): ": ruff check, ruff format --check, pytest"}
    assert closing.endswith(failures.get(broken, f": {broken[0] if broken else ''}"))
    assert ("mypy says\n" in done.stderr) == ("mypy" in broken)


def test_test_with_arguments_is_pytest_alone(copy: Copy) -> None:
    copy.set_up("test")
    for script in ("micropython", "mtas", "home-assistant"):
        copy.program(f"{copy.root}/script/{script}", "")
    for program in ("mosquitto", "mosquitto_sub", "swaks", "msmtp", "curl", "gcc", "perl"):
        copy.program(program, "")
    copy.program(f"{copy.root}/script/fuzz", "echo it fuzzes, too")
    copy.program(f"{copy.root}/.venv/bin/pytest", 'pwd; printf "%s|" "$@"')
    done = copy.run("script/test", "tests/wire", "-k", "bdat or data")
    assert done.stdout == f"{copy.root}\ntests/wire|-k|bdat or data|"
    assert done.returncode == 0


def test_in_ci_nothing_may_be_missing(copy: Copy) -> None:
    copy.set_up("test", "fuzz")
    done = copy.run("script/test", CI="true")
    assert done.returncode == 2
    assert "Please install with: sudo apt-get install" in done.stderr
    assert "nodejs npm" in done.stderr


def test_ci_passes_on_the_exit_code_and_no_input(copy: Copy) -> None:
    (copy.root / "script/test").write_text('echo "CI=$CI"; cat; exit 7\n')
    done = copy.run(".ci/run")
    assert (done.stdout, done.returncode) == ("CI=true\n", 7)


def test_a_second_extra_keeps_the_first(copy: Copy) -> None:
    copy.set_up("test")
    copy.program(f"{copy.root}/.venv/bin/python", f'echo "$@" >> "{copy.bin}/calls"')
    for _ in range(2):
        assert copy.run("script/fuzz", "smtp").returncode == 0
    copy.program(f"{copy.root}/.venv/bin/pytest", "")
    copy.program(f"{copy.root}/script/micropython", "")
    copy.program(f"{copy.root}/script/mtas", "")
    assert "Installing Mailwire" not in copy.run("script/test", "tests/wire").stderr
    install = f"-m pip install --disable-pip-version-check --editable {copy.root}[fuzz]\n"
    assert (copy.bin / "calls").read_text() == install + 2 * f"{copy.root}/script/fuzz.d smtp\n"


def test_bench_names_the_rows_when_one_is_unknown() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "script/bench.d"), "--only", "memory,recieve"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "--only: no row is named recieve; the rows are receive-1k-10-kept, " in done.stderr


def test_bench_judges_each_goal_of_the_rows_that_were_asked_for() -> None:
    results = {
        "memory": {"idle_mib": 60.0, "connections_mib": 5.1},
        "receive-1k-10-kept": {"servers": {"mailwire": {"to_sink": 0.5, "to_storing": 2.9}}},
        "start": {"failed": "it never came"},
    }
    program = "import json, sys, goals; print(json.dumps(goals.check(json.load(sys.stdin))))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "script/bench.d",
        input=json.dumps(results),
        capture_output=True,
        text=True,
    )
    assert [(goal["limit"], goal["measured"], goal["met"]) for goal in json.loads(done.stdout)] == [
        ("≥ 0.4 x", 0.5, True),
        ("≥ 3 x", 2.9, False),
        ("≥ 20 x", None, None),
        ("≤ 60 MiB", 60.0, True),
        ("≤ 16 MiB", None, None),
        ("≤ 5 MiB", 5.1, False),
        ("≤ 0.5 s", None, None),
    ]


def test_bench_shows_and_draws_what_was_measured_before(tmp_path: Path) -> None:
    rate = {"rates": [1.0], "spread": 0.1, "cpu_us": 31.0, "peak_mib": 8.0}
    servers = {
        "smtp-sink": rate | {"rate": 10000.0, "to_sink": 1.0},
        "mailwire": rate | {"rate": 5000.0, "to_sink": 0.5},
    }
    measured = {
        "machine": {
            "time": "2026-11-25T10:00:00+00:00",
            "processor": "A <fast> one",
            "cores": 2,
            "python": "3.12.1",
            "fsync_ms": 0.1234,
            "busy": 0.04,
        },
        "rounds": 5,
        "rows": {
            "receive-1k-10-kept": {"servers": servers, "failed": {"mailrise": "pip failed"}},
            "growth-devices": {"devices": {"1000": rate | {"rate": 900.0, "ratio": 1.0, "p50_ms": 1, "p99_ms": 2}}},
            "memory": {"failed": "it is gone"},
        },
        "goals": [{"goal": "receive", "limit": "≥ 0.4 x", "measured": 0.5, "met": True}],
    }
    (tmp_path / "a b.json").write_text(json.dumps(measured))
    command = [sys.executable, str(ROOT / "script/bench.d"), "--from", "a b.json", "--svg", "picture.svg"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "A <fast> one, 2 cores, Python 3.12.1, 2026-11-25; fsync 0.12 ms, load before 0.0"
    assert "receiving mails/s spread x sink x storing CPU µs peak MiB" in lines
    assert "mailwire 5,000 10% 0.50 - 31 8" in lines
    assert "mailrise: not measured: pip failed" in lines
    assert "1,000 900 10% 1.00 1.0 2.0 31 -" in lines
    assert "memory: not measured: it is gone" in lines
    assert "receive ≥ 0.4 x 0.50 met" in lines
    assert lines[-1] == "1 of 1 goals met."
    picture = ElementTree.parse(tmp_path / "picture.svg")
    texts = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"5,000  (0.50 x)", "0.4 x smtp-sink", "A <fast> one, 2 cores, Python 3.12.1, 2026-11-25"} <= set(texts)


def test_bench_refuses_to_show_what_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"rows": 1}')
    command = [sys.executable, str(ROOT / "script/bench.d"), "--from", "other.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "--from: other.json is not what --json wrote: it has no rows\n"


def test_bench_counts_and_ends_all_processes_of_a_server(tmp_path: Path) -> None:
    parent = (
        "import os, socket, time\n"
        "server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
        "shared = bytearray(40 << 20)\n"
        "if os.fork() == 0:\n"
        "    own = bytearray(30 << 20)\n"
        "    begun = time.process_time()\n"
        "    while time.process_time() < begun + 0.2: pass\n"
        "    server.listen()\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys, pathlib, process\n"
        "port = process.free_port()\n"
        "command = [sys.executable, '-c', sys.argv[1]]\n"
        "server = process.Server('a server', command, port, pathlib.Path(sys.argv[2]), {'PORT': str(port)})\n"
        "server.connect().close()\n"
        "server.settle()\n"
        "family = server._family()\n"
        "server.forget_peak()\n"
        "print(len(family), server.memory(), server.peak(), server.cpu())\n"
        "server.stop()\n"
        "print([process._lives(*one) for one in family.items()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, parent, str(tmp_path)],
        cwd=ROOT / "script/bench.d",
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    figures, gone = done.stdout.splitlines()
    count, memory, peak, cpu = map(float, figures.split())
    assert count == 2
    assert 70 < memory < 70 + 40  # what was there before the fork counts once
    assert memory - 1 < peak < memory + 40
    assert cpu >= 0.2
    assert gone == "[False, False]"
