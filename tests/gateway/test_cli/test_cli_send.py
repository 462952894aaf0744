"""`send` and `sendmail`, against a real SMTP server and against none."""

import email
import email.policy
import io
import socket
import ssl
import struct
import subprocess
import sys
import threading
import zlib
from types import SimpleNamespace

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from gateway.cli import submit
from gateway.cli.send import picture

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning:aiosmtpd")


class Handler:
    """Keeps what comes; refuses what begins with `no`."""

    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802  # aiosmtpd's name
        if address.startswith("no"):
            return "550 5.1.1 nobody here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd's name
        self.mails.append((session.host_name, envelope.mail_from, envelope.rcpt_tos, envelope.content))
        if b"come back" in envelope.content:
            return "451 4.3.0 later"
        return f"250 2.0.0 Ok: stored as {len(self.mails)}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody trusts."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.fixture
def serve():
    running = []

    def start(*, implicit=None, **options):
        handler = Handler()

        class Here(Controller):
            def factory(self):
                return SMTP(handler, hostname="sink.lan", **options)

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        controller = Here(handler, "127.0.0.1", port, ssl_context=implicit)
        controller.start()
        running.append(controller)
        return handler, f"127.0.0.1:{port}"

    yield start
    for controller in running:
        controller.stop()


def message(content):
    return email.message_from_bytes(content, policy=email.policy.SMTP)


@pytest.fixture
def closed():
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


# --- send ----------------------------------------------------------------------------------------------------------


def test_a_plain_test_mail(mailwire, serve):
    handler, server = serve()
    result = mailwire("send", server, "--subject", "Grüße", "--text", "Zeile 1\n.\n..zwei", "--helo", "cam-9")
    assert (result.code, result.out, result.err) == (0, "250 2.0.0 Ok: stored as 1\n", "")
    ((helo, sender, recipients, content),) = handler.mails
    assert (helo, sender, recipients) == ("cam-9", "test@localhost", ["gateway@localhost"])
    assert b"\n" not in content.replace(b"\r\n", b"")
    mail = message(content)
    assert mail["Subject"] == "Grüße"
    assert mail["Message-ID"].endswith("@mailwire.invalid>")
    assert mail.get_content() == "Zeile 1\r\n.\r\n..zwei\r\n"


def test_files_and_pictures_are_attached(mailwire, serve, tmp_path):
    handler, server = serve()
    (tmp_path / "notes.txt").write_text("ä\n")
    (tmp_path / "old.eml").write_bytes(b"Subject: x\n\ny\n")
    (tmp_path / "shot.jpg").write_bytes(b"\xff\xd8\xff\xe0jpeg")
    words = ["--file", tmp_path / "notes.txt", "--file", tmp_path / "old.eml", "--picture", tmp_path / "shot.jpg"]
    assert mailwire("send", server, *words).code == 0
    parts = [
        (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
        for part in message(handler.mails[0][3]).iter_attachments()
    ]
    assert parts == [
        ("notes.txt", "text/plain", "ä\n".encode()),
        ("old.eml", "application/octet-stream", b"Subject: x\n\ny\n"),
        ("shot.jpg", "image/jpeg", b"\xff\xd8\xff\xe0jpeg"),
    ]


def test_the_built_in_picture_is_a_png(mailwire, serve):
    handler, server = serve()
    assert mailwire("send", server, "--picture").code == 0
    (part,) = message(handler.mails[0][3]).iter_attachments()
    assert (part.get_filename(), part.get_content_type()) == ("test.png", "image/png")
    assert part.get_payload(decode=True) == picture()
    data, chunks = picture()[8:], {}
    while data:
        length, kind = struct.unpack(">I4s", data[:8])
        chunks[kind] = data[8 : 8 + length]
        assert struct.unpack(">I", data[8 + length : 12 + length])[0] == zlib.crc32(data[4 : 8 + length])
        data = data[12 + length :]
    across, down, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    assert len(zlib.decompress(chunks[b"IDAT"])) == (across * 3 + 1) * down
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: 8 bit \xff\xfe\r\n\r\n.dot\r\n..dots\r\n.\r\nend\r\n",
        b"Subject: no end\r\n\r\nno line end",
        b"\r\n",
        b"Subject: bare\r\n\r\nx\n.y\r\n" + b"x" * 300_000 + b"\r\n",
    ],
)
def test_a_whole_mail_is_sent_byte_for_byte(mailwire, tmp_path, content):
    (tmp_path / "mail.eml").write_bytes(content)
    with RawServer() as raw:
        assert mailwire("send", raw.place, "--eml", tmp_path / "mail.eml").code == 0
    wanted = content if content.endswith(b"\r\n") else content + b"\r\n"
    assert raw.content == wanted


