"""`mailwire desktop`: set up without a terminal and with one, tried with real servers, started at login, undone."""

from __future__ import annotations

import os
import plistlib
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from gateway import keyring, paths
from gateway.cli import autostart
from gateway.config import load
from gateway.loader import Loader
from tests import needs
from tests.certificates import Authority
from tests.desktop import desktop
from tests.live import Gateway
from tests.mosquitto import free_port, mosquitto

__all__ = ["desktop", "mosquitto"]

AWKWARD = ["/opt/my apps/$HOME/100%/mailwire", "desktop", "--config", 'a "b" `c` \\d.yaml']


@pytest.fixture
def no_keyring(monkeypatch):
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    import keyring as library

    library.set_keyring(library.backends.fail.Keyring())


@pytest.fixture
def ring(desktop, tmp_path, monkeypatch):
    """A real keyring, unlocked: gnome-keyring on a bus of its own."""
    program = needs.program("gnome-keyring-daemon", "gnome-keyring")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    process = subprocess.Popen(
        [program, "--foreground", "--unlock", "--components=secrets", f"--control-directory={tmp_path}/keyring"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=desktop.environment
        | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    process.stdin.write(b"opens the ring")
    process.stdin.close()
    import keyring as library
    from keyring.backends import SecretService

    before = library.get_keyring()
    library.set_keyring(SecretService.Keyring())
    deadline = time.monotonic() + 20
    while True:
        try:
            keyring.get("nothing")
            break
        except keyring.NoKeyring:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield library
    library.set_keyring(before)
    process.terminate()
    process.wait(10)


def test_without_a_configuration_it_says_what_to_do(mailwire):
    result = mailwire("desktop")
    assert result.code == 2
    assert "there is no such file yet. `mailwire desktop setup` asks five questions and writes it." in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "There is no terminal to ask on: say it with --broker or --board"),
        (["--broker", "", "--yes"], "Without a broker and without a board there is nothing to show."),
        (["--broker", "mqtt://h:port"], "that is no URL"),
        (["--broker", "http://h"], "integrations.home.url: http:// is not spoken here"),
        (["--broker", "mqtt://h", "--quiet", "25:00"], "routes[0].quiet: '25:00' is no span of time."),
        (["--broker", "mqtt://h", "--mail", "smtps://u@h"], "--mail needs --mail-from"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(mailwire, words, said, tmp_path):
    result = mailwire("desktop", "setup", *words)
    assert result.code == 2
    assert said in result.err
    assert not paths.desktop_config_file().exists()


def test_what_does_not_answer_is_not_written(mailwire, monkeypatch, tmp_path):
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    port = free_port()
    result = mailwire("desktop", "setup", "--broker", f"mqtt://127.0.0.1:{port}")
    assert result.code == 1
    assert re.search(rf"fail +broker +nothing listens on 127.0.0.1:{port}", result.out)
    assert re.search(r"fail +notifications +no notification daemon answers on this desktop", result.out)
    assert "Nothing was written. With --no-test it is written untried." in result.err
    assert not paths.desktop_config_file().exists()


def test_a_board_that_is_not_there_is_told(mailwire, desktop, tmp_path):
    desktop.start_daemon()
    result = mailwire("desktop", "setup", "--board", "/dev/ttyNOPE")
    assert result.code == 1
    assert re.search("fail +board +there is no port /dev/ttyNOPE", result.out)
    assert re.search("ok +notifications", result.out)


def test_the_mail_provider_is_tried_with_a_mail(mailwire, mosquitto, desktop, monkeypatch, tmp_path):
    """The provider is another gateway, which stores what it is sent."""
    desktop.start_daemon()
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    monkeypatch.setenv("MAILWIRE_MAIL_PASSWORD", "hush")
    provider = Gateway(
        tmp_path / "provider",
        'integrations:\n  lan: {type: smtp_server, listen: ["127.0.0.1:0"], tls: implicit, '
        f'certificate: "{authority.certificate}", key: "{authority.key}", users: {{me@example.org: hush}}}}\n',
    )
    words = ["--broker", mosquitto.url, "--secrets", "file", "--quiet", ""]
    with provider:
        mail = ["--mail", f"smtps://me%40example.org@localhost:{provider.port}"]
        result = mailwire("desktop", "setup", *words, *mail)
        assert result.code == 0, result.out + result.err
        assert re.search("ok +mail +a test mail was taken", result.out)
        (event,) = provider.settled(1)
        assert event["title"] == "Mailwire can reach you by mail"
        assert event["mail"]["to"] == ["me@example.org"]
        monkeypatch.setenv("MAILWIRE_MAIL_PASSWORD", "wrong")
        result = mailwire("desktop", "setup", *words, *mail, "--force")
        assert result.code == 1
        assert re.search("fail +mail +.*535", result.out)
        assert mailwire("queue", "--config", paths.desktop_config_file()).out.startswith("Nothing is owed")


def test_where_there_is_no_keyring_a_file_is_offered(mailwire, no_keyring, mosquitto, monkeypatch, tmp_path):
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    monkeypatch.setenv("MAILWIRE_BROKER_PASSWORD", "hush")
    words = ["--broker", f"mqtt://me@127.0.0.1:{mosquitto.port}", "--quiet", "22:00-07:00"]
    result = mailwire("desktop", "setup", *words)
    assert result.code == 1
    assert "The keyring can't be used: this machine has no keyring" in result.err
    assert "With --secrets file passwords are kept in secrets.yaml, which you alone may read." in result.err
    path = paths.desktop_config_file()
    path.parent.mkdir(parents=True)
    path.with_name("secrets.yaml").write_text("other: stays\ndesktop-broker: old\n")
    result = mailwire("desktop", "setup", *words, "--secrets", "file")
    assert result.code == 0, result.err
    assert "hush" not in result.out + path.read_text()
    assert path.with_name("secrets.yaml").read_text() == 'other: stays\ndesktop-broker: "hush"\n'
    assert {file.stat().st_mode & 0o777 for file in (path, path.with_name("secrets.yaml"))} == {0o600}
    settings = load(path, loader=Loader(tmp_path))
    home = settings.integrations["home"].config
    assert (home.user, home.password.get_secret_value(), home.publish) == ("me", "hush", False)
    assert settings.store.data == paths.desktop_data_dir() != paths.data_dir()
    assert settings.routes[0].urgent == ("critical",)
    again = mailwire("desktop", "setup", *words, "--secrets", "file")
    assert again.code == 1
    assert "is there, and stays as it is. With --force it is replaced, and kept as .old." in again.err
    assert mailwire("desktop", "setup", *words, "--secrets", "file", "--force", "--no-test").code == 0
    assert path.with_name("desktop.yaml.old").exists()


def test_passwords_in_a_real_keyring(mailwire, ring, desktop, mosquitto, tmp_path):
    desktop.start_daemon()
    url = f"mqtt://me:hu%20sh@127.0.0.1:{mosquitto.port}"
    result = mailwire("desktop", "setup", "--broker", url, "--autostart", "xdg")
    assert result.code == 0, result.err
    assert re.search(r"ok +notifications", result.out)
    path = paths.desktop_config_file()
    assert "password: !keyring desktop-broker" in path.read_text()
    assert not path.with_name("secrets.yaml").exists()
    assert keyring.get("desktop-broker") == "hu sh"
    config = load(path, loader=Loader(tmp_path)).integrations["home"].config
    assert config.password.get_secret_value() == "hu sh"
    gone = mailwire("desktop", "uninstall")
    assert gone.code == 0
    assert "desktop-broker: removed from the keyring" in gone.out
    assert not autostart.KINDS["xdg"].path().exists()
    assert path.exists()
    assert keyring.get("desktop-broker") is None
    check = mailwire("check", path)
    assert check.code != 0
    assert (
        "there is no 'desktop-broker' in the keyring. Put it there: keyring set mailwire desktop-broker"
        in check.err + check.out
    )


def test_the_doctor_asks_the_daemon(mailwire, desktop, here):
    (here / "desk.yaml").write_text("integrations: {desk: {type: desktop}}\nroutes: [{to: [desk]}]\n")
    words = ["doctor", "--config", here / "desk.yaml", "--data", here / "data", "--json"]
    for answers in (False, True):
        if answers:
            desktop.start_daemon()
        (found,) = [one for one in mailwire(*words).documents if one["check"] == "desk"]
        assert found["result"] == ("ok" if answers else "fail")
        assert ("a notification daemon answers" if answers else "no notification daemon answers") in found["text"]


def test_a_person_is_asked(mosquitto, tmp_path, here):
    """On a real terminal; the password is not shown."""
    ours, theirs = pty.openpty()
    environment = os.environ | {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/none",
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "desktop", "setup"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=needs.CACHE.parent, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    for question, answer in (
        (b"1. ", f"me@127.0.0.1:{mosquitto.port}"), (b"password of me at 127.0.0.1", "hush"), (b"2. ", ""),
        (b"3. ", ""), (b"4. ", "22:00-07:00"), (b"[Y/n]", "y"), (b"5. ", "n"),
    ):  # fmt: skip
        while question not in shown:
            assert select.select([ours], [], [], 30)[0], shown
            shown += os.read(ours, 65536)
        shown = shown.partition(question)[2]
        os.write(ours, f"{answer}\n".encode())
    rest = b""
    try:
        while piece := os.read(ours, 65536):
            rest += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(30) == 0, rest
    assert b"hush" not in rest
    assert b"It is not started by itself: type `mailwire desktop`." in rest
    assert f"127.0.0.1:{mosquitto.port}" in paths.desktop_config_file().read_text()


# --- started at login ----------------------------------------------------------------------------------------------


def test_xdg_autostart_is_read_back_by_its_own_rules():
    text = autostart.xdg(AWKWARD)
    line = re.search("(?m)^Exec=(.*)$", text)[1]
    string = line.replace("\\\\", "\\")  # Desktop Entry Specification, "Possible value types"
    # "quoting rules are like a POSIX shell's", for double quotes
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' {string}"], capture_output=True, text=True, check=True).stdout
    assert [word.replace("%%", "%") for word in said.splitlines()] == AWKWARD
    assert text.startswith("[Desktop Entry]\nType=Application\n")


def test_systemd_unit_verifies(tmp_path):
    text = autostart.systemd([sys.executable, "-m", "gateway", "desktop", "--config", "a b%$x.yaml"])
    assert "ExecStart=" in text
    assert '"a b%%$$x.yaml"' in text
    unit = tmp_path / "mailwire-desktop.service"
    unit.write_text(text)
    verify = needs.program("systemd-analyze", "systemd")
    done = subprocess.run([verify, "--user", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "mailwire-desktop" not in done.stderr


def test_launchd_agent():
    agent = plistlib.loads(autostart.launchd(AWKWARD).encode())
    assert agent["ProgramArguments"] == AWKWARD
    assert agent["RunAtLoad"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_windows_start_up():
    text = autostart.windows(["C:\\my apps\\mailwire.exe", "desktop", "--config", "100%.yaml"])
    assert text.splitlines()[1] == '@start "Mailwire" /min "C:\\my apps\\mailwire.exe" desktop --config 100%%.yaml'
    assert text.endswith("\r\n")


@pytest.mark.parametrize("kind", autostart.KINDS)
def test_one_autostart_takes_the_place_of_another(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    first = autostart.install("xdg", ["/bin/mailwire", "desktop"])
    second = autostart.install(kind, ["/bin/mailwire", "desktop"])
    assert second.exists()
    assert first.exists() is (kind == "xdg")
    assert autostart.remove() == [second]
    assert autostart.remove() == []
