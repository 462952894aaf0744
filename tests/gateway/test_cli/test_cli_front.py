"""The front door, where configuration and data are looked for, what a terminal is given, `check` and `integrations`."""

import argparse
import asyncio
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.__main__ import COMMANDS
from gateway.api import Context
from gateway.cli import common, show
from gateway.loader import Loader

# --- the front door ------------------------------------------------------------------------------------------------


def test_help_and_version(mailwire):
    for words in (["--help"], ["-h"], ["help"]):
        result = mailwire(*words)
        assert result.code == 0
        assert result.lines[0] == "usage: mailwire COMMAND [OPTION...]"
        for name, about in COMMANDS.items():
            assert f"  {name:<14}{about}" in result.lines
    assert mailwire("--version") == (0, f"mailwire {__version__}\n", "")


def test_without_a_command_the_commands_are_told(mailwire):
    result = mailwire()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("usage: mailwire COMMAND")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("evnts", "mailwire: there is no command 'evnts'. Did you mean 'events'?"),
        ("xyzzy", "mailwire: there is no command 'xyzzy'. `mailwire --help` lists the commands."),
        (
            "--data",
            "mailwire: the command comes first: mailwire COMMAND --data ...\n`mailwire --help` lists the commands.",
        ),
    ],
)
def test_no_such_command(mailwire, word, words):
    assert mailwire(word, "events") == (2, "", words + "\n")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "sendmail"])
