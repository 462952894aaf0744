"""Integrations in folders and in installed packages: found without an import, refused in plain words."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import api, loader
from gateway.loader import Loader, LoadError

CODE = """
from gateway.api import ConfigModel, Event, Source, Target

class Config(ConfigModel):
    volume: int = 5

class Siren(Target):
    pass
"""


@pytest.fixture(autouse=True)
def _forget_what_was_imported() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("custom_integrations", "acme_mailwire"):
            del sys.modules[name]


def write(folder: Path, code: str | None = CODE, **manifest: Any) -> Path:
    """An integration in a folder; a key of the manifest that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"domain": folder.name, "name": "Siren", "version": "1.0", "provides": ["target"]} | manifest
    text = json.dumps({key: value for key, value in facts.items() if value is not None})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    if code is not None:
        (folder / "__init__.py").write_text(code, encoding="utf-8")
    return folder


def install(site: Path, monkeypatch: pytest.MonkeyPatch, package: str, value: str, name: str = "siren") -> None:
    """As pip leaves an installed package behind: metadata beside the code, in a folder of sys.path."""
    info = site / f"{package.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[mailwire.integrations]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(site)


def refusal(custom: Path, domain: str = "siren") -> str:
    with pytest.raises(LoadError) as caught:
        Loader(custom).load(domain)
    return f"{caught.value}. {caught.value.hint}".replace(f"{custom}/", "").removesuffix(". ")


# --- the built-in ones ---------------------------------------------------------------------------------------------


def test_every_built_in_integration_loads() -> None:
    everything = Loader()
    manifests = everything.manifests()
    assert {"smtp_server", "mqtt"} <= set(manifests)
    for domain in everything.domains():
        loaded = everything.load(domain)
        assert loaded.manifest == manifests[domain]
        assert issubclass(loaded.factory, api.Source) == ("source" in loaded.manifest.provides)
        assert issubclass(loaded.factory, api.Target) == ("target" in loaded.manifest.provides)
        assert issubclass(loaded.factory, api.Service) == ("service" in loaded.manifest.provides)
        assert everything.load(domain) is loaded
        assert everything.find(domain).origin == "built-in"


def test_unknown_domain() -> None:
    with pytest.raises(LoadError, match="there is no integration of type 'smtp_sevrer'") as caught:
        Loader().load("smtp_sevrer")
    assert caught.value.hint == "Did you mean 'smtp_server'?"


@pytest.mark.parametrize("domain", ["../integrations/mqtt", "", ".", "MQTT", "mqtt/client", "__pycache__"])
def test_a_domain_is_never_a_path(domain: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is no integration of type"):
        Loader(tmp_path).load(domain)


# --- custom_integrations -------------------------------------------------------------------------------------------


def test_custom(tmp_path: Path) -> None:
    write(tmp_path / "siren", documentation="https://example.org", codeowners=["@me"], iot_class="local_push")
    found = Loader(tmp_path).find("siren")
    assert (found.origin, found.module) == ("custom", "custom_integrations.siren")
    assert found.manifest.iot_class == "local_push"
    assert "custom_integrations.siren" not in sys.modules
    loaded = Loader(tmp_path).load("siren")
    assert loaded.factory.__name__ == "Siren"
    assert loaded.config_model.model_validate({}).model_dump() == {"volume": 5}


def test_relative_and_absolute_imports_inside(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "siren",
        "from .deep.parts import Siren\nfrom custom_integrations.siren.config import Config\n"
        "__all__ = ['Config', 'Siren']\n",
    )
    (folder / "config.py").write_text("from gateway.api import ConfigModel\n\n\nclass Config(ConfigModel):\n    pass\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "__init__.py").touch()
    (folder / "deep" / "parts.py").write_text(
        "from gateway.api import Target\nfrom ..config import Config\n\n\nclass Siren(Target):\n    model = Config\n"
    )
    assert Loader(tmp_path).load("siren").factory.__module__ == "custom_integrations.siren.deep.parts"


def test_two_folders_do_not_mix(tmp_path: Path) -> None:
    for name, volume in (("one", 1), ("two", 2)):
        write(tmp_path / name / "siren", CODE.replace("= 5", f"= {volume}"))
    volumes = [Loader(tmp_path / name).load("siren").config_model().model_dump() for name in ("one", "two", "one")]
    assert volumes == [{"volume": 1}, {"volume": 2}, {"volume": 1}]


def test_custom_replaces_built_in_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "mqtt")
    with caplog.at_level(logging.WARNING):
        one = Loader(tmp_path)
        assert one.load("mqtt").factory.__name__ == "Siren"
        assert one.manifests()["mqtt"].name == "Siren"
    said = [message for message in caplog.messages if "mqtt" in message]
    assert said == [f"{tmp_path / 'mqtt'} is used instead of the built-in integration 'mqtt'"]


def test_a_broken_custom_one_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "mqtt", "1 / 0\n")
    expected = "'mqtt' can't be imported: mqtt/__init__.py:1: ZeroDivisionError: division by zero"
    assert refusal(tmp_path, "mqtt") == expected


