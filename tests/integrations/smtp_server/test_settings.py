"""What may be configured, and the words of each refusal; networks, addresses, memories."""

from __future__ import annotations

import asyncio
import errno
import re
import resource
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.api import Broken, NotReady
from gateway.integrations.smtp_server import Config, listen
from gateway.integrations.smtp_server.access import Access, Memory, Peers, matcher


def test_nothing_configured_suits_a_private_network() -> None:
    config = Config()
    assert config.listen == ("0.0.0.0:2525", "[::]:2525")
    assert config.hostname == socket.gethostname()
    assert (config.tls, config.login, config.tolerance) == ("offered", "any", "lan")
    assert config.max_size == 64 * 1024 * 1024


def test_login_follows_from_users_and_networks() -> None:
    assert Config(users={"cam": "secret"}).login == "required"
    assert Config(allow=["private", "203.0.113.0/24"]).login == "none"
    assert Config(allow=["10.1.0.0/16", "fd00:1::/32"]).login == "any"


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(Config(users={"cam": "secret"}))


@pytest.mark.parametrize(
    ("options", "where", "words"),
    [
        (
            {"allow": ["private", "203.0.113.0/24"], "login": "any"},
            "login",
            "'any' takes every password, and 'allow' lets in the public network 203.0.113.0/24: set 'required' and add "
            "'users', or set 'none', or keep 'allow' to private networks",
        ),
        (
            {"login": "any", "users": {"cam": "secret"}},
            "login",
            "'any' checks nobody, but 'users' are listed: set 'required' or 'optional', or remove 'users'",
        ),
        ({"users": {"cam": ""}}, "users", "a user needs a name and a password that are not empty"),
        (
            {"users": {"cam": "$scrypt$ln=14,r=8,p=1$secretsalt$"}},
            "users",
            "the password of 'cam': this hash is not whole: make one with `mailwire user hash`, and copy all of it",
        ),
        (
            {"users": {"cam": "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW"}},
            "users",
            "the password of 'cam': this is a hash of a kind that is not read here: make one with `mailwire user hash`",
        ),
        ({"key": "key.pem"}, "key", "'key' is the key of a certificate: add 'certificate', or remove 'key'"),
        (
            {"listen": ["2525"]},
            "listen.0",
            "'2525' is not an address and a port: write it like '0.0.0.0:2525' or '[::]:2525'",
        ),
        ({"listen": ["::1:2525"]}, "listen.0", "'::1:2525': an IPv6 address goes in brackets: '[::1]:2525'"),
        (
            {"listen": ["0.0.0.0:70000"]},
            "listen.0",
            "'0.0.0.0:70000' is not an address and a port: write it like '0.0.0.0:2525' or '[::]:2525'",
        ),
        ({"recipients": []}, "recipients", "must have at least one"),
        (
            {"allow": ["lan"]},
            "allow.0",
            "'lan' is not a network: write '192.168.1.0/24', one address, or the word 'private'",
        ),
        (
            {"old_tls": ["192.168.1.300"]},
            "old_tls.0",
            "'192.168.1.300' is not a network: write '192.168.1.0/24', one address, or the word 'private'",
        ),
    ],
)
def test_refusals(options: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Config.model_validate(options)
    (error,) = refusal.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert error["msg"] == "Value error, " + words


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.0.0.1", True),
        ("192.168.1.20", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("169.254.7.7", True),
        ("8.8.8.8", False),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd12:3456::1", True),
        ("2001:db8::1", False),
        ("::ffff:192.168.1.20", True),
        ("::ffff:8.8.8.8", False),
    ],
)
def test_private_networks(peer: str, allowed: bool) -> None:
    access = Access(["private"], [], [])
    assert access.rights(peer).allowed is allowed
    assert access.rights(peer) is access.rights(peer)


def test_rights_by_network() -> None:
    access = Access(["private", "203.0.113.7"], ["192.168.1.0/24"], ["192.168.1.5"], ["192.168.1.7"])
    assert access.rights("203.0.113.7") == (True, True, False, False, True)
    assert access.rights("192.168.1.5") == (True, True, True, True, True)
    assert access.rights("192.168.1.7") == (True, True, True, False, False)
    assert access.rights("127.0.0.1") == (True, False, False, False, False)
    assert access.rights("::ffff:127.0.0.1") == (True, False, False, False, False)


def test_rights_remembered_are_bounded() -> None:
    access = Access(["private"], [], [])
    for number in range(10_000):
        access.rights(f"10.0.{number >> 8}.{number & 255}")
    assert len(access._known) <= 4096


