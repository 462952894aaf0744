"""Runs a piece of Python on the real MicroPython, where the application lies as it does on a board."""

import json
import subprocess
import textwrap
from pathlib import Path

from tests.firmware.board import install, interpreter

NAMES = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
"""Those that the scripts in the tests call the application by are among these words."""


def run(folder: Path, code: str, *, build: str = "i386", heap: str = "512K", silent: bool = True):
    """What the code gave to `tell(value)`, a JSON value each time. An error fails, and if `silent` other output."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "a").exists():
        install(folder, known=NAMES)
    head = "import json, sys\nsys.path.insert(0, 'a')\n\ndef tell(value):\n    print('told ' + json.dumps(value))\n\n"
    (folder / "script.py").write_text(head + textwrap.dedent(code))
    command = [str(interpreter(build)), "-X", f"heapsize={heap}", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert not silent or all(line.startswith("told ") for line in lines), done.stdout
    return [json.loads(line[5:]) for line in lines if line.startswith("told ")]