class RawServer:
    """An SMTP server that undoes dot-stuffing by RFC 5321 §4.5.2 and nothing else; with CHUNKING if asked."""

    def __init__(self, *, chunking=False, replies=()):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.chunking = chunking
        self.replies = dict(replies)
        self.content = b""
        self.commands = []

    def __enter__(self):
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(30)
        self.listener.close()

    def run(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(self.replies.get("greeting", b"220 raw\r\n"))
            while line := lines.readline():
                self.commands.append(line)
                verb = line.split()[0].decode().upper()
                connection.sendall(self.replies.get(verb, b""))
                if verb in self.replies:
                    continue
                if verb == "EHLO":
                    connection.sendall(b"250-raw\r\n" + b"250-CHUNKING\r\n" * self.chunking + b"250 SIZE\r\n")
                elif verb == "DATA":
                    connection.sendall(b"354 go\r\n")
                    raw = b"\r\n"
                    while not raw.endswith(b"\r\n.\r\n"):
                        raw += lines.readline()
                    self.content = raw[:-3].replace(b"\r\n.", b"\r\n")[2:]
                    connection.sendall(b"250 kept\r\n")
                elif verb == "BDAT":
                    self.content = lines.read(int(line.split()[1]))
                    connection.sendall(b"250 kept\r\n")
                else:
                    connection.sendall(b"250 ok\r\n")


def test_chunking_keeps_even_a_missing_line_end(mailwire, tmp_path):
    (tmp_path / "mail.eml").write_bytes(b"Subject: x\n\n.no end")
    with RawServer(chunking=True) as raw:
        assert mailwire("send", raw.place, "--eml", tmp_path / "mail.eml").code == 0
    assert raw.content == b"Subject: x\n\n.no end"


def test_many_are_numbered_and_differ(mailwire, serve):
    handler, server = serve()
    result = mailwire("send", server, "--count", "3", "--to", "a@gw", "--to", "b@gw", "--from", "cam@lan")
    assert result.out == (
        "1 of 3  250 2.0.0 Ok: stored as 1\n2 of 3  250 2.0.0 Ok: stored as 2\n3 of 3  250 2.0.0 Ok: stored as 3\n"
    )
    assert [mail[1:3] for mail in handler.mails] == [("cam@lan", ["a@gw", "b@gw"])] * 3
    assert [message(mail[3])["Subject"] for mail in handler.mails] == [
        f"Test mail {number} of 3" for number in (1, 2, 3)
    ]
    assert len({message(mail[3])["Message-ID"] for mail in handler.mails}) == 3


def test_text_from_standard_input(mailwire, serve, monkeypatch):
    handler, server = serve()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"31 \xb0C from a pipe\n")))
    assert mailwire("send", server, "--text", "-").code == 0
    assert message(handler.mails[0][3]).get_content() == "31 °C from a pipe\r\n"


def test_tls_in_both_ways(mailwire, serve, certificate):
    for way, options in (("starttls", {"tls_context": certificate}), ("implicit", {"implicit": certificate})):
        handler, server = serve(**options)
        refused = mailwire("send", server, "--tls", way)
        assert refused.code == 1
        assert refused.err.startswith(f"{server} has a certificate that is not trusted here: self-signed certificate")
        assert refused.err.endswith(". With --insecure it is not checked.\n")
        assert mailwire("send", server, "--tls", way, "--insecure").code == 0
        assert len(handler.mails) == 1


