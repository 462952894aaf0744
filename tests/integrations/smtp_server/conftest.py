"""The fixture of these tests; what it is made of is in `harness`."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.integrations.smtp_server.certificate import self_signed
from tests.integrations.smtp_server.harness import Serve, Server


@pytest.fixture(scope="session")
def certificate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, so that not every server makes one of its own."""
    folder = tmp_path_factory.mktemp("certificate")
    self_signed(folder, ["gw.lan", socket.gethostname(), "localhost", "127.0.0.1"])
    return folder


def event_loops() -> list[Any]:
    """Python's own, and uvloop's where there is one: the gateway runs on either."""
    try:
        import uvloop
    except ImportError:
        return [pytest.param(asyncio.new_event_loop, id="asyncio")]
    return [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


@pytest.fixture(params=event_loops())
def serve(request: pytest.FixtureRequest, tmp_path: Path, certificate_folder: Path) -> Iterator[Serve]:
    """`serve(**options)`: a server with these options, stopped at the end."""
    shutil.copytree(certificate_folder, tmp_path, dirs_exist_ok=True)
    loop = request.param()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[Server] = []

    def make(**options: Any) -> Server:
        server = Server(loop, tmp_path, options)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        for peer in server.peers:
            peer.close()
        server.call(setattr, server.intake, "holding", False)
        server.release()
        server.stop().result(40)
        assert server.intake.coming == 0
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
