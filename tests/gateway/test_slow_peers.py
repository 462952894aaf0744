"""Slow-loris at the live gateway: an honest device is served while hundreds hang on, also where all places are taken.

Nothing here looks at the clock; `script/slow-loris` measures.
"""

from __future__ import annotations

import smtplib
import sys
from pathlib import Path

import pytest

from tests.live import Gateway, until
from tests.slow_peers import SlowPeers, honest_mail

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.1.0.1 is no address of this machine")

CROWDED = 'integrations:\n  lan-mail: {type: smtp_server, listen: ["127.0.0.1:0"], max_connections: 100}\n'


def test_an_honest_device_beside_500_slow_peers(tmp_path: Path) -> None:
    with Gateway(tmp_path / "gw") as gateway, SlowPeers(gateway.port, 500) as peers:
        assert peers.alive() == 500
        honest_mail(gateway.port, "Input voltage 0 V")
        (event,) = gateway.settled(1)
        assert (event["kind"], event["mail"]["helo"]) == ("power", "ups.lan")
        assert peers.alive() == 500


def test_an_honest_device_when_all_connections_are_taken(tmp_path: Path) -> None:
    with Gateway(tmp_path / "gw", CROWDED) as gateway, SlowPeers(gateway.port, 100) as peers:
        assert peers.alive() == 100

        def answered() -> bool:
            try:
                honest_mail(gateway.port, "Input voltage 0 V")
            except (smtplib.SMTPException, ConnectionError):
                return False  # it is put off, and tries again
            return True

        until(answered, "a place for the honest device")
        gateway.settled(1)
        assert peers.alive() >= 98  # one of them made room for it, and perhaps one more for its last try
        gateway.logged(
            r"All connections are taken \('max_connections'\): those that bring no mail make room for others"
        )