def test_every_command_has_help_and_the_common_options(mailwire, name):
    result = mailwire(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: mailwire {name} ")
    assert mailwire(name, "-h") == result
    assert "--config FILE" in result.out
    assert "--data FOLDER" in result.out


def test_sendmail_has_help_of_its_own(mailwire):
    result = mailwire("sendmail", "--help")
    assert result.code == 0
    assert result.out.startswith("usage: mailwire sendmail [-t]")


def test_an_unknown_option_is_wrong_use(mailwire):
    result = mailwire("events", "--folow")
    assert result.code == 2
    assert "mailwire events: error: unrecognized arguments: --folow" in result.err


def modules_of(*words):
    code = (
        "import sys; from gateway.__main__ import main\n"
        f"try: main(['mailwire', *{list(words)!r}])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(result.stderr.split())


def test_help_starts_without_what_takes_long_to_import():
    assert not modules_of("--help") & {"pydantic", "sqlite3", "asyncio", "argparse", "email", "ssl", "ruamel"}
    assert not modules_of("events", "--help") & {"pydantic", "sqlite3", "asyncio", "email", "ssl", "gateway.config"}


def test_listing_events_reads_no_configuration_where_there_is_none(ids, data):
    loaded = modules_of("events", "--data", str(data))
    assert "gateway.store" in loaded
    assert not loaded & {
        "gateway.config",
        "gateway.loader",
        "gateway.interpret",
        "ruamel.yaml",
        "jinja2",
        "paho",
    }


def test_ctrl_c_is_quiet(mailwire, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.check.run", interrupted)
    assert mailwire("check") == (130, "", "\n")


# --- where things are ----------------------------------------------------------------------------------------------


@pytest.fixture
def args():
    return argparse.Namespace(config=None, data=None)


def test_the_configuration_by_its_places(args, here, tmp_path, monkeypatch):
    assert common.config_path(args) is None
    own = tmp_path / "home" / "mailwire" / "mailwire.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert common.config_path(args) == own
    (here / "mailwire.yaml").write_text("{}")
    assert common.config_path(args) == Path("mailwire.yaml")
    monkeypatch.setenv("MAILWIRE_CONFIG", str(tmp_path / "named.yaml"))
    assert common.config_path(args) == tmp_path / "named.yaml"
    args.config = Path("option.yaml")
    assert common.config_path(args) == Path("option.yaml")


def test_the_data_folder_by_its_places(args, here, tmp_path, monkeypatch):
    assert common.data_folder(args) == tmp_path / "home" / "mailwire"
    monkeypatch.setenv("MAILWIRE_DATA", str(tmp_path / "environment"))
    assert common.data_folder(args) == tmp_path / "environment"
    (here / "mailwire.yaml").write_text(f"store: {{data: {tmp_path / 'configured'}}}\n")
    assert common.data_folder(args) == tmp_path / "configured"
    assert common.settings(args).folder == tmp_path / "configured"
    args.data = tmp_path / "option"
    assert common.data_folder(args) == tmp_path / "option"
    assert common.settings(args).folder == tmp_path / "option"


def test_a_broken_configuration_does_not_matter_where_the_data_is_named(mailwire, here, ids, data):
    (here / "mailwire.yaml").write_text("nonsense: 1\n")
    assert mailwire("mails", "--data", data).code == 0
    result = mailwire("mails")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("mailwire.yaml:1: nonsense: there is no such key here")


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 移动 🎥", "Grüße, 移动 🎥"),
        ("a\r\n\tb\u00a0c\u2028d", "a   b c d"),
        ("\x1b[2J\x07\x7f\x9b", r"\x1b[2J\x07\x7f\x9b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_plain(text, shown):
    assert show.plain(text) == shown
    assert show.plain(shown) == shown


def test_json_is_readable_harmless_and_the_same():
    value = {"a": "Grüße 移动 \x1b\x9b\u202e\ud800\U000e0001\n", "b": [1, None]}
    line = show.json_line(value)
    assert line.isprintable()
    assert json.loads(line) == value
    assert line.startswith('{"a": "Grüße 移动 ')
    assert json.loads(show.json_line(value, indent=2)) == value


def test_widths_are_those_of_a_terminal():
    assert [show.width(text) for text in ("abc", "移动", "u\u0308", "")] == [3, 4, 1, 0]
    assert show.cut("移动侦测", 5) == "移动…"
    assert show.cut("abc", 3) == "abc"
    assert show.cut("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 30, "3.0 GiB")]
)
def test_sizes(count, shown):
    assert show.size(count) == shown


def test_on_a_terminal_lines_are_cut_to_its_width(ids, data):
    command = f"stty cols 60; exec '{sys.executable}' -m gateway mails --data '{data}'"
    master, slave = pty.openpty()
    process = subprocess.Popen(["sh", "-c", command], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # so Linux says that the other side is closed
        pass
    os.close(master)
    assert process.wait(60) == 0
    lines = shown.decode().splitlines()
    assert len(lines) == 4
    assert [show.width(line) for line in lines[1:]] == [60, 60, 60]
    assert all(line.endswith("…") for line in lines[1:])


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_of_nothing_and_of_a_good_file(mailwire, here):
    assert mailwire("check") == (
        0, "No configuration file, so the defaults: fine. 2 integrations, 0 routes, 0 devices.\n", ""
    )  # fmt: skip
    (here / "good.yaml").write_text(
        "integrations:\n  lan: {type: smtp_server}\n  broker: {type: mqtt}\n"
        "devices:\n  door: {match: {from: cam@lan}}\nroutes:\n  - {to: broker}\n"
    )
    wanted = (0, "good.yaml: fine. 2 integrations, 1 route, 1 device.\n", "")
    assert mailwire("check", "good.yaml") == wanted
    assert mailwire("check", "--config", "good.yaml") == wanted


def test_check_prints_all_mistakes_at_once(mailwire, here):
    (here / "bad.yaml").write_text(
        "integrations:\n  lan: {type: smtp_servr}\n  broker: {type: mqtt, keepalive: often}\n"
        "routes:\n  - {to: brokr}\nlogg: info\n"
    )
    result = mailwire("check", "bad.yaml")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "bad.yaml:2: integrations.lan.type: there is no integration of type 'smtp_servr'. Did you mean 'smtp_server'?",
        "bad.yaml:3: integrations.broker.keepalive: must be a whole number, not 'often'.",
        "bad.yaml:5: routes[0].to: there is no integration named 'brokr'. Did you mean 'broker'?",
        "bad.yaml:6: logg: there is no such key here. Did you mean 'log'?",
    ]


def test_the_schema_for_editors(mailwire):
    result = mailwire("check", "--schema")
    assert result.code == 0
    assert {"integrations", "devices", "routes", "store"} <= json.loads(result.out)["properties"].keys()


def test_check_of_a_file_that_is_not_there(mailwire):
    result = mailwire("check", "none.yaml")
    assert result.code == 2
    assert "none.yaml" in result.err


# --- integrations --------------------------------------------------------------------------------------------------


def test_integrations_are_listed(mailwire):
    result = mailwire("integrations")
    assert result.code == 0
    assert result.lines[0].split() == ["TYPE", "NAME", "VERSION", "PROVIDES", "FROM"]
    assert any(line.split() == ["archive", "Archive", __version__, "target", "built-in"] for line in result.lines)
    documents = {document["domain"]: document for document in mailwire("integrations", "--json").documents}
    assert documents["smtp_server"]["provides"] == ["source"]
    assert documents["smtp_server"]["origin"] == "built-in"


def test_a_new_integration_works_as_it_is(mailwire, here, tmp_path, caplog):
    result = mailwire("integrations", "new", "acme_siren")
    assert result.code == 0
    assert "integrations:\n  my-acme-siren: {type: acme_siren}\n" in result.out
    assert any(
        line.split() == ["acme_siren", "AcmeSiren", "0.1.0", "target", "custom_integrations/acme_siren"]
        for line in mailwire("integrations").lines
    )
    (here / "mailwire.yaml").write_text(
        "integrations:\n  lan: {type: smtp_server}\n  my-siren: {type: acme_siren, greeting: hello}\n"
        "routes:\n  - {to: my-siren}\n"
    )
    assert mailwire("check").out == "mailwire.yaml: fine. 2 integrations, 1 route, 0 devices.\n"
    loaded = Loader(here / "custom_integrations").load("acme_siren")
    log = logging.getLogger("siren")
    context = Context("my-siren", tmp_path, log, None, None, None, None, None)
    target = loaded.factory(context, loaded.config_model(greeting="hello"))

    async def deliver():
        await target.start()
        await target.deliver({"device": {"id": "door"}, "title": "Motion"})
        await target.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(deliver())
    assert caplog.messages == ["hello door: Motion"]
    assert target.describe() == "tells events to the log"
    code = (here / "custom_integrations" / "acme_siren" / "__init__.py").read_text()
    assert "class AcmeSiren(Target):" in code


def test_a_new_integration_never_overwrites(mailwire, tmp_path):
    assert mailwire("integrations", "new", "siren", "--dir", tmp_path / "mine").code == 0
    result = mailwire("integrations", "new", "siren", "--dir", tmp_path / "mine")
    assert (result.code, result.err) == (1, f"{tmp_path}/mine/siren is there already, and was left as it is.\n")


def test_a_new_integration_has_a_name_of_its_own(mailwire, here):
    result = mailwire("integrations", "new", "mqtt")
    assert (result.code, result.err) == (
        1,
        "There is an integration 'mqtt' already (`mailwire integrations` lists them). Choose another name.\n",
    )
    assert list(here.iterdir()) == []


def test_names_of_integrations(mailwire):
    result = mailwire("integrations", "new", "Acme Siren")
    assert result.code == 2
    assert result.err == ("'Acme Siren' can't be an integration's name: write a-z, 0-9 and _, such as acme_siren.\n")
    assert mailwire("integrations", "new").code == 2
    assert mailwire("integrations", "list", "siren").err == (
        "mailwire integrations lists all. To begin one, write: mailwire integrations new siren\n"
    )
