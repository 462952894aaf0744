"""`service`: the units are what systemd understands, as closed as they can be, and never overwrite a person's work."""

import argparse
import errno
import os
import re
import smtplib
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import common, service
from tests import needs
from tests.live import Gateway

PYTHON = service.program_word(Path(sys.executable))  # in quotes where there is a blank in it

MOST_EXPOSED = 20  # tenths, of 100: systemd's own services are between 2.0 and 9.6
UNIT = "etc/systemd/system/mailwire.service"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_DIRS")  # the machine's configuration is where it is on any machine
    return tmp_path / "a root"


@pytest.fixture
def install(mailwire, root):
    def run(*words, action="install"):
        return mailwire("service", action, "--root", root, *words)

    return run


def settings(path):
    return dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE))


def analyze(*words):
    program = needs.program("systemd-analyze", "systemd")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)


def test_the_whole_machine(install, root):
    result = install()
    assert result.code == 0
    assert result.lines == [
        f"{root}/etc/sysusers.d/mailwire.conf: written",
        f"{root}/{UNIT}: written",
        f"{root}/etc/systemd/system/mailwire.socket: written",
        f"{root}/etc/xdg/mailwire/mailwire.yaml: written",
    ]
    unit = settings(root / UNIT)
    assert unit["ExecStart"] == f"{PYTHON} -I -m gateway run --config /etc/xdg/mailwire/mailwire.yaml"
    assert unit["User"] == "mailwire"
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert (unit["ProtectSystem"], unit["WatchdogSec"], unit["Type"]) == ("strict", "60", "notify")
    assert "@" not in (root / UNIT).read_text().replace("@system-service", "").replace("~@privileged @resources", "")
    again = install()
    assert (again.code, {line.partition(": ")[2] for line in again.lines}) == (0, {"is as it should be"})


def test_systemd_understands_the_units(install, root, monkeypatch):
    install()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    for name in ("mailwire.service", "mailwire.socket"):
        done = analyze("verify", "--man=no", root / "etc/systemd/system" / name)
        assert (done.returncode, done.stderr) == (0, "")
    done = analyze("verify", "--man=no", "--user", _user_unit(root))
    assert (done.returncode, done.stderr) == (0, "")


def _user_unit(folder):
    path = folder / "user" / "mailwire.service"
    path.parent.mkdir()
    text = (service._UNITS / "mailwire-user.service").read_text()
    path.write_text(text.replace("@python@", PYTHON).replace("@options@", ""))
    return path


def test_the_service_is_closed(install, root):
    install()
    done = analyze(
        "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", f"--root={root}", "mailwire.service"
    )
    assert done.returncode == 0, done.stdout
    assert float(re.search(r"Overall exposure level for mailwire.service: ([\d.]+)", done.stdout)[1]) <= 2.0


def allowed(name):
    """The system calls of one of systemd's groups."""
    calls = set()
    for line in analyze("syscall-filter", name).stdout.splitlines()[1:]:
        word = line.strip()
        calls |= allowed(word) if word.startswith("@") else {word} if word and not word.startswith("#") else set()
    return calls


class Traced(Gateway):
    def command(self, *args):
        trace = ["strace", "-f", "-qq", "-o", str(self.folder / "trace")] if args[0] == "run" else []
        return [*trace, *super().command(*args)]

    @property
    def child(self):
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    def terminate(self):
        if self.process.poll() is None:
            os.kill(self.child, 15)
        return self._gone()


