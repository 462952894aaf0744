"""script/fuzz: what it says and keeps. Where atheris is, it finds the crashes of a target that is made to have some."""

import importlib.util
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

ROOT = Path(__file__).parents[2]
DRIVER = ROOT / "script" / "fuzz.d"
BROKEN = """
WORDS = [b"one", b"two"]

def seeds():
    yield b"harmless"

def fuzz_broken(data):
    if b"one" in data:
        raise ValueError("one")
    assert b"two" not in data
"""


def run(root, *words):
    """The driver of the tree `root`."""
    return subprocess.run(
        [sys.executable, str(root / "script" / "fuzz.d"), *words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path):
    """A project with a single target, which is broken in two places."""
    if importlib.util.find_spec("atheris") is None:
        if platform.machine() != "x86_64":
            pytest.skip("atheris has no wheel for this machine")
        needs.missing("atheris is not here: script/fuzz brings it")
    root = tmp_path / "mail wire"
    folder = root / "tests" / "fuzz"
    folder.mkdir(parents=True)
    shutil.copytree(DRIVER, root / "script" / "fuzz.d", ignore=shutil.ignore_patterns("__pycache__"))
    source = (ROOT / "tests" / "fuzz" / "targets.py").read_text("utf-8")
    names = next(line for line in source.splitlines() if line.startswith("NAMES = "))
    (folder / "targets.py").write_text(source.replace(names, 'NAMES = ("broken",)'), "utf-8")
    (folder / "broken.py").write_text(BROKEN, "utf-8")
    return root


def test_crashes_are_minimised_and_kept(tree):
    done = run(tree, "--seconds", "6", "--json")
    assert done.returncode == 1, done.stderr
    kept = tree / "tests" / "fuzz" / "crashes" / "broken"
    assert sorted(path.read_bytes() for path in kept.iterdir()) == [b"one", b"two"]
    result = json.loads(done.stdout)
    assert (result["target"], result["failed"]) == ("broken", "")
    assert sorted(result["crashes"]) == sorted(map(str, kept.iterdir()))
    assert result["executions"] > 0
    for words in ("broken: ValueError at broken.py:9; kept as ", "broken: AssertionError at broken.py:10; kept as "):
        assert words in done.stderr
    assert list((tree / ".cache" / "fuzz").glob("run-*")) == []


HANGS = """
WORDS, seeds = [b"x"], lambda: [b"hang"]

def fuzz_broken(data):
    while data == b"hang":
        pass
"""
BUSY = """
import sys, time
from pathlib import Path
WORDS, seeds = [b"x"], lambda: [b"slow"]

def fuzz_broken(data):
    if data == b"slow" and "atheris" in sys.modules and not Path("slept").exists():
        Path("slept").touch()
        time.sleep(10)
"""


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        (HANGS, 1, "broken: more than 1 s; kept as "),
        (BUSY, 0, "broken: an input took more than 1 s and does not when it is alone; the machine was busy\n"),
    ],
    ids=["hangs", "busy"],
)
def test_an_input_that_takes_too_long(tree, target, code, said):
    driver = tree / "script" / "fuzz.d" / "__main__.py"
    driver.write_text(driver.read_text("utf-8").replace("PATIENCE = 25", "PATIENCE = 1"), "utf-8")
    (tree / "tests" / "fuzz" / "broken.py").write_text(target, "utf-8")
    done = run(tree, "--seconds", "8")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    kept = tree / "tests" / "fuzz" / "crashes" / "broken"
    assert [path.read_bytes() for path in kept.glob("*")] == [b"hang"] * code


def test_the_table():
    module = runpy.run_path(str(DRIVER / "__main__.py"))
    results = [
        module["Result"]("smtp", 900.4, 800.6, 123456, 500, 2000, 400),
        module["Result"]("frame", 100, 90, 1000, 80, 500, 70, ["tests/fuzz/crashes/frame/x"]),
    ]
    assert module["table"](results).splitlines() == [
        "target      s  CPU s  executions  per s  coverage  features  corpus  new crashes",
        "smtp      900    801     123,456    137       500     2,000     400            0",
        "frame     100     90       1,000     10        80       500      70            1",
        "all     1,000    891     124,456    124                                        1",
    ]


def test_a_process_that_fails_is_no_run(tree):
    (tree / "tests" / "fuzz" / "broken.py").write_text("def fuzz_broken(data): pass\nseeds, WORDS = tuple, [b'x']\n")
    (tree / "script" / "fuzz.d" / "one.py").write_text("raise SystemExit('no')\n")
    done = run(tree, "--seconds", "6")
    assert done.returncode == 2
    log = tree / ".cache" / "fuzz" / "broken.log"
    assert done.stderr.endswith(f"broken: its process ended with exit code 1: see {log}\n")
    assert log.read_text() == "no\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["smpt"], "there is no target smpt; the targets are smtp, interpret, frame, link, configuration, aiosmtpd"),
        (["--seconds", "1"], "that is 1.0 s for each target; it needs 3 at least"),
        (["--minutes", "0.1", "--jobs", "1"], "that is 1.0 s for each target; it needs 3 at least"),
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--minutes", "1", "--seconds", "1"], "not allowed with argument --minutes"),
    ],
)
def test_wrong_use(words, why):
    done = run(ROOT, *words)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize(("ci", "machine", "code"), [("", "x86_64", 0), ("1", "x86_64", 2), ("1", "aarch64", 0)])
def test_without_atheris(monkeypatch, capsys, ci, machine, code):
    monkeypatch.setattr(sys, "argv", ["script/fuzz"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(DRIVER / "__main__.py"), run_name="__main__")
    assert left.value.code == code
    said = capsys.readouterr().err
    assert said.startswith("script/fuzz: skipped, for atheris has no wheel for Python 3.")
    assert said.endswith(f" {machine}; it has for CPython on x86-64 Linux.\n")
