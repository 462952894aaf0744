"""`user` and `bans`: who may log in, who is kept out, and what the doctor says of both."""

import io
import os
import pty
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway import bans, users

CONFIG = "integrations:\n  lan-mail: {type: smtp_server, login: required%s}\n"


@pytest.fixture
def configure(here):
    def write(text=CONFIG % ""):
        (here / "mailwire.yaml").write_text(text)

    write()
    return write


@pytest.fixture
def user(mailwire, data, configure, monkeypatch):
    def run(*words, given=None):
        monkeypatch.setattr("sys.stdin", io.StringIO(given or ""))
        return mailwire("user", *words, *(["--stdin"] if given is not None else []), "--data", data)

    return run


def test_add_list_check_passwd_and_remove(user, data):
    assert user("add", "cam", given="sesame\n").out == "'cam' may log in to lan-mail.\n"
    path = data / "integrations" / "lan-mail" / "users.json"
    for place, mode in ((path, 0o600), (path.parent, 0o700), (path.parent.parent, 0o700), (data, 0o700)):
        assert stat.S_IMODE(place.stat().st_mode) == mode
    assert "sesame" not in path.read_text()
    assert user("list").lines == ["NAME  SERVER    WHERE", "cam   lan-mail  file"]
    assert user("list", "--json").documents == [{"name": "cam", "server": "lan-mail", "where": "file"}]
    assert user("check", "cam", given="sesame\n")[:2] == (0, "right\n")
    assert user("check", "cam", given="Sesame\n")[:2] == (1, "wrong\n")
    assert user("add", "cam", given="other\n").err == (
        "'cam' is a user of lan-mail already. A new password: mailwire user passwd cam\n"
    )
    assert user("passwd", "cam", given="other\n").out == "'cam' has a new password.\n"
    assert user("check", "cam", given="other\n").code == 0
    assert user("remove", "cam").out == "'cam' may no longer log in to lan-mail.\n"
    for words in (("remove", "cam"), ("check", "cam"), ("passwd", "cam")):
        result = user(*words)
        assert (result.code, result.err) == (
            1,
            "'cam' is no user of lan-mail. `mailwire user list` names those that are.\n",
        )


def test_a_hash_for_the_configuration(user, configure):
    made = user("hash", given="sesame\n").out.strip()
    assert users.parse(made).matches(b"sesame")
    configure(CONFIG % f", users: {{cam: '{made}', nas: plain}}")
    assert user("list").lines[1:] == ["cam   lan-mail  configuration", "nas   lan-mail  configuration"]
    assert user("check", "cam", given="sesame\n").code == 0
    assert user("check", "nas", given="plain\n").code == 0
    assert user("check", "nas", given="Plain\n").code == 1
    for action, what in (("add", "change the password"), ("passwd", "change the password"), ("remove", "remove it")):
        result = user(action, "cam", given="x\n")
        assert (result.code, result.err) == (1, f"'cam' stands in the configuration of lan-mail: {what} there.\n")


def test_a_password_that_is_made_up(user):
    result = user("add", "cam", "--generate")
    assert result.code == 0
    password = result.err.removeprefix("The password is: ").strip()
    assert len(password) == 20
    assert user("check", "cam", given=password + "\n").code == 0


@pytest.mark.parametrize(
    ("words", "given", "code", "said"),
    [
        (["add"], None, 2, "Whom? mailwire user add NAME\n"),
        (["add", "a\nb"], "x\n", 2, "A name has at most 255 characters, and each can be seen.\n"),
        (["add", "cam"], "\n", 1, "The password is empty. Nothing was changed.\n"),
        (["add", "cam"], "x" * 300, 1, "A password has at most 255 characters. Nothing was changed.\n"),
        (
            ["add", "cam"],
            None,
            2,
            "There is no terminal to ask for the password: give it on standard input, with --stdin.\n",
        ),
        (
            ["hash", "sesame"],
            None,
            2,
            "A hash is made of a password alone, and that is never written on a command line.\n",
        ),
        (
            ["list", "--server", "office"],
            None,
            2,
            "The configuration has no SMTP server named 'office': there is nothing to log in to.\n",
        ),
    ],
)
def test_refusals(user, words, given, code, said):
    assert user(*words, given=given) == (code, "", said)


def test_a_damaged_file(user, data):
    user("add", "cam", given="sesame\n")
    path = data / "integrations" / "lan-mail" / "users.json"
    path.write_text('{"cam": 1}')
    for words in (("list",), ("add", "nas"), ("remove", "cam")):
        assert user(*words, given="x\n").err == f"{path}: can't be used: it is to hold names and hashes.\n"