def test_the_gateway_asks_for_no_system_call_that_is_not_allowed(tmp_path):
    """With Mosquitto as its child, TLS made and used, users, a spooled mail and a reload."""
    strace = needs.program("strace", "strace")
    needs.program("mosquitto", "mosquitto")
    if subprocess.run([strace, "-o", os.devnull, "true"], check=False).returncode:
        needs.missing("strace may not trace here")
    config = """
integrations:
  lan: {type: smtp_server, listen: ["127.0.0.1:0"], tls: required, users: {cam: sesame}, login: optional}
  broker: {type: mqtt}
"""
    with Traced(tmp_path, config) as gateway:
        with smtplib.SMTP("127.0.0.1", gateway.port, timeout=30) as client:
            client.starttls()
            client.login("cam", "sesame")
            for size in (10, 3_000_000):
                client.sendmail("cam@lan", ["a@gw"], b"Subject: x\r\n\r\n" + b"x" * size)
        gateway.settled(2)
        os.kill(gateway.child, 1)
        gateway.logged("configuration read again")
        gateway.terminate()
    calls = set(re.findall(r"^\d+ +(\w+)\(", (tmp_path / "trace").read_text(errors="replace"), re.MULTILINE))
    right = (allowed("@system-service") - allowed("@privileged") - allowed("@resources")) | allowed("@default")
    right.add("sched_setscheduler")  # which the unit gives back
    assert len(calls) > 50
    assert calls - right <= ({"fchown"} if os.geteuid() == 0 else set())  # SQLite's, and for root alone


def test_a_path_with_blanks_and_signs(mailwire, root, tmp_path, monkeypatch):
    python = tmp_path / "a b $HOME 100%" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    config = tmp_path / 'my "own" $HOME mailwire.yaml'
    config.write_text("integrations: {lan: {type: smtp_server, listen: ['127.0.0.1:25', '[::1]:25', '127.0.0.1:0']}}\n")
    assert mailwire("service", "install", "--root", root, "--config", config, "--data", tmp_path / "d").code == 0
    written = settings(root / UNIT)
    assert written["ExecStart"] == (
        f'"{tmp_path}/a b $HOME 100%%/python" -I -m gateway run '
        f'--config "{tmp_path}/my \\"own\\" $$HOME mailwire.yaml" --data {tmp_path}/d'
    )
    assert written["ReadWritePaths"] == f"{tmp_path}/d"
    assert "StateDirectory" not in written
    done = analyze("verify", "--man=no", root / UNIT)
    assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.setattr(sys, "executable", "/opt/it's/python")
    assert mailwire("service", "show").err == (
        "/opt/it's/python: systemd can't start a program whose path has a quote or a backslash. Install it elsewhere.\n"
    )
    socket = (root / "etc/systemd/system/mailwire.socket").read_text()
    assert re.findall("ListenStream=(.*)", socket) == ["127.0.0.1:25", "[::1]:25"]
    assert not (root / "etc/xdg").exists()


def test_a_serial_port_that_is_configured_is_seen_by_the_service(install, root, tmp_path):
    config = tmp_path / "mailwire.yaml"
    config.write_text("integrations: {panel: {type: serial, port: 'socket://127.0.0.1:4000'}}\n")
    install("--config", config)
    assert settings(root / UNIT)["PrivateDevices"] == "yes"
    config.write_text("integrations: {panel: {type: serial, port: '10C4:EA60'}}\n")
    install("--config", config)
    written = settings(root / UNIT)
    assert "PrivateDevices" not in written
    assert written["SupplementaryGroups"] == service._group_of_ports()
    assert "DevicePolicy=closed\nDeviceAllow=char-ttyUSB rw\nDeviceAllow=char-ttyACM rw\n" in (root / UNIT).read_text()
    done = analyze("verify", "--man=no", root / UNIT)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_somebody_changed_is_kept(install, root):
    install()
    unit, config = root / UNIT, root / "etc/xdg/mailwire/mailwire.yaml"
    changed = unit.read_text().replace("RestartSec=2", "RestartSec=20")
    unit.write_text(changed)
    config.write_text("{}\n")
    result = install()
    assert result.code == 1
    assert (
        f"{unit}: was changed by somebody, and stays as it is. With --force it is replaced (and kept as .old)."
        in result.lines
    )
    assert f"{config}: is there, and stays as it is" in result.lines
    assert unit.read_text() == changed
    result = install(action="uninstall")
    assert result.code == 1
    assert f"{unit}: was changed by somebody, and stays. With --force it is removed." in result.lines
    assert install("--force").code == 0
    assert (unit.with_name("mailwire.service.old").read_text(), config.read_text()) == (changed, "{}\n")
    assert "RestartSec=2\n" in unit.read_text()