def test_mended_code_counts_after_a_failure(tmp_path: Path) -> None:
    write(tmp_path / "siren", "1 / 0\n")
    one = Loader(tmp_path)
    with pytest.raises(LoadError):
        one.load("siren")
    write(tmp_path / "siren", CODE + "# mended\n")
    assert one.load("siren").factory.__name__ == "Siren"


def test_manifests_leave_out_and_log_what_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "siren", version=None)
    write(tmp_path / "horn")
    (tmp_path / "not-one").mkdir()
    with caplog.at_level(logging.WARNING):
        one = Loader(tmp_path)
        assert {"horn"} <= set(one.manifests())
    assert "siren" not in one.manifests()
    assert "siren" in one.domains()
    words = f"the integration 'siren' is left out: {tmp_path}/siren/manifest.json: the key 'version' is missing"
    assert words in caplog.messages


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"name": None, "version": 1}, "the key 'name' is missing. version: must be text, not a number. Put it in "
         "quotes"),
        ({"provides": ["sink"]}, "provides[0]: must be 'source', 'target' or 'service', not 'sink'"),
        ({"provides": []}, "provides: must have at least 1 of them, not 0"),
        ({"requirement": ["x"]}, "requirement: there is no such key here. Did you mean 'requirements'?"),
        ({"iot_class": "local_psuh"}, "iot_class: must be 'assumed_state', 'calculated', 'cloud_polling', "
         "'cloud_push', 'local_polling', 'local_push' or None, not 'local_psuh'. Did you mean 'local_push'?"),
    ],
)  # fmt: skip
def test_manifest_keys(tmp_path: Path, manifest: dict[str, Any], words: str) -> None:
    write(tmp_path / "siren", **manifest)
    assert refusal(tmp_path) == f"siren/manifest.json: {words}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{\n"domain": siren\n}', "siren/manifest.json:2 is not valid JSON: Expecting value"),
        (b"[]", "siren/manifest.json: must be a set of keys, not a list"),
        (b'{"name": "\xff"}', "siren/manifest.json is not UTF-8"),
    ],
)
def test_manifest_text(tmp_path: Path, text: bytes, words: str) -> None:
    write(tmp_path / "siren")
    (tmp_path / "siren" / "manifest.json").write_bytes(text)
    assert refusal(tmp_path) == words


def test_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "siren").mkdir()
    words = "siren/manifest.json can't be read: No such file or directory. Each integration has one"
    assert refusal(tmp_path) == words


def test_the_domain_is_the_folders_name(tmp_path: Path) -> None:
    write(tmp_path / "siren", domain="horn")
    words = "siren/manifest.json says the domain is 'horn', but it is found as 'siren'. Use one name"
    assert refusal(tmp_path) == words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = (", "'siren' can't be imported: siren/__init__.py:1: SyntaxError: '(' was never closed"),
        ("import acme_bell", "'siren' can't be imported: siren/__init__.py:1: "
         "ModuleNotFoundError: No module named 'acme_bell'. See https://example.org/siren"),
        ("from . import parts", "'siren' can't be imported: siren/parts.py:2: RuntimeError: first line. "
         "See https://example.org/siren"),
        (CODE.replace("class Config(ConfigModel)", "class Config"), "siren/__init__.py has no pydantic model named "
         "'Config'. It is what may be configured: class Config(api.ConfigModel)"),
        (CODE.replace("volume", "type"), "siren/__init__.py: 'Config' has a key 'type', which is what names the "
         "integration. Rename it"),
        (CODE.replace("(Target)", ""), "siren/__init__.py must have one class that is a Source, a Target or both, "
         "or a Service, and has none"),
        (CODE + "\nclass Horn(Source):\n    pass\n", "siren/__init__.py must have one class that is a Source, a Target "
         "or both, or a Service, and has Horn, Siren"),
        (CODE.replace("(Target)", "(Source, Target)"), "Siren in siren/__init__.py is a source and target, but "
         "manifest.json says target. Make both say the same"),
    ],
)  # fmt: skip
def test_code(tmp_path: Path, code: str, words: str) -> None:
    folder = write(tmp_path / "siren", code, documentation="https://example.org/siren")
    (folder / "parts.py").write_text("def f():\n    raise RuntimeError('first line\\nsecond line')\n\n\nf()\n")
    assert refusal(tmp_path).split(". See")[0] == words.split(". See")[0]
    assert ("See" in words) <= ("See https://example.org/siren" in refusal(tmp_path))


def test_both_source_and_target(tmp_path: Path) -> None:
    write(tmp_path / "siren", CODE.replace("(Target)", "(Source, Target)"), provides=["target", "source"])
    assert Loader(tmp_path).load("siren").factory.__name__ == "Siren"


