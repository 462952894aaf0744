"""What connections cost: a server in a process of its own, measured from outside."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integrations.smtp_server.harness import PATIENCE

CONNECTIONS = 1000

SERVER = """
import asyncio, logging, sys
from pathlib import Path
from gateway.api import Context
from gateway.integrations.smtp_server import Config, SmtpServer

class Receipt:
    def write(self, chunk): return True
    def commit(self, envelope, done): asyncio.get_running_loop().call_soon(done, "ID", None)
    def abort(self): pass

class Intake:
    coming = 0
    def begin(self, on_drain=None): return Receipt()
    def room(self): return 1 << 40

async def main():
    context = Context(
        name="lan-mail", data_dir=Path(sys.argv[1]), log=logging.getLogger("smtp"), gateway=None, intake=Intake(),
        emit=None, ready=None, problem=None,
    )
    server = SmtpServer(context, Config(listen=["127.0.0.1:0"], hostname="gw.lan"))
    await server.start()
    print(server._addresses[0].rpartition(":")[2], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Process:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    def resident(self) -> int:
        """Bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def connect(self) -> socket.socket:
        peer = socket.create_connection(self.address, timeout=PATIENCE)
        assert peer.recv(100) == b"220 gw.lan ESMTP Mailwire\r\n"
        return peer


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    running = Process(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


def test_a_thousand_idle_connections_take_less_than_5_mib(process: Process) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < CONNECTIONS + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (CONNECTIONS + 200, hard))
    peers = [process.connect()]
    before = process.resident()
    peers += [process.connect() for _ in range(CONNECTIONS)]
    grown = process.resident() - before
    for peer in peers:
        peer.close()
    assert grown < 5 * 1024 * 1024, f"{grown / CONNECTIONS:.0f} bytes each"


def test_a_mail_of_20_mb_passes_through(process: Process) -> None:
    peer = process.connect()
    peer.sendall(b"EHLO cam\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n")
    before = process.resident()
    for _ in range(20_000):
        peer.sendall(b"x" * 998 + b"\r\n")
    peer.sendall(b".\r\nQUIT\r\n")
    with peer, peer.makefile("rb") as replies:
        assert replies.read().endswith(b"250 2.0.0 Ok: stored as ID\r\n221 2.0.0 Bye\r\n")
    assert process.resident() - before < 4 * 1024 * 1024


def test_a_hundred_thousand_recipients_are_refused_at_no_cost(process: Process) -> None:
    peer = process.connect()
    peer.sendall(b"HELO cam\r\nMAIL FROM:<a>\r\n")
    before = process.resident()
    asking = threading.Thread(
        target=peer.sendall, args=(b"".join(b"RCPT TO:<r%d@gw.local>\r\n" % n for n in range(100_000)) + b"QUIT\r\n",)
    )
    asking.start()
    with peer, peer.makefile("rb") as replies:
        codes = [line[:3] for line in replies]
    asking.join()
    assert codes == [b"250"] * 1002 + [b"452"] * 99_000 + [b"221"]
    assert process.resident() - before < 4 * 1024 * 1024


@pytest.mark.parametrize("ahead", [b"", b"EHLO a\r\nMAIL FROM:<a>\r\nRCPT TO:<b>\r\nDATA\r\n.\r\n"], ids=["", "mail"])
def test_who_asks_and_never_reads_fills_no_memory(process: Process, ahead: bytes) -> None:
    """The answer to HELP is eight times the question, that to EHLO thirty times."""
    before = process.resident()
    peers = []
    for _ in range(20):
        peer = process.connect()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.setblocking(False)
        peers.append(peer)
        sent = peer.send(ahead + b"EHLO a\r\n" * 100_000)
        assert sent > 10_000
    answered = process.connect()  # so it has got round to all of them
    assert process.resident() - before < 6 * 1024 * 1024
    for peer in [*peers, answered]:
        peer.close()


@pytest.mark.parametrize(
    "endless",
    [b"A", b"\0", b"AUTH PLAIN A", b"RCPT TO:<", b"\r", b"BDAT 1 ", b"EHLO \xff"],
    ids=["letters", "nuls", "login", "recipient", "cr", "bdat", "hello"],
)
def test_a_line_that_never_ends_is_not_kept(process: Process, endless: bytes) -> None:
    peer = process.connect()
    peer.sendall(b"EHLO cam\r\n")
    peer.recv(1000)
    before = process.resident()
    for _ in range(200):
        peer.sendall(endless + endless[-1:] * 100_000)
    peer.sendall(b"\r\nQUIT\r\n")
    with peer, peer.makefile("rb") as replies:
        assert [line[:3] for line in replies] == [b"500", b"221"]
    assert process.resident() - before < 2 * 1024 * 1024


def test_a_thousand_who_log_in_wrongly_leave_nothing_behind(process: Process) -> None:
    """The default listener takes any password; so they try what it does not offer, and break off."""
    peer = process.connect()
    before = process.resident()
    for number in range(1000):
        with process.connect() as guest:
            guest.sendall(b"EHLO g%d\r\nAUTH CRAM-MD5\r\nAUTH LOGIN\r\nZXZl\r\n*\r\nAUTH PLAIN !\r\nQUIT\r\n" % number)
            while guest.recv(65536):
                pass
    assert process.resident() - before < 2 * 1024 * 1024
    peer.close()