def test_login(mailwire, serve, monkeypatch):
    def check(server, session, envelope, mechanism, login):
        return AuthResult(success=login.login == b"cam" and login.password == b"secret", handled=False)

    handler, server = serve(authenticator=check, auth_require_tls=False, auth_required=True)
    refused = mailwire("send", server, "--user", "cam", "--password", "wrong")
    assert refused.code == 1
    assert refused.err.startswith(f"{server} refused the login: 535 5.7.8")
    assert refused.err.endswith(". Check --user and --password.\n")
    assert (
        mailwire("send", server).err
        == "The server refused the sender test@localhost: 530 5.7.0 Authentication required\n"
    )
    monkeypatch.setattr("getpass.getpass", lambda prompt: "secret" if prompt == "Password of cam: " else "")
    assert mailwire("send", server, "--user", "cam").code == 0
    assert len(handler.mails) == 1


def test_refusals_are_repeated(mailwire, serve):
    _, server = serve()
    result = mailwire("send", server, "--to", "nobody@gw", "--to", "a@gw")
    assert result.err == "The server refused the recipient nobody@gw: 550 5.1.1 nobody here\n"
    assert (result.code, result.out) == (0, "250 2.0.0 Ok: stored as 1\n")
    result = mailwire("send", server, "--to", "nobody@gw")
    assert result.code == 1
    assert result.err.splitlines()[-1] == "The server took none of the recipients."
    result = mailwire("send", server, "--text", "come back")
    assert (result.code, result.err) == (1, "The server did not take the mail: 451 4.3.0 later\n")


def test_an_address_can_not_smuggle_a_command(mailwire, serve, tmp_path):
    handler, server = serve()
    result = mailwire("send", server, "--to", "a@gw>\r\nRCPT TO:<b@gw")
    assert (result.code, result.err) == (2, r"'a@gw>\r\nRCPT TO:<b@gw' has more than one line." + "\n")
    (tmp_path / "mail.eml").write_bytes(b"Subject: x\r\n\r\n")
    result = mailwire("send", server, "--eml", tmp_path / "mail.eml", "--to", "a@gw\r")
    assert (result.code, result.err) == (1, r"'a@gw\r' is no address: it has a control character." + "\n")
    assert handler.mails == []


def test_a_field_is_not_read_out_of_an_encoded_word(mailwire, serve, tmp_path):
    """Which the standard library does, in a subject and in a file's name."""
    handler, server = serve()
    word = "=?utf-8?q?=0D=0ABcc:_x@evil.example?="
    (tmp_path / word).write_bytes(b"x")
    assert mailwire("send", server, "--subject", word, "--file", tmp_path / word).code == 0
    mail = message(handler.mails[0][3])
    assert b"\nBcc:" not in handler.mails[0][3]
    assert [mail["Subject"], *(part.get_filename() for part in mail.iter_attachments())] == ["= " + word[1:]] * 2


def test_nobody_is_there(mailwire, closed):
    result = mailwire("send", closed)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"Nothing listens at {closed}. Does the gateway run (mailwire run)?\n"


def test_a_name_beyond_ascii_is_no_traceback(mailwire, serve):
    _, server = serve()
    result = mailwire("send", server, "--helo", "tür")
    assert (result.code, result.err) == (1, "User, password and --helo can be sent in ASCII only.\n")


