"""Peers from outside, on real sockets with public addresses; and whether anything can be made to go there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from tests.gateway.outside import RECIPIENTS

SCRIPT = Path(__file__).with_name("outside.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    for name, package in (
        ("unshare", "util-linux"),
        ("setpriv", "util-linux"),
        ("ip", "iproute2"),
        ("systemd-socket-activate", "systemd"),
    ):
        needs.program(name, package)
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        needs.missing("a network namespace can't be made here: run this as root")
    done = subprocess.run(
        [*namespace, sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("outside"))],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("port", [2525, 2526], ids=["a socket each", "one socket for both"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.168.77.1", "169.254.7.7", "::1", "fd00::1"])
def test_private_peers_are_greeted(seen, peer, port):
    assert seen["peers"][f"{peer} {port}"] == ["220", False]


@pytest.mark.parametrize("port", [2525, 2526], ids=["a socket each", "one socket for both"])
@pytest.mark.parametrize("peer", ["198.51.100.1", "2001:db8::1"])
def test_public_peers_are_refused_at_connect(seen, peer, port):
    """Also those that come by IPv4 to a socket for both, as ::ffff:198.51.100.1."""
    assert seen["peers"][f"{peer} {port}"] == [f"554 5.7.1 {peer} may not send mail to this gateway", True]
    assert f"{peer} was refused: it is in none of the networks under 'allow'." in seen["log"]


def test_a_port_below_1024_needs_one_right_and_nothing_else_needs_any(seen):
    assert seen["rights"] == [f"{1 << 10:016x}"] * 3  # CAP_NET_BIND_SERVICE, capabilities(7)
    assert seen["peers"]["127.0.0.1 24"] == ["220", False]


def test_whatever_is_taken_becomes_an_event_here_and_nothing_leaves(seen):
    taken = [address for address in RECIPIENTS if seen["codes"][address] == 250]
    assert len(taken) >= 10
    assert all(code in (250, 501, 550, 553) for code in seen["codes"].values()), seen["codes"]
    assert len(seen["to"]) == len(taken)
    assert all(len(to) == 1 for to in seen["to"])
    assert seen["owed"] == []
    assert seen["visited"] == []
    # Every connection in this namespace, closed ones too, was one to the gateway.
    strays = [pair for pair in seen["connections"] if not {2525, 2526, 2527} & set(pair)]
    assert strays == []
    assert seen["connections"]


def test_a_ban_is_seen_everywhere_and_can_be_lifted(seen):
    ban = seen["ban"]
    assert ban["refused"] == ["421 4.7.0 Too many failed logins, try again later", True]
    assert ban["elsewhere"] == ["220", False]  # one server is one policy
    (listed,) = ban["listed"]
    assert (listed["peer"], listed["server"], listed["failures"]) == ("192.168.77.1", "strict", 2)
    (told,) = ban["health"]
    assert (told["peer"], told["failures"]) == ("192.168.77.1", 2)
    (said,) = ban["doctor"]
    assert said == f"strict: 192.168.77.1 is kept out until {told['until']}: 2 of its logins failed"
    assert ban["lifted"] == "192.168.77.1 is let in again.\n"
    assert ban["let_in"] == ["220", False]
    assert (ban["listed_then"], ban["health_then"], ban["doctor_then"]) == ([], [None], [])
