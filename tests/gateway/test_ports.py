"""Serial ports: named, opened, read, lost; and what is said when that can't be done."""

import fcntl
import grp
import os
import pty
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial
import serial.rfc2217

from gateway import ports
from gateway.ports import PortError, PortGone, Settings
from gateway.wire.link import HELLO, Link


@pytest.fixture
def pair():
    """A pseudo-terminal: our end, and the path of the one that is opened as a port."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    yield master, path
    os.close(slave)
    os.close(master)


CP2102 = ports.Port("/dev/ttyUSB0", "CP2102N USB to UART Bridge", 0x10C4, 0xEA60, "0001")
PICO = ports.Port("/dev/ttyACM0", "Board in FS mode", 0x2E8A, 0x0005, "e6614103e7452d2f")
PLAIN = ports.Port("/dev/ttyS4", "", None, None, None)


@pytest.fixture
def plugged(monkeypatch):
    """No USB here: the list of ports is made up."""

    def plug(*there):
        monkeypatch.delenv("INVOCATION_ID", raising=False)
        monkeypatch.setattr(ports, "list_ports", lambda: list(there))

    return plug


def words(call, *args, **options):
    with pytest.raises(PortError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_ports_of_this_machine_are_listed():
    assert all(Path(port.path).exists() for port in ports.list_ports())


@pytest.mark.parametrize(
    "spec", ["/dev/ttyUSB7", "./board", "socket://127.0.0.1:1", "rfc2217://nas:4000", "loop://", "COM3", "hwgrep://CP"]
)
def test_paths_and_urls_are_taken_as_they_are(spec):
    assert ports.find(spec) == spec


def test_a_port_is_found_by_what_is_plugged_in(plugged):
    plugged(CP2102, PICO, PLAIN)
    assert ports.find("10c4:EA60") == "/dev/ttyUSB0"
    assert ports.find("e6614103e7452d2f") == "/dev/ttyACM0"


def test_what_is_not_there_is_said_with_what_is(plugged):
    plugged(CP2102, PLAIN)
    there = "There is /dev/ttyUSB0 (CP2102N USB to UART Bridge, 10C4:EA60, serial number 0001), /dev/ttyS4."
    assert words(ports.find, "2E8A:0005") == f"there is no USB device 2E8A:0005. {there}"
    assert words(ports.find, "e66") == f"there is no USB device with the serial number 'e66'. {there}"
    assert words(ports.open_port, "/dev/ttyUSB9") == f"there is no port /dev/ttyUSB9. {there}"
    plugged()
    assert words(ports.open_port, "/dev/ttyUSB9") == (
        "there is no port /dev/ttyUSB9. No serial port is there at all. "
        "Is the board plugged in, with a cable that carries data and not just power?"
    )


def test_a_service_that_sees_no_ports_is_told_how_it_would(plugged, monkeypatch):
    plugged()
    monkeypatch.setenv("INVOCATION_ID", "x")
    assert words(ports.find, "10C4:EA60").endswith(
        "and not just power? If it is: `mailwire service install` lets the service see the ports of its configuration."
    )


def test_two_of_a_kind(plugged):
    plugged(CP2102, CP2102._replace(path="/dev/ttyUSB1", serial="0002"))
    assert words(ports.find, "10C4:EA60") == (
        "'10C4:EA60' may mean /dev/ttyUSB0 (CP2102N USB to UART Bridge, 10C4:EA60, serial number 0001), "
        "/dev/ttyUSB1 (CP2102N USB to UART Bridge, 10C4:EA60, serial number 0002). "
        "Name one by its serial number or its path."
    )


def test_what_is_no_port(tmp_path, plugged):
    plugged(PLAIN)
    file = tmp_path / "file"
    file.write_text("")
    assert words(ports.open_port, str(file)) == f"{file} is no serial port. There is /dev/ttyS4."


def test_urls_that_lead_nowhere():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"socket://127.0.0.1:{free.getsockname()[1]}"
        assert words(ports.open_port, url) == f"{url} can't be opened: [Errno 111] Connection refused"
    assert words(ports.open_port, "carrier://pigeon") == (
        "carrier://pigeon can't be opened: invalid URL, protocol 'carrier' not known"
    )


def test_reading_and_writing(pair):
    master, path = pair
    with ports.open_port(path) as line:
        assert line.read() == b""
        os.write(master, b"\x00\r\n\xff\x03")  # nothing is translated, nothing is a signal
        assert line.read() == b"\x00\r\n\xff\x03"
        line.write(b"one\n\xff")
        assert os.read(master, 100) == b"one\n\xff"


def test_a_long_write_goes_on_when_the_other_side_reads(pair):
    master, path = pair
    data = bytes(range(256)) * 400
    got = bytearray()

    def read_all():
        while len(got) < len(data):
            got.extend(os.read(master, 1000))

    with ports.open_port(path) as line:
        reader = threading.Thread(target=read_all)
        reader.start()
        line.write(data)
        reader.join()
    assert got == data


def test_who_takes_nothing(pair, monkeypatch):
    monkeypatch.setattr(ports, "_WRITING", 0.1)
    _, path = pair
    with ports.open_port(path) as line:
        assert words(line.write, bytes(1_000_000)) == (
            f"{path}: the other side takes nothing. Does it hold back by flow control?"
        )


def test_unplugged(pair):
    master, path = pair
    with ports.open_port(path) as line:
        os.dup2(os.open("/dev/null", os.O_RDWR), master)
        with pytest.raises(PortGone, match="the port is gone: was it unplugged"):
            line.read()


def test_a_socket():
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = ports.open_port(f"socket://127.0.0.1:{server.getsockname()[1]}")
        other, _ = server.accept()
        with line:
            assert line.read() == b""
            other.sendall(b"x" * 3000)
            got = b""
            while len(got) < 3000:
                got += line.read()
            assert got == b"x" * 3000
            line.write(b"back")
            assert other.recv(100) == b"back"
            other.close()
            with pytest.raises(PortGone):
                line.read()


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")  # pyserial's own
def test_a_port_behind_the_network_with_its_settings():
    """RFC 2217, with pyserial's own server; its line is a loop."""
    told = serial.serial_for_url("loop://", timeout=0.05)

    def serve():
        connection, _ = server.accept()
        with connection:
            manager = serial.rfc2217.PortManager(told, SimpleNamespace(write=connection.sendall))
            while data := connection.recv(1000):
                told.write(b"".join(manager.filter(data)))
                connection.sendall(b"".join(manager.escape(told.read(told.in_waiting))))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        with ports.open_port(f"rfc2217://127.0.0.1:{server.getsockname()[1]}", Settings(9600, parity="even")) as line:
            assert (told.baudrate, told.parity) == (9600, "E")
            line.write(b"round\xff\n")
            got = b""
            while len(got) < 7:
                got += line.read()
            assert got == b"round\xff\n"
        thread.join()
    with pytest.raises(PortGone):
        line.read()


