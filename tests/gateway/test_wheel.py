"""What is installed from a wheel is whole: boards and firmware are in it, and found there, far from any checkout."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import json
from gateway.cli import boards
from gateway.flash import application, shipped
from gateway.flash.boards import find, folders
from gateway.flash.settings import check, combined
board = find("OLIMEX_ESP32_POE", folders(None))
check(combined(board))
print(json.dumps([str(shipped("firmware")), board.product, sorted(application.files()), len(application.main_py())]))
"""


def test_a_wheel_can_flash(tmp_path):
    from gateway.flash import application

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); exec({SCRIPT!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    folder, product, files, length = json.loads(done.stdout)
    assert folder == str(tmp_path / "installed" / "gateway" / "flash" / "shipped" / "firmware")
    assert product == "Olimex ESP32 POE"
    assert files == sorted(application.files())
    assert length == len(application.main_py())
