"""`doctor`: each check, well and in trouble."""

import os
import socket
import stat
import sys
import threading
import time

import pytest

from gateway.cli import doctor
from gateway.store import Store


class Answering:
    """A port that says one thing to everybody who connects."""

    def __init__(self, greeting):
        self.greeting = greeting
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.greeting)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def configure(here, port):
    """Writes a configuration with one listener and one broker, by default on ports where nobody is."""

    def write(smtp=None, broker="auto", host="127.0.0.1", more=""):
        (here / "mailwire.yaml").write_text(
            "integrations:\n"
            f'  lan: {{type: smtp_server, listen: ["{host}:{port if smtp is None else smtp}"]}}\n'
            f"  broker: {{type: mqtt, url: {broker}}}\n{more}"
        )

    write()
    return write


@pytest.fixture
def examine(mailwire, data):
    def run(*words):
        result = mailwire("doctor", "--json", "--data", data, *words)
        found = {}
        for document in result.documents:
            assert list(document) == ["check", "result", "text", "advice"]
            found.setdefault(document["check"], document)
        return result.code, found

    return run


def test_a_machine_before_the_first_start(mailwire, configure, data, port, examine):
    code, found = examine()
    assert code == 0
    assert found["python"]["text"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["configuration"]["text"] == "mailwire.yaml: 2 integrations, 0 routes, 0 devices"
    assert found["data"]["text"] == f"{data}: not there yet; it is made at the first start"
    assert found["gateway"] == {
        "check": "gateway",
        "result": "warn",
        "text": "does not run",
        "advice": "Start it with: mailwire run",
    }
    assert found["smtp"]["text"] == f"lan 127.0.0.1:{port}: free for the gateway"
    assert not data.exists()
    result = mailwire("doctor", "--data", data)
    assert result.code == 0
    assert "warn  gateway        does not run" in result.lines
    assert f"{'':<20} Start it with: mailwire run" in result.lines


def test_a_gateway_that_runs(configure, data, ids, examine):
    store = Store(data)
    store.open(exclusive=True)
    try:
        with Answering(b"220 gw.lan ESMTP\r\n") as smtp, Answering(b"") as broker:
            configure(smtp.port, f"mqtt://127.0.0.1:{broker.port}")
            code, found = examine()
    finally:
        store._lock.close()
    assert code == 0
    assert found["data"]["text"] == f"{data}: writable, for this user alone"
    assert found["fsync"]["text"].endswith(" ms for one fsync")
    assert found["store"]["text"].startswith("3 mails, ")
    assert found["store"]["text"].endswith(", schema 5")
    assert found["queue"]["result"] == "warn"
    assert found["queue"]["text"] == "0 uninterpreted, 3 waiting, 0 held, 3 dead, 0 expired"
    assert found["queue"]["advice"] == "See which, and why: mailwire queue"
    assert found["gateway"]["result"] == "ok"
    assert found["smtp"]["text"] == f"lan 127.0.0.1:{smtp.port}: 220 gw.lan ESMTP"
    assert found["broker"]["text"] == f"broker: 127.0.0.1:{broker.port} answers"


def test_a_gateway_that_runs_but_does_not_listen(configure, data, port, fill, examine):
    fill()
    store = Store(data)
    store.open(exclusive=True)
    try:
        code, found = examine()
    finally:
        store._lock.close()
    assert code == 1
    assert found["smtp"]["text"] == f"lan 127.0.0.1:{port}: the gateway runs, but does not listen here"


def test_a_gateway_that_lets_this_machine_not_in(configure, data, examine):
    store = Store(data)
    store.open(exclusive=True)
    try:
        with Answering(b"554 5.7.1 127.0.0.1 may not send mail to this gateway\r\n") as smtp:
            configure(smtp.port)
            code, found = examine()
    finally:
        store._lock.close()
    assert (code, found["smtp"]["result"]) == (0, "warn")
    assert found["smtp"]["text"] == (
        f"lan 127.0.0.1:{smtp.port}: answers, but not this machine: "
        "554 5.7.1 127.0.0.1 may not send mail to this gateway"
    )


def test_a_port_that_another_program_has_taken(configure, examine):
    with Answering(b"220 postfix\r\n") as other:
        configure(other.port)
        code, found = examine()
    assert code == 1
    assert found["smtp"]["text"] == f"lan 127.0.0.1:{other.port}: another program has this port: 220 postfix"
    assert f"(process {os.getpid()}): stop that one, or listen on another port." in found["smtp"]["advice"]


def test_a_port_where_something_else_answers(configure, examine):
    with Answering(b"SSH-2.0-\x1b[2J\r\n") as other:
        configure(other.port)
        code, found = examine()
    assert code == 1
    assert found["smtp"]["text"] == rf"lan 127.0.0.1:{other.port}: no SMTP server answers there: 'SSH-2.0-\x1b[2J'"


def test_an_address_that_is_not_of_this_machine(configure, examine):
    configure(2525, host="[100::1]")
    code, found = examine()
    assert (code, found["smtp"]["result"]) == (1, "fail")
    assert found["smtp"]["text"].startswith("lan [100::1]:2525: ")


def test_a_low_port_without_the_right(configure, examine, monkeypatch):
    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse, raising=False)
    configure(1)
    code, found = examine()
    assert code == 1
    assert found["smtp"]["text"] == "lan 127.0.0.1:1: this user may not listen on this port"
    assert found["smtp"]["advice"] == (
        "Ports below 1024 need a right: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or\n"
        "sudo sysctl net.ipv4.ip_unprivileged_port_start=1; or listen on 2525."
    )


