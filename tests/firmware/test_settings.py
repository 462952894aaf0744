"""`settings.json` under the real MicroPython: each mistake in its exact words, and what the board makes of the rest."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware import settings, url
from tests.firmware.board import BUILDS, ROOT, interpreter

FILES = sorted((Path(__file__).parent / "settings").glob("*.json"))


def played(build: str, *paths: Path) -> dict[str, dict]:
    """Path -> settings and mistakes."""
    player = ROOT / "tests" / "firmware" / "play_settings.py"
    command = [interpreter(build), "-X", "heapsize=512K", player, ROOT, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {one["path"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module", params=BUILDS)
def all_played(request) -> dict[str, dict]:
    return played(request.param, *FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_mistakes_in_their_words(all_played, path: Path) -> None:
    expected = path.with_suffix(".expected").read_text().splitlines()
    assert all_played[str(path)]["mistakes"] == expected


def test_the_rest_counts(all_played) -> None:
    found = all_played[str(FILES[[one.stem for one in FILES].index("five_mistakes")])]["settings"]
    assert found["name"] == ""
    assert found["wifi"] == {"ssid": "home", "password": "", "country": "", "power_save": False}
    assert found["smtp"] is None  # who may send is not guessed
    assert found["mqtt"]["url"] == "mqtt://192.168.1.2"
    assert found["mqtt"]["keepalive"] == 30
    assert found["serial"] == {"port": "stdio", "baud": 115200, "frames": True, "events": None}


@pytest.mark.parametrize("build", BUILDS)
def test_no_file_is_a_board_that_nobody_has_set_up(tmp_path: Path, build: str) -> None:
    one = played(build, tmp_path / "settings.json")[str(tmp_path / "settings.json")]
    assert one["mistakes"] == []
    assert one["settings"]["smtp"]["port"] == 2525
    assert one["settings"]["mqtt"] is None
    assert one["settings"]["wifi"] is None


def test_ethernet_is_there_when_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"ethernet": {}}')
    assert played("i386", path)[str(path)]["settings"]["ethernet"]


KEYS = st.sampled_from([row[0] for row in settings.SETTINGS])
INNER = st.sampled_from(sorted({row[0] for rows in settings.SETTINGS if isinstance(rows[1], tuple) for row in rows[1]}))
WORDS = st.text(max_size=4) | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
ANYTHING = WORDS | st.lists(WORDS, max_size=2) | st.dictionaries(INNER, WORDS, max_size=3)


@given(st.dictionaries(KEYS | st.text(max_size=6), ANYTHING, max_size=6))
def test_nothing_that_is_json_stops_it(data: dict) -> None:
    before = json.dumps(data, sort_keys=True)
    found, mistakes = settings.check(data)
    assert json.dumps(data, sort_keys=True) == before
    assert set(found) == {row[0] for row in settings.SETTINGS}
    assert all(isinstance(line, str) and line[-1] in ".?" for line in mistakes)


@given(st.text(max_size=60))
def test_no_url_stops_it(text: str) -> None:
    for address in (text, "mqtt://" + text):
        try:
            scheme, host, port, _, _ = url.split(address, url.MQTT)
        except ValueError as error:
            _message, _hint = error.args
        else:
            assert scheme in url.MQTT
            assert host
            assert 0 < port < 65536


def test_urls() -> None:
    assert url.split("mqtts://u:p%41%C3%A4@[fd00::20]:99/", url.MQTT) == ("mqtts", "fd00::20", 99, "u", "pAä")
    assert url.split("mqtt://broker", url.MQTT) == ("mqtt", "broker", 1883, "", "")
    assert url.split("mqtt://u:p@ss@broker", url.MQTT) == ("mqtt", "broker", 1883, "u", "p@ss")


def test_secrets_stay_in() -> None:
    data = {
        "wifi": {"ssid": "home", "password": "secret1"},
        "smtp": {"users": {"cam": "secret2"}},
        "mqtt": {"url": "mqtts://u:secret3@h", "password": "secret4"},
        "update": {"key": "secret5" * 10},
    }
    shown = json.dumps(settings.hide(data))
    assert "secret" not in shown
    assert '"home"' in shown
    assert settings.get(data, "mqtt.url") == "mqtts://***@h"
    assert settings.get(data, "smtp.users") == {"cam": "***"}
    assert settings.get(data, "update.key") == "***"


def test_a_change_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed while it writes settings over and over: the file is always one that was written."""
    file = tmp_path / "settings.json"
    file.write_text('{"name": "n0"}')
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom firmware import settings\n"
        f"for n in range(100000): settings.change('name', 'n' + str(n), {str(file)!r})"
    )
    seen = set()
    for _ in range(5):
        process = subprocess.Popen([interpreter(), "-X", "heapsize=1M", "-c", code])
        name = file.read_text()
        while file.read_text() == name:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen.add(json.loads(file.read_text())["name"])
    assert seen


def test_a_word_of_any_length_is_looked_for_as_fast_as_a_short_one(monkeypatch):
    """It may be a stranger's, over MQTT, and the time grows with its length; a watchdog does not wait."""
    seen = []
    monkeypatch.setattr(settings, "_distance", lambda given, _: seen.append(len(given)) or 99)
    assert settings.nearest("x" * 4000, ("help", "status"), "There are ") == "There are help, status"
    assert max(seen) <= 40
