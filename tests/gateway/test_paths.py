"""Where the configuration and the data are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import paths


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MAILWIRE_CONFIG", "MAILWIRE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "machine"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def test_no_file_is_no_file() -> None:
    assert paths.config_file() is None


def test_the_persons_file_comes_before_the_machines(tmp_path: Path) -> None:
    machine, mine = (tmp_path / who / "mailwire" / "mailwire.yaml" for who in ("machine", "mine"))
    for path in (machine, mine):
        path.parent.mkdir(parents=True)
    machine.touch()
    assert paths.config_file() == machine
    mine.touch()
    assert paths.config_file() == mine == paths.default_config_file()


def test_the_environment_names_the_file_whether_it_is_there_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILWIRE_CONFIG", "~/house.yaml")
    assert paths.config_file() == tmp_path / "house.yaml"


def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.data_dir() == tmp_path / "data" / "mailwire"
    monkeypatch.setenv("MAILWIRE_DATA", "~/kept")
    assert paths.data_dir() == tmp_path / "kept"
    assert not (tmp_path / "kept").exists()