def test_dependencies_must_be_there(tmp_path: Path) -> None:
    write(tmp_path / "siren", dependencies=["mqtt", "smtp_sevrer"])
    words = (
        "'siren' depends on 'smtp_sevrer': there is no integration of type 'smtp_sevrer'. Did you mean 'smtp_server'?"
    )
    assert refusal(tmp_path) == words


@pytest.mark.parametrize("domain", ["apprise", "desktop", "imap", "webhook"])
def test_an_extra_that_is_not_installed_is_named_before_it_is_needed(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> str:
        raise loader.PackageNotFoundError(name)

    monkeypatch.setattr(loader, "version", none)
    with pytest.raises(LoadError, match=f"^'{domain}' needs .*, which is not installed$") as caught:
        Loader().load(domain)
    assert caught.value.hint == f"pip install 'mailwire[{domain}]'"
    assert Loader().load(domain, installed=False)  # what may be configured is known all the same
    Loader().load("smtp_server")  # nobody is asked about what always comes along


def test_every_extra_for_an_integration_is_looked_for() -> None:
    """An integration whose requirements are an extra's is known to the loader as such."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert {one for one in Loader().manifests() if one in extras} == set(loader._EXTRAS)


def test_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "acme-bell", "acme_bell", name="acme_bell")
    custom = tmp_path / "custom"
    write(custom / "siren", requirements=["acme.bell>=1.2,<2", 'acme-winbell>=9; sys_platform == "win32"', "pydantic"])
    Loader(custom).load("siren")
    write(custom / "siren", requirements=["acme-bell>=2"])
    assert refusal(custom) == ("'siren' needs acme-bell>=2, but acme-bell 1.5 is installed. pip install 'acme-bell>=2'")
    write(custom / "siren", requirements=["acme-gong"])
    assert refusal(custom) == "'siren' needs acme-gong, which is not installed. pip install 'acme-gong'"
    write(custom / "siren", requirements=["acme bell"])
    assert refusal(custom) == ("siren/manifest.json: 'acme bell' is no requirement. Write it as for pip: 'name>=1.2'")


def test_an_import_error_points_at_the_requirements(tmp_path: Path) -> None:
    write(tmp_path / "siren", "import acme_bell\n", requirements=["pydantic>=2"])
    assert refusal(tmp_path) == (
        "'siren' can't be imported: siren/__init__.py:1: ModuleNotFoundError: No module named 'acme_bell'. "
        "Is all there that it needs? pip install 'pydantic>=2'"
    )


# --- installed packages --------------------------------------------------------------------------------------------


def test_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "acme_mailwire" / "things" / "siren")
    (tmp_path / "acme_mailwire" / "__init__.py").write_text("raise RuntimeError('imported too early')\n")
    (tmp_path / "acme_mailwire" / "things" / "__init__.py").touch()
    install(tmp_path, monkeypatch, "acme-mailwire", "acme_mailwire.things.siren")
    one = Loader()
    assert one.manifests()["siren"].name == "Siren"
    found = one.find("siren")
    assert (found.origin, found.module) == ("acme-mailwire", "acme_mailwire.things.siren")
    assert found.folder == tmp_path / "acme_mailwire" / "things" / "siren"
    assert "acme_mailwire" not in sys.modules
    (tmp_path / "acme_mailwire" / "__init__.py").write_text("")
    assert one.load("siren").factory.__module__ == "acme_mailwire.things.siren"


def test_a_custom_one_replaces_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "acme_mailwire", domain="siren")
    install(tmp_path, monkeypatch, "acme-mailwire", "acme_mailwire")
    write(tmp_path / "custom" / "siren", name="Custom siren")
    assert Loader().find("siren").origin == "acme-mailwire"
    assert Loader(tmp_path / "custom").find("siren").origin == "custom"


def test_an_installed_one_never_replaces_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "acme_mailwire", domain="mqtt")
    install(tmp_path, monkeypatch, "acme-mailwire", "acme_mailwire", name="mqtt")
    with caplog.at_level(logging.WARNING):
        one = Loader()
        assert one.manifests()["mqtt"].name != "Siren"
    assert one.find("mqtt").origin == "built-in"
    assert "acme_mailwire of the package acme-mailwire is left out: there is another 'mqtt'" in caplog.messages


@pytest.mark.parametrize("value", ["acme_missing", "acme_missing.siren", "acme_mailwire.module"])
def test_an_entry_point_that_names_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    write(tmp_path / "acme_mailwire")
    (tmp_path / "acme_mailwire" / "module.py").touch()
    install(tmp_path, monkeypatch, "acme-mailwire", value)
    words = f"the entry point 'siren' of acme-mailwire names '{value}', which is no package"
    assert refusal(tmp_path / "custom") == words
    assert "siren" not in Loader().manifests()


def test_the_groups_name_is_public() -> None:
    assert loader.GROUP == "mailwire.integrations"
