"""Configurations that are right, and each way of being wrong with its exact words (`tests/configs`)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import config
from gateway.config import ConfigErrors, Settings
from gateway.loader import Loader

CONFIGS = Path(__file__).parent.parent / "configs"
LOADER = Loader(CONFIGS / "custom_integrations")
BAD = sorted(path.relative_to(CONFIGS / "bad") for path in (CONFIGS / "bad").rglob("*.expected"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILWIRE_TEST_PORT", "2525")


def good(name: str) -> Settings:
    return config.load(CONFIGS / "good" / name, loader=LOADER)


def load(folder: Path, text: str, secrets: str = "") -> Settings:
    (folder / "secrets.yaml").write_text(secrets, encoding="utf-8")
    path = folder / "mailwire.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, loader=LOADER)


def words(error: ConfigErrors) -> str:
    """With the parts that differ from one machine and one day to the next made equal."""
    every = ", ".join(LOADER.domains())
    return str(error).replace(f"{CONFIGS / 'bad'}/", "").replace(f"{CONFIGS}/", "").replace(every, "<all types>") + "\n"


@pytest.mark.parametrize("name", BAD, ids=lambda path: path.stem)
def test_bad(name: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.load(CONFIGS / "bad" / name.with_suffix(".yaml"), loader=LOADER)
    assert words(caught.value) == (CONFIGS / "bad" / name).read_text(encoding="utf-8")


def test_every_bad_configuration_has_its_words() -> None:
    parts = {"secrets.yaml", "parts"}
    files = {path.relative_to(CONFIGS / "bad") for path in (CONFIGS / "bad").rglob("*.yaml")}
    assert sorted(path.with_suffix(".expected") for path in files if not parts & set(path.parts)) == BAD
    assert len(BAD) >= 30


def test_five_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.load(CONFIGS / "bad" / "five_mistakes.yaml", loader=LOADER)
    assert [problem.line for problem in caught.value.problems] == [3, 4, 6, 8, 10]
    assert all(problem.hint for problem in caught.value.problems)


def test_a_problem_names_file_line_path_and_hint() -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.load(CONFIGS / "bad" / "route_target_unknown.yaml", loader=LOADER)
    problem = caught.value.problems[0]
    assert (problem.line, problem.path) == (8, "routes[0].to[1]")
    assert problem.file == str(CONFIGS / "bad" / "route_target_unknown.yaml")
    assert (problem.message, problem.hint) == ("there is no integration named 'phnoe'", "Did you mean 'phone'?")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.load(tmp_path / "nowhere.yaml", loader=LOADER)
    assert str(caught.value) == f"{tmp_path}/nowhere.yaml: this file can't be read: No such file or directory."


@pytest.mark.parametrize("path", sorted((CONFIGS / "good").glob("*.yaml")), ids=lambda path: path.stem)
def test_good(path: Path) -> None:
    if path.name != "secrets.yaml":
        config.load(path, loader=LOADER)


def test_without_a_file_mail_comes_in_and_goes_to_the_broker() -> None:
    settings = config.load(None, loader=Loader())
    assert {name: setting.type for name, setting in settings.integrations.items()} == {
        "lan-mail": "smtp_server",
        "broker": "mqtt",
    }
    for setting in settings.integrations.values():
        assert setting.config == type(setting.config)()
    assert (settings.devices, settings.routes, settings.duplicates, settings.log) == ({}, (), 60, "info")
    assert (settings.store.data, settings.store.keep_days) == (None, 30)
    assert (settings.store.keep_size, settings.store.reserve) == (2 * 1024**3, 64 * 1024**2)
    assert (settings.learn.limit, settings.learn.per_peer, settings.learn.forget_days) == (1000, 200, 90)


@pytest.mark.parametrize("name", ["empty.yaml", "sections_without_content.yaml"])
def test_nothing_in_a_file_is_as_good_as_no_file(name: str) -> None:
    assert good(name) == config.load(None, loader=Loader())
    assert good(name).hash() == config.load(None, loader=Loader()).hash()


def test_without_a_file_nothing_is_imported_to_read_one() -> None:
    code = (
        "import sys; from gateway import config, loader; config.load(None, loader=loader.Loader());"
        "heavy = {'ruamel', 'jinja2', 'packaging', 'difflib', 'aiosmtpd'};"
        "print(heavy & {name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


def test_complete() -> None:
    settings = good("complete.yaml")
    panel, phone = settings.integrations["panel"], settings.integrations["phone"]
    assert (panel.type, panel.line) == ("bell", 3)
    assert panel.config.model_dump(mode="json") == {
        "url": "bell://localhost",
        "volume": 3,
        "at_night": False,
        "tone": "gong",
        "password": None,
        "pin": "0000",
        "rooms": [{"name": "Hall", "floor": 0}, {"name": "Attic", "floor": 2}],
        "hours": 24,
        "allow": [],
    }
    assert phone.config.model_dump(mode="json", include={"url", "hours"}) == {
        "url": "bell://house:opensesame@10.0.0.7",
        "hours": [8, 20],
    }
    assert phone.config.password.get_secret_value() == "0123"  # type: ignore[attr-defined]  # a Config of any kind

    door, ups = settings.devices["front_door"], settings.devices["ups"]
    assert (door.name, door.profile, door.manufacturer, door.model) == ("Front door", "hikvision", "Hikvision", None)
    assert (door.off_after, door.patterns()) == (90, {"from": ("cam@lan",)})
    assert ups.off_after == 0
    assert ups.patterns() == {
        "helo": ("ups-*", "apc*"),
        "peer": ("192.168.1.30",),
        "to": ("ups@gw",),
        "subject": ("[[]ups] *",),
        "serial": ("ab12",),
    }

    noise, critical, alarm, rest = settings.routes
    assert (noise.name, noise.to, noise.stop, noise.expire) == ("noise", (), True, None)
    assert noise.condition
    assert noise.condition.patterns() == {"kind": ("print", "job"), "severity": ("info",)}
    assert noise.condition.template is None
    assert (critical.to, critical.expire, critical.stop) == (("phone", "panel"), 900, False)
    assert alarm.condition
    assert alarm.condition.patterns() == {
        "device": ("front_*",),
        "source": ("lan-mail", "sendmail"),
        "to": ("*@alarm.lan",),
        "from": ("cam@lan", "*@cameras.lan"),
        "subject": ("*motion*",),
    }
    assert alarm.condition.template == "{{ data.channel == 'A1' and 'person' in text }}"
    assert (rest.condition, rest.to) == (None, ("panel",))

    assert settings.store.data == CONFIGS / "good" / "kept"
    assert (settings.store.keep_days, settings.store.keep_size, settings.store.reserve) == (7, 512 * 2**20, 2**30)
    assert (settings.learn.limit, settings.learn.per_peer, settings.learn.forget_days) == (50, 5, 14)
    assert (settings.duplicates, settings.log, settings.log_format) == (120, "debug", "json")


def test_includes() -> None:
    settings = good("included.yaml")
    assert settings.integrations["mail"].config.port == 2525  # type: ignore[attr-defined]  # a Config of any kind
    phone = settings.integrations["phone"]
    assert phone.config.url == "bell://house:opensesame@10.0.0.7"  # type: ignore[attr-defined]  # as above
    assert (Path(phone.file).name, phone.line) == ("integrations.yaml", 2)


def test_anchors_and_merges() -> None:
    facts = {name: setting.config.model_dump() for name, setting in good("anchors.yaml").integrations.items()}
    assert {name: (one["volume"], one["tone"], one["at_night"]) for name, one in facts.items()} == {
        "hall": (7, "dong", False),
        "attic": (2, "dong", False),
        "cellar": (7, "dong", True),
    }


def test_yaml_is_1_2() -> None:
    settings = good("yaml_1_2.yaml")
    assert settings.integrations["bell"].config.model_dump(include={"volume", "at_night"}) == {
        "volume": 10,
        "at_night": True,
    }
    assert {key: device.name for key, device in settings.devices.items()} == {"on": "no", "123": "12:30"}


def test_an_integration_that_only_moved_is_the_same(tmp_path: Path) -> None:
    before = load(tmp_path, "integrations:\n  bell: {type: bell, volume: 3}\n")
    moved = load(tmp_path, "log: debug\nintegrations:\n\n  bell:\n    volume: 3\n    type: bell\n")
    louder = load(tmp_path, "integrations:\n  bell: {type: bell, volume: 4}\n")
    assert before.integrations["bell"].line != moved.integrations["bell"].line
    assert before.integrations == moved.integrations
    assert before.integrations != louder.integrations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("1.5", 1.5), ("0", 0), ("90s", 90), ("'90'", 90), ("90 sec", 90), ("2 seconds", 2),
        ("15 min", 900), ("1 minute", 60), ("1h", 3600), ("1.5 hours", 5400), ("7 days", 7 * 86400), ("1 D", 86400),
    ],
)  # fmt: skip
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    assert load(tmp_path, f"duplicates: {text}\n").duplicates == seconds


@pytest.mark.parametrize("text", ["1 fortnight", "5 ms", "h", "-1 h", "1:30", "1 h 30 min", ".inf", ".nan", "[1]"])
def test_no_durations(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigErrors, match=r"mailwire.yaml:1: duplicates: must be "):
        load(tmp_path, f"duplicates: {text}\n")


def test_integrations_take_times_and_sizes_as_people_write_them() -> None:
    configs: dict[str, Any] = {name: setting.config for name, setting in good("units.yaml").integrations.items()}
    mail, broker = configs["lan-mail"], configs["broker"]
    assert (mail.bans.first, mail.timeouts.command, mail.max_size) == (900, 90, 20 * 1024**2)
    assert (broker.keepalive, broker.expiry, broker.image_limit) == (60, 604800, 8 * 1024**2)
    assert type(broker.keepalive) is type(broker.expiry) is int  # as MQTT wants them
    assert (configs["cloud"].every, configs["other"].every) == (300, 3600)
    assert (configs["printer"].expect_within, configs["old"].timeout) == (60, 120)


# --- the hash ------------------------------------------------------------------------------------------------------


def test_hash_follows_what_is_meant_and_not_how_it_is_written(tmp_path: Path) -> None:
    first = load(tmp_path, "integrations:\n  bell: {type: bell, volume: 5, tone: gong}\n").hash()
    same = load(tmp_path, "# louder\nintegrations:\n  bell:\n    tone: gong\n    type: bell\n").hash()
    other = load(tmp_path, "integrations:\n  bell: {type: bell, volume: 6, tone: gong}\n").hash()
    assert first == same
    assert first != other
    assert len(first) == 12
    int(first, 16)


@pytest.mark.parametrize(
    "line",
    [
        "password: {}", "password: !secret it", "url: !secret it", "pin: !secret it", "url: 'bell://me:{}@house'",
        "rooms: [{{name: !secret it}}]",
    ],
)  # fmt: skip
def test_hash_tells_nothing_of_a_secret(tmp_path: Path, line: str) -> None:
    text = "integrations:\n  bell:\n    type: bell\n    "
    hashes = {
        load(tmp_path, text + line.format(it) + "\n", f"it: 'bell://{it}'\n").hash()
        for it in ("opensesame", 'open\\"ä')
    }
    assert len(hashes) == 1


# --- what may never happen -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="ab:-[]{}#&*!|>'\"%@`, \n\t\x07?<", max_size=60))
@example(text="routes: &a [*a]")
@example(text="<<: &a {<<: *a}")
@example(text="integrations: {a: {type: [x]}, b: {type: null}}\nroutes: [{to: {a: b}}, 3, {if: [], to: [[]]}, null]")
def test_any_text_is_a_configuration_or_has_problems(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(ConfigErrors):
        load(folder, text)


@settings(max_examples=100, deadline=None)
@given(secret=st.text(alphabet="ABCDEF01#'\"\\/:@ äß", min_size=4, max_size=20))
@example(secret="bell://A:B@C")
def test_no_message_repeats_a_secret(tmp_path_factory: pytest.TempPathFactory, secret: str) -> None:
    text = """
