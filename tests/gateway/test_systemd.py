"""What a service and its manager tell each other, where the environment says nothing, or nonsense."""

import os
import socket
import subprocess
import sys

import pytest

from gateway import systemd


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_to_be_told(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify("READY=1")


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("60000000", None, 60.0),
        ("60000000", "this", 60.0),
        ("60000000", "1", None),  # it is for another process
        (None, None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
)
def test_the_watchdogs_patience(monkeypatch, microseconds, process, seconds):
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", process)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "this" else value)
    assert systemd.watchdog_seconds() == seconds


SCRIPT = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from gateway import systemd
print(systemd.passed.unused())
one = systemd.passed.take("127.0.0.1", int(sys.argv[2]))
print(one is not None, systemd.passed.unused())
if one:
    print(one.get_inheritable(), os.get_inheritable(3))
    one.close()
"""


def passed(other_process, *files):
    """What a program sees that is started with these as its files 3, 4, …"""

    def place():
        for number, file in enumerate(files):
            os.dup2(file.fileno(), 3 + number, inheritable=True)

    listener = files[0]
    command = [sys.executable, "-c", SCRIPT, str(other_process), str(listener.getsockname()[1])]
    done = subprocess.run(
        command,
        preexec_fn=place,
        close_fds=False,
        env=os.environ | {"LISTEN_FDS": str(len(files) + 3)},  # three more than there are
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_sockets_that_are_passed(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as other,
        (tmp_path / "file").open("w") as file,
    ):
        place = f"[('127.0.0.1', {listener.getsockname()[1]})]"
        assert passed(0, listener, other, file) == [place, "True []", "False False"]
        assert passed(1, listener, other, file) == ["[]", "False []"]  # they are for another process