def test_several_servers(user, configure, data):
    configure(
        "integrations:\n  lan: {type: smtp_server}\n"
        "  office: {type: smtp_server, listen: ['0.0.0.0:25'], login: required}\n"
    )
    assert user("add", "cam", given="x\n").out == "'cam' may log in to office.\n"  # the one that checks logins
    result = user("add", "cam", "--server", "lan", given="x\n")
    assert result.out == "'cam' may log in to lan.\n"
    assert result.err == "But lan checks no logins ('login: any'): set 'login: required' there.\n"
    configure("integrations:\n  lan: {type: smtp_server}\n  office: {type: smtp_server}\n")
    assert user("list").err == "There are several SMTP servers: say which with --server (lan, office).\n"


def test_a_terminal_is_asked_twice_and_shows_nothing(here, data, configure):
    """By a real terminal, as a person does."""

    def talk(*answers):
        command = [sys.executable, "-m", "gateway", "user", "add", "cam", "--data", str(data)]
        terminal, other = pty.openpty()
        path = os.environ | {"PYTHONPATH": str(Path(users.__file__).parent.parent)}
        program = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, start_new_session=True, env=path)
        os.close(other)
        seen = b""
        for prompt, answer in zip((b"Password: ", b"once more: "), answers, strict=True):
            while not seen.endswith(prompt):
                seen += os.read(terminal, 1024)
            os.write(terminal, answer + b"\n")
        try:
            while piece := os.read(terminal, 1024):
                seen += piece
        except OSError:  # the other end is closed
            pass
        os.close(terminal)
        return program.wait(20), seen

    code, seen = talk(b"sesame", b"sessame")
    assert code == 1
    assert b"These were two different passwords. Nothing was changed." in seen
    code, seen = talk(b"sesame", b"sesame")
    assert code == 0
    assert b"'cam' may log in to lan-mail." in seen
    assert b"sesame" not in seen


def test_bans_are_listed_and_lifted(mailwire, data, configure, fill):
    fill()
    folder = data / "integrations" / "lan-mail"
    folder.mkdir(parents=True)
    kept = bans.Bans(folder / bans.FOLDER, 900, 86400)
    for peer in ("192.168.1.30", "fe80::1%eth0", "10.0.0.9"):
        kept.impose(peer, 10)
    (folder / bans.FOLDER / "10.0.0.9").write_text('{"until": 1, "failures": 10, "times": 1}')  # is over
    (ban, _) = found = mailwire("bans", "--data", data, "--json").documents
    assert [one["peer"] for one in found] == ["192.168.1.30", "fe80::1%eth0"]
    assert (ban["server"], ban["failures"]) == ("lan-mail", 10)
    assert ban["until"] > time.strftime("%Y-%m-%dT%H:%M")
    assert "192.168.1.30  lan-mail  " in mailwire("bans", "--data", data).lines[1]
    doctor = [one for one in mailwire("doctor", "--data", data, "--json").documents if one["check"] == "ban"]
    assert [one["result"] for one in doctor] == ["warn", "warn"]
    assert doctor[0]["advice"] == "Right its password; to let it in now: mailwire bans lift 192.168.1.30"

    result = mailwire("bans", "lift", "192.168.1.30", "10.0.0.9", "../lan-mail", "--data", data)
    assert result.code == 1
    assert result.lines == [
        "192.168.1.30 is let in again.",
        "10.0.0.9: no such address is kept out.",
        "../lan-mail: no such address is kept out.",
    ]
    assert kept.look() == ["192.168.1.30"]
    assert mailwire("bans", "lift", "--all", "--data", data).lines == ["fe80::1%eth0 is let in again."]
    assert mailwire("bans", "--data", data).lines == ["ADDRESS  SERVER  UNTIL  FAILED LOGINS"]


def test_bans_wrong_use(mailwire, data, configure):
    assert mailwire("bans", "lift", "--data", data).err == "Lift which? Name addresses, or --all.\n"
    assert mailwire("bans", "list", "10.0.0.9", "--data", data).err == (
        "mailwire bans lists all. To let somebody in: mailwire bans lift 10.0.0.9\n"
    )


def test_the_doctor_counts_users(mailwire, data, configure, user):
    user("add", "cam", given="x\n")
    (found,) = [one for one in mailwire("doctor", "--data", data, "--json").documents if one["check"] == "users"]
    assert (found["result"], found["text"]) == ("ok", "lan-mail: 1 can log in")
