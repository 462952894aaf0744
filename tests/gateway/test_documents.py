"""What README.md and the pages for profiles and boards show is what the program takes."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from gateway import config
from gateway.flash import boards, settings
from gateway.loader import Loader
from gateway.profile import check_folder

ROOT = Path(__file__).parents[2]
SECRETS = ("scanner", "mqtt", "post", "cloud", "other", "hook", "phone_url")
# Whom the examples tell, where they don't say themselves who that is.
PEOPLE = {name: {"type": "archive"} for name in ("broker", "phone", "post", "boss", "files", "desktop")}
WHOLE = ("integrations:", "devices:", "routes:", "timezone:")


def examples(page: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


CONFIGURATIONS = [
    pytest.param(text, id=f"{text.split(':')[0]}-{number}")
    for number, text in enumerate(examples("README.md", "yaml"))
    if "scrape_configs" not in text  # which is Prometheus' own
]


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "secrets.yaml").write_text("".join(f"{name}: json://0.0.0.0/{name}\n" for name in SECRETS))
    if not text.startswith(WHOLE):
        text = "integrations:\n" + textwrap.indent(text, "  ")
    missing = {name: how for name, how in PEOPLE.items() if not re.search(rf"^  {name}: *(\{{|$)", text, re.MULTILINE)}
    more = "".join(f"  {name}: {json.dumps(how)}\n" for name, how in missing.items())
    text = re.sub(r"^integrations:.*\n", lambda line: line[0] + more, text, count=1, flags=re.MULTILINE)
    if "integrations:" not in text:
        text += f"integrations:\n{more}"
    (tmp_path / "mailwire.yaml").write_text(text, encoding="utf-8")
    config.load(tmp_path / "mailwire.yaml", loader=Loader(tmp_path / "custom_integrations"))


def test_profile(tmp_path: Path) -> None:
    [text] = examples("gateway/profiles/README.md", "toml")
    (tmp_path / "acme.toml").write_text(text, encoding="utf-8")
    assert check_folder(tmp_path) == []


def test_board(tmp_path: Path) -> None:
    [text] = examples("boards/README.md", "json")
    folder = tmp_path / "MY_BOARD"
    folder.mkdir()
    (folder / boards.FILE).write_text(text, encoding="utf-8")
    assert boards.read(folder).name == "MY_BOARD"


def test_settings_of_a_board() -> None:
    page = (ROOT / "firmware/README.md").read_text(encoding="utf-8")
    for name in ("sensors", "post"):
        [text] = re.findall(rf'^    "{name}": .*?(?=\n\n)', page, re.MULTILINE | re.DOTALL)
        settings.check(json.loads(f"{{{text}}}"))
    serial = re.search(r"\(`serial`\): `(.*?)`", page)
    assert serial
    settings.check({"serial": json.loads(serial[1].replace(" or a UART's number", ""))})