integrations:
  a: {type: bell, url: !secret it, volume: !secret it, at_night: !secret it, tone: !secret it, rooms: !secret it,
      hours: [!secret it], allow: [!secret it]}
  b: {type: !secret it}
  c: !secret it
devices:
  d: {match: !secret it, off_after: !secret it}
routes:
  - {to: [!secret it], if: {kind: !secret it, template: !secret it, source: !secret it}, expire: !secret it}
store: {keep_size: !secret it, keep_days: !secret it}
log: !secret it
"""
    with pytest.raises(ConfigErrors) as caught:
        load(tmp_path_factory.mktemp("secret"), text, f"it: {json.dumps(secret, ensure_ascii=False)}\n")
    assert len(caught.value.problems) >= 10
    assert secret not in str(caught.value)


# --- for editors ---------------------------------------------------------------------------------------------------


def test_json_schema_knows_every_integration() -> None:
    loader = Loader(CONFIGS / "good")  # a folder without integrations in it: `cracked` can't be imported
    schema = config.json_schema(loader)
    members = schema["properties"]["integrations"]["additionalProperties"]["discriminator"]["mapping"]
    assert set(members) == set(loader.manifests())
    assert "listen" in schema["$defs"]["smtp_server"]["properties"]
    assert schema["$defs"]["smtp_server"]["required"] == ["type"]
    assert {"name", "if", "to", "stop", "expire", "quiet"} < set(schema["$defs"]["RouteSetting"]["properties"])
    json.dumps(schema)