def test_a_broker_that_does_not_answer(configure, port, examine):
    configure(broker=f"mqtts://broker.invalid:{port}")
    code, found = examine()
    assert code == 1
    assert found["broker"]["text"].startswith(f"broker: broker.invalid:{port} does not answer: ")
    assert found["broker"]["advice"] == "Check the broker, and the url in the configuration. Events wait."


def test_no_broker_of_ones_own(monkeypatch):
    def refuse(address, timeout):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("shutil.which", lambda name, path: "/usr/sbin/mosquitto")
    assert doctor._broker("broker", "auto").text == (
        "broker: none answers here; the gateway starts /usr/sbin/mosquitto itself"
    )
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    found = doctor._broker("broker", "auto")
    assert found.result == "fail"
    assert found.advice == "Install one (sudo apt install mosquitto), or name one with url. Events wait until then."


def test_mistakes_in_the_configuration(here, mailwire, data):
    (here / "mailwire.yaml").write_text("a: 1\nb: 2\n")
    result = mailwire("doctor", "--data", data)
    assert result.code == 1
    assert "fail  configuration  mailwire.yaml:1: a: there is no such key here" in result.out
    assert f"{'':<20} mailwire.yaml:2: b: there is no such key here" in result.out
    assert "The checks below are for the defaults." in result.out
    assert result.out.count("smtp ") >= 1


def test_a_data_folder_that_others_may_read(configure, data, fill, examine):
    fill()
    data.chmod(0o755)
    code, found = examine()
    assert code == 0
    assert found["data"]["result"] == "warn"
    assert found["data"]["text"] == f"{data}: other users may look into it (mode 755)"
    assert found["data"]["advice"] == f"Mails are nobody else's business: chmod 700 {data}"
    assert stat.S_IMODE(data.stat().st_mode) == 0o755


def test_a_data_folder_that_is_a_file(configure, data, examine):
    data.write_text("")
    code, found = examine()
    assert (code, found["data"]["text"]) == (1, f"{data}: this user may not write here")
    assert (
        found["data"]["advice"] == f"Give this user the right to write to {data}, or name another folder with --data."
    )


def test_a_store_that_is_none(configure, data, examine):
    data.mkdir(mode=0o700)
    (data / "mailwire.db").write_bytes(b"no database" * 1000)
    code, found = examine()
    assert code == 1
    assert found["store"]["text"].startswith(f"{data}/mailwire.db: the database is damaged: ")


def test_a_full_disk(configure, data, fill, examine):
    fill()
    configure(more="store: {reserve: 100000TiB}\n")
    code, found = examine()
    assert code == 1
    assert found["disk"]["advice"] == "Mail is answered with 452 until there is room: free some space."


def test_a_slow_disk_and_a_wrong_clock(monkeypatch, tmp_path):
    moments = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    found = doctor._fsync(tmp_path)
    assert (found.result, found.text) == ("warn", "1000.0 ms for one fsync")
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    (found,) = doctor._clock()
    assert (found.result, found.text) == ("fail", "1970-01-01 00:00:00 UTC: this machine's clock is wrong")


@pytest.mark.parametrize(("said", "result"), [("yes", "ok"), ("no", "warn"), ("", "ok")])
def test_a_clock_that_is_set_by_the_network_or_not(monkeypatch, tmp_path, said, result):
    program = tmp_path / "timedatectl"
    program.write_text(f"#!/bin/sh\necho {said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (found,) = doctor._clock()
    assert found.result == result
    assert ("synchronised" in found.text) == bool(said)