def test_a_loop():
    with ports.open_port("loop://") as line:
        line.write(b"round")
        got = b""
        while len(got) < 5:
            got += line.read()
        assert got == b"round"


def test_settings_reach_the_line(pair):
    _, path = pair
    with ports.open_port(path, Settings(baud=9600, stop=2, flow="xonxoff")):
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        iflag, _, cflag, _, ispeed, _, _ = termios.tcgetattr(descriptor)
        os.close(descriptor)
    assert ispeed == termios.B9600
    assert cflag & termios.CSTOPB
    assert not cflag & termios.HUPCL  # closing presses no reset button
    assert iflag & termios.IXON
    assert Settings(baud=9600, bits=7, parity="even", stop=2).rate == pytest.approx(9600 / 11)
    assert Settings().rate == 11520


def test_settings_that_the_port_can_not_do(pair):
    _, path = pair  # the kernel gives a pseudo-terminal no parity
    assert words(ports.open_port, path, Settings(bits=7, parity="even")) == (
        f"{path} can't do 115200 7E1: Invalid argument"
    )


def test_a_port_in_use_says_by_whom(pair):
    _, path = pair
    program = (
        "import serial, sys; held = serial.Serial(sys.argv[1], exclusive=True); print('open', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        assert words(ports.open_port, path) == (
            f"{path} is in use by {name} (process {holder.pid}). Only one program can read a port: end that one."
        )
    finally:
        holder.communicate(b"\n")
    ports.open_port(path).close()


AS_ANOTHER_USER = """
import os, pwd, sys
from gateway import ports
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    ports.open_port(sys.argv[1])
except ports.PortError as error:
    print(pwd.getpwuid(os.geteuid()).pw_name, error, sep="|")
"""


ROOT = Path(__file__).parents[2]


def as_another_user(path):
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, path],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert not done.stderr
    return done.stdout.strip().split("|")


def test_a_port_that_is_exclusively_somebody_elses(pair):
    """TIOCEXCL stops all but root."""
    _, path = pair
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
    mode = Path(path).stat().st_mode
    Path(path).chmod(0o666)
    fcntl.ioctl(descriptor, termios.TIOCEXCL)
    try:
        _, text = as_another_user(path)
    finally:
        fcntl.ioctl(descriptor, termios.TIOCNXCL)
        Path(path).chmod(mode)
        os.close(descriptor)
    assert text.startswith(f"{path} is in use")
    assert text.endswith("Only one program can read a port: end that one.")


def test_a_missing_right_is_said_with_the_group(pair):
    _, path = pair
    if os.geteuid():
        pytest.skip("only root can give a port to a group")
    os.chown(path, 0, grp.getgrnam("dialout").gr_gid)
    Path(path).chmod(0o660)
    user, text = as_another_user(path)
    assert text == (
        f"the user {user} may not open {path}, which belongs to the group dialout. "
        f"Add the user to it: sudo usermod -aG dialout {user}, then log out and in again."
    )


def test_a_missing_right_where_nobody_has_a_name(pair, monkeypatch):
    """In a container, users and groups of the host are numbers."""
    _, path = pair

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(ports.pwd, "getpwuid", unknown)
    monkeypatch.setattr(ports.grp, "getgrgid", unknown)
    monkeypatch.setattr(ports.os, "access", lambda *_: False)
    group = Path(path).stat().st_gid
    with pytest.raises(ports.PortError) as caught:
        ports.look(path)
    assert str(caught.value) == (
        f"the user {os.geteuid()} may not open {path}, which belongs to the group {group}. "
        f"Run this with that group (docker run --group-add {group})."
    )


def test_waiting_for_hello(pair):
    master, path = pair
    board = Link("b0a4d", {"firmware": "test 1", "board": "HOST"}, 0)
    noise = []

    def answer():
        os.write(master, b"ets Jul 29 2019 12:21:46\r\n")
        heard = False
        while not heard:
            heard = any(event[0] == HELLO for event in board.feed(os.read(master, 1000), 1000))
            while out := board.take(1000):
                os.write(master, out)

    with ports.open_port(path) as line:
        other = threading.Thread(target=answer)
        other.start()
        hello = ports.wait_for_hello(line, 20, noise.append)
        other.join()
        assert hello["board"] == "HOST"
        assert hello["boot"] == "b0a4d"
        assert noise == [b"ets Jul 29 2019 12:21:46"]
        assert ports.wait_for_hello(line, 0) is None