def test_recipients() -> None:
    assert matcher(["*"]) is None
    ours = matcher(["*@alarm.lan", "front-?", "[a-c]x"])
    assert ours
    assert [ours(one) for one in ("A@Alarm.LAN", "front-1", "bx", "a@alarm.lan.example", "front-10", "dx")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


class TestMemory:
    def test_it_counts_and_forgets(self) -> None:
        now = 0.0
        memory = Memory(60, clock=lambda: now)
        assert [memory.note("a"), memory.note("a"), memory.note("b"), memory.count("a")] == [1, 2, 1, 2]
        now = 59.0
        assert memory.note("a") == 3
        now = 60.0
        assert memory.count("a") == 0
        assert memory.note("a") == 1
        memory.forget("a")
        assert memory.count("a") == 0
        memory.forget("never noted")

    def test_it_is_bounded_and_forgets_the_oldest(self) -> None:
        memory = Memory(60, limit=3)
        for what in "abcad":
            memory.note(what)
        assert [memory.count(what) for what in "abcd"] == [0, 1, 1, 1]


def test_peers_are_counted() -> None:
    peers = Peers(limit=3, limit_per_peer=1)
    assert peers.enter("a", counted=True) is None
    assert peers.enter("a", counted=True) == "1 connections from it are open already ('max_connections_per_peer')"
    assert peers.enter("b", counted=False) is None
    assert peers.enter("b", counted=False) is None
    assert peers.enter("c", counted=True) == "all 3 connections are taken ('max_connections')"
    for peer in "abb":
        peers.leave(peer)
    assert peers.enter("a", counted=True) is None
    assert peers._connections == {"a": 1}


class TestListening:
    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            (
                OSError(errno.EADDRINUSE, "Address already in use"),
                NotReady,
                "0.0.0.0:25 is taken by another program: stop that one, or choose another port under 'listen' "
                "('ss -ltnp sport = :25' shows which it is)",
            ),
            (
                PermissionError(errno.EACCES, "Permission denied"),
                Broken,
                "0.0.0.0:25 may not be opened: ports below 1024 need a right of their own. Choose a port from 1024 up "
                "under 'listen', or give the right: 'AmbientCapabilities=CAP_NET_BIND_SERVICE' in a systemd unit, or "
                "'sudo sysctl net.ipv4.ip_unprivileged_port_start=25'",
            ),
            (
                OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
                NotReady,
                "0.0.0.0:25 is not an address of this machine (yet): '0.0.0.0' under 'listen' means all of them",
            ),
            (
                socket.gaierror(-2, "Name or service not known"),
                NotReady,
                "0.0.0.0:25 has a name that can't be resolved: write the address in numbers under 'listen'",
            ),
            (OSError(errno.ENOBUFS, "No buffer space"), NotReady, "0.0.0.0:25 can't be opened: No buffer space"),
        ],
    )
    def test_words(self, error: OSError, kind: type[Exception], words: str) -> None:
        told = listen.trouble("0.0.0.0:25", error)
        assert type(told) is kind
        assert str(told) == words

    async def test_a_port_that_is_taken(self) -> None:
        (taken,) = await listen.bind(["127.0.0.1:0"])
        port = taken.getsockname()[1]
        with taken, pytest.raises(NotReady, match=re.escape(f"127.0.0.1:{port} is taken by another program")):
            await listen.bind([f"127.0.0.1:{port}"])

    async def test_an_address_of_somebody_else(self) -> None:
        with pytest.raises(NotReady, match=r"192\.0\.2\.1:2525 is not an address of this machine"):
            await listen.bind(["127.0.0.1:0", "192.0.2.1:2525"])

    async def test_both_families_on_one_port(self) -> None:
        (first,) = await listen.bind(["0.0.0.0:0"])
        port = first.getsockname()[1]
        (second,) = await listen.bind([f"[::]:{port}"])
        first.close()
        second.close()

    async def test_no_ipv6_on_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bound = listen._bound

        def without_ipv6(family: int, place: Any) -> socket.socket:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            return bound(family, place)

        monkeypatch.setattr(listen, "_bound", without_ipv6)
        (only,) = await listen.bind(["127.0.0.1:0", "[::]:0"])
        only.close()
        with pytest.raises(Broken) as refusal:
            await listen.bind(["[::]:0"])
        assert str(refusal.value) == "this machine has no IPv6: add an IPv4 address such as '0.0.0.0:2525' to 'listen'"
        with pytest.raises(NotReady):
            await listen.bind(["127.0.0.1:0", "[::1]:0"])

    async def test_a_name(self) -> None:
        sockets = await asyncio.wait_for(listen.bind(["localhost:0"]), 10)
        assert sockets
        for one in sockets:
            one.close()

    def test_as_many_connections_as_there_are_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = [1024, 4096]
        monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
        monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
        assert listen.connections_possible(500) == 500
        assert limits == [1024, 4096]
        assert listen.connections_possible(2000) == 2000
        assert limits == [2128, 4096]
        assert listen.connections_possible(10_000) == 3968
        assert limits == [4096, 4096]
