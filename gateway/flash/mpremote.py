"""Files to a board that MicroPython runs on, over its prompt: by mpremote, run as a program.

The application is stopped meanwhile (Ctrl-C, at which it lets go of its watchdog). A slot that is being written holds a
file `void`, which firmware/main.py takes for "not whole": cut short at any moment, the board starts what it had before.
Nothing secret is on a command line: settings go as a file that only this user can read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gateway.flash import FlashError, need

_PATIENCE = 600.0  # seconds for all that is written in one go

_LOOK = """
import os, json
try: state = json.load(open('slot.json'))
except Exception: state = {}
def there(path):
    try: os.stat(path)
    except OSError: return False
    return True
whole = [s for s in ('a', 'b') if there(s + '/firmware') and not there(s + '/void')]
print(json.dumps({'files': os.listdir(), 'slot': state.get('slot'), 'whole': whole}))
"""
_BEGIN = """
import os
def gone(path):
    try: kind = os.stat(path)[0]
    except OSError: return
    if not kind & 0x4000: return os.remove(path)
    for entry in list(os.ilistdir(path)): gone(path + '/' + entry[0])
    os.rmdir(path)
slot = '%s'
for entry in list(os.ilistdir(slot)) if slot in os.listdir() else (): entry[0] == 'void' or gone(slot + '/' + entry[0])
if slot not in os.listdir(): os.mkdir(slot)
open(slot + '/void', 'w').close()
"""
_END_NEW = """
import os
os.remove('%s/void')
for old in ('slot.json', 'b'): gone(old)
if hasattr(os, 'sync'): os.sync()
"""
_END_TRIAL = """
import os, json
try: state = json.load(open('slot.json'))
except Exception: state = {}
new = '%s'
state['trial'], state['tried'], state['version'] = new, False, '%s'
os.remove(new + '/void')
with open('slot.json.new', 'w') as file: json.dump(state, file)
os.rename('slot.json.new', 'slot.json')
"""


class Found(NamedTuple):
    """What is on a board: the names in its root, and the slots with a whole application; `slot` is the one in use."""

    files: tuple[str, ...]
    whole: tuple[str, ...]
    slot: str | None

    @property
    def is_ours(self) -> bool:
        return bool(self.whole)

    @property
    def is_empty(self) -> bool:
        """Nothing but what MicroPython itself made."""
        return set(self.files) <= {"boot.py"}


def command(port: str, *words: str) -> list[str]:
    """The command line; `+` stands between its commands."""
    return [sys.executable, "-m", "mpremote", "connect", port, *words]


def look(port: str) -> Found:
    """Stops what runs on the board. Raises FlashError when there is no prompt."""
    said = _run(port, command(port, "exec", _LOOK))
    try:
        told = json.loads(said.strip().splitlines()[-1])
        return Found(tuple(told["files"]), tuple(told["whole"]), told["slot"])
    except (ValueError, LookupError, TypeError):
        raise FlashError(f"{port}: what answers there is no MicroPython with a file system: {said[-200:]!r}.") from None


def install(port: str, application: Mapping[str, bytes], others: Mapping[str, bytes], *, visibly: bool = False) -> None:
    """Write slot `a` and what stands beside it, in place of any application that was there; then start anew.

    `visibly`: mpremote says on the terminal what it copies.
    """
    _write(port, "a", application, others, _END_NEW % "a", visibly)


def update(port: str, application: Mapping[str, bytes], found: Found, version: str, *, visibly: bool = False) -> str:
    """Write the slot that is not in use, and have it tried at the next start. Settings and spool stay. Which slot."""
    slot = "b" if (found.slot or found.whole[0]) == "a" else "a"
    _write(port, slot, application, {}, _END_TRIAL % (slot, version), visibly)
    return slot


def prints(port: str, program: bytes) -> None:
    """Make `program` the main.py of a board whose file system mpremote can't list (micro:bit), and start it."""
    pieces = [program[at : at + 256] for at in range(0, len(program), 256)]
    words = [f"_f = open('main.py', 'w')\n_w = _f.write\n_w({pieces[0].decode()!r})\n"]
    words += [f"_w({piece.decode()!r})" for piece in pieces[1:]]
    chain = [word for text in [*words, "_f.close()"] for word in ("exec", text, "+")]
    _run(port, command(port, *chain, "exec", "--no-follow", "import microbit; microbit.reset()"))


def _write(
    port: str, slot: str, application: Mapping[str, bytes], others: Mapping[str, bytes], end: str, visibly: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="mailwire-") as name:  # only this user may look into it
        folder = Path(name)
        for path, content in [*((f"{slot}/{path}", content) for path, content in application.items()), *others.items()]:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        copies = ["cp", "-r", str(folder / slot), ":", "+"]
        for path in others:
            copies += ["cp", str(folder / path), f":{path}", "+"]
        _run(port, command(port, "exec", _BEGIN % slot, "+", *copies, "exec", end, "+", "reset"), visibly=visibly)


def _run(port: str, words: list[str], *, visibly: bool = False) -> str:
    need("mpremote")
    out = None if visibly else subprocess.PIPE
    try:
        done = subprocess.run(  # noqa: S603  # our own words
            words, stdout=out, stderr=subprocess.PIPE, text=True, errors="replace", check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise FlashError(f"{port}: the board does not answer any more. Unplug it, plug it in, and try again.") from None
    if done.returncode:
        lines = (done.stderr.strip() or (done.stdout or "").strip()).splitlines() or ["nothing"]
        said = re.sub(r"^mpremote(\.\w+)*: *", "", lines[-1])
        raise FlashError(f"{port}: mpremote says: {said}. Is MicroPython on the board, and the port free?")
    return done.stdout or ""
