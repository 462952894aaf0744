"""The fixture of these tests; what it is made of is in `harness`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.smtp_server.harness import Serve, Server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """`serve(**options)`: a server with these options, stopped at the end."""
    loop = asyncio.new_event_loop()
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
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