def test_units_of_another_version_are_replaced(install, root):
    path = root / UNIT
    path.parent.mkdir(parents=True)
    path.write_text(service._signed("[Service]\nType=simple\n"))
    assert install().code == 0
    assert settings(path)["Type"] == "notify"
    assert not path.with_name("mailwire.service.old").exists()


def test_uninstall_removes_what_was_installed_and_no_more(install, root):
    install()
    result = install("--dry-run", action="uninstall")
    assert f"{root}/{UNIT}: would be removed" in result.lines
    result = install(action="uninstall")
    assert f"{root}/{UNIT}: removed" in result.lines
    assert f"{root}/etc/xdg/mailwire/mailwire.yaml: stays, as the data does" in result.lines
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["mailwire.yaml"]


def test_a_dry_run_writes_nothing_and_says_what_comes_then(mailwire, monkeypatch, tmp_path):
    monkeypatch.setattr(service, "_SYSTEM", tmp_path / "units")
    monkeypatch.setattr(service, "_SYSUSERS", tmp_path / "users")
    monkeypatch.setattr(service, "_is_reachable", lambda args: None)
    result = mailwire("service", "install", "--dry-run")
    assert result.code == 0
    assert f"{tmp_path}/units/mailwire.service: would be written" in result.lines
    assert "    WantedBy=multi-user.target" in result.lines
    sudo = "" if os.geteuid() == 0 else "sudo "
    where = result.lines.index("Then you would type:")
    assert result.lines[where + 1 :][:3] == [
        f"  {sudo}systemd-sysusers",
        f"  {sudo}systemctl daemon-reload",
        f"  {sudo}systemctl enable --now mailwire.service",
    ]
    assert not (tmp_path / "units").exists()


def test_who_reads_no_further_has_seen_enough(monkeypatch, tmp_path):
    def closed(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    parser = argparse.ArgumentParser()
    common.add_options(parser)
    service.add(parser)
    args = parser.parse_args(["install", "--dry-run", "--root", str(tmp_path)])
    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):  # which the front door takes for an end; it is no trouble with a file
        service.run(args)


def test_a_service_of_ones_own(mailwire, here, tmp_path):
    (here / "mailwire.yaml").write_text("{}\n")
    result = mailwire("service", "install", "--user")
    units = tmp_path / "home" / "systemd/user"
    assert result.code == 0
    assert result.lines[:2] == [f"{units}/mailwire.service: written", f"{units}/mailwire.socket: written"]
    assert (
        "Note: the mailwire.yaml in this folder is not the service's: if it shall be, name it with --config."
        in result.lines
    )
    assert "  systemctl --user enable --now mailwire.service" in result.lines
    unit = settings(units / "mailwire.service")
    assert unit["ExecStart"] == f"{PYTHON} -I -m gateway run"
    assert "User" not in unit
    assert "AmbientCapabilities" not in unit
    result = mailwire("service", "uninstall", "--user")
    assert result.lines[0] == ("If it runs, stop it: systemctl --user disable --now mailwire.service mailwire.socket")
    assert list(units.iterdir()) == []


def test_show(mailwire):
    result = mailwire("service", "show")
    assert result.code == 0
    assert "# /etc/systemd/system/mailwire.service" in result.lines
    assert "ListenStream=[::]:2525" in result.lines


def test_a_program_that_the_service_can_not_reach(mailwire, tmp_path, monkeypatch):
    private = tmp_path / "private"
    (private / "venv").mkdir(parents=True)
    private.chmod(0o700)
    monkeypatch.setattr(service, "_program", lambda: [private / "venv"])
    result = mailwire("service", "install")
    assert result.code == 1
    assert result.err.startswith(
        f"{private}: the user 'mailwire' must enter this folder, for this program is in it, and may not. "
    )


def test_without_the_right(mailwire, monkeypatch, tmp_path):
    def refuse(path, text, keep):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(service, "_write", refuse)
    result = mailwire("service", "install", "--root", tmp_path / "r")
    assert (result.code, result.err) == (
        1,
        f"{tmp_path}/r/etc/sysusers.d/mailwire.conf: this user may not write here. "
        "Run this as root (sudo), or for yourself alone with --user.\n",
    )