def test_a_server_that_has_no_tls_or_no_login(mailwire, serve):
    _, server = serve()
    assert mailwire("send", server, "--tls", "starttls").err == (
        f"{server} does not offer STARTTLS. Try --tls implicit, or --tls none. "
        "A Mailwire that TLS has just failed with here does so again after an hour, or after its restart.\n"
    )
    assert mailwire("send", server, "--tls", "implicit").err == (
        f"{server} does not speak TLS from its first byte. Try --tls starttls, or --tls none.\n"
    )
    assert mailwire("send", server, "--user", "me", "--password", "x").err == (
        f"{server} offers no login. Leave out --user; some offer it after --tls starttls only.\n"
    )


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ({"greeting": b"554 5.3.2 not today\r\n"}, "turned us away: 554 5.3.2 not today"),
        ({"greeting": b"421 4.3.2 \x1b[2Jbusy\r\n"}, r"turned us away: 421 4.3.2 \x1b[2Jbusy"),
        ({"MAIL": b"452 4.3.1 full\r\n"}, "The server refused the sender test@localhost: 452 4.3.1 full"),
    ],
)
def test_what_a_server_says_is_repeated_without_its_control_characters(mailwire, replies, words):
    with RawServer(replies=replies) as raw:
        result = mailwire("send", raw.place)
    assert result.code == 1
    assert result.err.strip().endswith(words)


def test_a_server_that_hangs_up(mailwire):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        result = mailwire("send", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert result.code == 1
    assert result.err.partition(" ")[2] == (
        "hung up before it had taken the mail. "
        "A port that wants TLS from the first byte does that: try --tls implicit.\n"
    )


def test_addresses_beyond_ascii_need_a_server_that_takes_them(mailwire, serve):
    handler, server = serve(enable_SMTPUTF8=True)
    assert mailwire("send", server, "--to", "tür@gw").code == 0
    assert handler.mails[0][2] == ["tür@gw"]
    _, server = serve()
    refused = mailwire("send", server, "--to", "tür@gw")
    assert (refused.code, refused.err) == (1, "The server takes no addresses beyond ASCII, such as tür@gw.\n")


def test_wrong_use(mailwire, tmp_path):
    assert mailwire("send", "a:b:c:d]:x").code == 1
    assert mailwire("send", "gw:smtp").err == (
        "'gw:smtp' is no HOST[:PORT]; write 192.168.1.10:2525 or [fd00::10]:2525\n"
    )
    missing = tmp_path / "none.eml"
    result = mailwire("send", "--eml", missing)
    assert (result.code, result.err) == (2, f"{missing}: can't be read: No such file or directory\n")
    result = mailwire("send", "--eml", missing, "--picture")
    assert (result.code, result.err) == (2, "--eml is a whole mail: leave out --file and --picture.\n")
    result = mailwire("send", "--subject", "a\nb")
    assert (result.code, result.err) == (2, r"'a\nb' has more than one line." + "\n")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gw", ("gw", 2525)),
        ("gw:25", ("gw", 25)),
        ("[fd00::1]:25", ("fd00::1", 25)),
        ("[fd00::1]", ("fd00::1", 2525)),
        ("fd00::1", ("fd00::1", 2525)),
    ],
)
def test_places(text, wanted):
    assert submit.place(text) == wanted


@pytest.mark.parametrize("text", ["", ":25", "gw:", "gw:0", "gw:65536", "gw:x", "[]:25", "gw:²"])
def test_places_that_are_none(text):
    with pytest.raises(ValueError, match="is no HOST"):
        submit.place(text)


def test_a_reader_that_has_seen_enough_is_no_fault_of_the_server(serve):
    _, server = serve()
    line = f"'{sys.executable}' -m gateway send {server} --count 200 | head -n 1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "1 of 200  250 2.0.0 Ok: stored as 1\n", "")


def test_what_is_told_may_be_latin_1(mailwire, here, data, fill, monkeypatch):
    """As an old script pipes it, whatever the locale."""
    fill()
    post = "{type: smtp_relay, url: 'smtp://127.0.0.1:9', starttls: never, from: a@b.example, to: [c@d.example]}"
    (here / "mailwire.yaml").write_text(f"integrations: {{post: {post}}}\nstore: {{data: {data}}}\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"W\xe4rme\n")))
    (event,) = mailwire("notify", "post", "--json").documents
    assert event["title"] == "Wärme"
