"""What the dialogs don't show of the SMTP session: its owner's side, the words of its replies, and properties."""

import base64
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gateway.wire import smtp
from gateway.wire.smtp import ABORT, AUTH, BEGIN, BODY, CLOSE, MAIL, REMARK, STARTTLS, Session
from gateway.wire.smtp_remarks import REMARKS
from tests.dialog import MemoryLine, load_all, play, stuffed
from tests.wire.owner import Owner

ENVELOPE = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"


def greeted(**options):
    session = Session("gw.example", **options)
    session.receive(b"EHLO device\r\n")
    session.output()
    return session


def ask(session, data):
    """The replies to some bytes."""
    session.receive(data)
    return session.output().decode()


def in_data(**options):
    session = greeted(**options)
    session.receive(ENVELOPE + b"DATA\r\n")
    session.output()
    return session


# --- replies -------------------------------------------------------------------------------------------------------


def test_greeting():
    assert Session("gw.example").greeting() == b"220 gw.example ESMTP Mailwire\r\n"


def test_ehlo_lists_what_is_offered():
    assert ask(Session("gw", max_size=1000, dsn=True, tls="offered"), b"EHLO x\r\n") == (
        "250-gw\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-PIPELINING\r\n250-CHUNKING\r\n"
        "250-SMTPUTF8\r\n250-DSN\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250 HELP\r\n"
    )


def test_ehlo_of_a_small_board():
    session = Session("gw", max_size=16384, login="none", chunking=False, smtputf8=False, pipelining=False)
    assert (
        ask(session, b"EHLO x\r\n")
        == "250-gw\r\n250-SIZE 16384\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 HELP\r\n"
    )


def test_a_login_is_not_offered_before_the_tls_that_it_needs():
    assert "AUTH" not in ask(Session("gw", tls="required"), b"EHLO x\r\n")
    assert "STARTTLS" not in ask(Session("gw", tls="required", secure=True), b"EHLO x\r\n")
    assert "AUTH PLAIN LOGIN" in ask(Session("gw", tls="required", secure=True), b"EHLO x\r\n")


def test_a_device_with_bare_lf_is_not_offered_chunks():
    assert "CHUNKING" not in ask(Session("gw", bare_lf=True), b"EHLO x\n")


@pytest.mark.parametrize(
    ("said", "options", "reply"),
    [
        ("HELO x", {}, "250 gw.example"),
        ("NOOP", {}, "250 2.0.0 Ok"),
        ("RSET", {}, "250 2.0.0 Ok"),
        ("HELP", {}, "214 2.0.0 This is Mailwire; it takes mail by RFC 5321"),
        ("VRFY a", {}, "252 2.0.0 Can't verify, but mail for it will be tried"),
        ("VRFY", {}, "501 5.5.4 Syntax: VRFY address"),
        ("EXPN a", {}, "502 5.5.1 Command not implemented"),
        ("XYZZY", {}, "500 5.5.1 Command not recognized"),
        ("", {}, "500 5.5.1 Command not recognized"),
        ("QUIT", {}, "221 2.0.0 Bye"),
        ("MAIL FROM:<a@b>", {}, "250 2.1.0 Ok"),
        ("MAIL FROM:<>", {}, "250 2.1.0 Ok"),
        ("MAIL", {}, "501 5.1.7 Syntax: MAIL FROM:<address>"),
        ("MAIL FROM:<a\x01@b>", {}, "501 5.1.7 Control character"),
        ("MAIL FROM:<" + "a" * 257 + ">", {}, "501 5.1.7 Address too long"),
        ("MAIL FROM:>", {}, "501 5.1.7 Empty address"),
        ("MAIL FROM:<a@b> SIZE=2000", {"max_size": 1000}, "552 5.3.4 Message too big"),
        ("MAIL FROM:<a@b> SIZE=2000", {"room": lambda: 1999}, "452 4.3.1 Not enough storage now, try again later"),
        ("MAIL FROM:<a@b> SIZE=2000", {"room": lambda: 2000}, "250 2.1.0 Ok"),
        ("MAIL FROM:<a@b>", {"login": "required"}, "530 5.7.0 Authentication required"),
        ("MAIL FROM:<a@b>", {"tls": "required"}, "530 5.7.0 Must issue a STARTTLS command first"),
        ("MAIL FROM:<a>", {"strict": True}, "501 5.1.7 Malformed address"),
        ("MAIL FROM:<a@[]>", {"strict": True}, "501 5.1.7 Malformed address"),
        ('MAIL FROM:<"a"@"@b>', {"strict": True}, "501 5.1.7 Malformed address"),
        ('MAIL FROM:<"a\\"@"@b>', {"strict": True}, "250 2.1.0 Ok"),
        ('MAIL FROM:<"\u00fc"@b> SMTPUTF8', {"strict": True}, "250 2.1.0 Ok"),
        ("MAIL FROM:<a@b> X=1", {"strict": True}, "555 5.5.4 Parameter not recognized"),
        ("MAIL FROM:<a@b> AUTH=<>", {"strict": True, "login": "none"}, "555 5.5.4 Parameter not recognized"),
        ("MAIL FROM:<a@b> SIZE=x", {"strict": True}, "501 5.5.4 Malformed parameter"),
        ("MAIL FROM:<\xfc@b>", {"strict": True}, "553 5.6.7 This address needs SMTPUTF8"),
        ("MAIL FROM:<\xfc@b> SMTPUTF8", {"strict": True, "smtputf8": False}, "555 5.5.4 Parameter not recognized"),
        ("RCPT TO:<a@b>", {}, "503 5.5.1 Need MAIL first"),
        ("DATA", {}, "503 5.5.1 Need MAIL first"),
        ("BDAT 0", {}, "503 5.5.1 Need MAIL first"),
        ("BDAT x", {}, "501 5.5.4 Syntax: BDAT size [LAST]"),
        ("BDAT", {}, "501 5.5.4 Syntax: BDAT size [LAST]"),
        ("BDAT 0", {"chunking": False}, "502 5.5.1 BDAT is not offered"),
        ("HELO", {"strict": True}, "501 5.5.4 Say your name"),
        ("RSET x", {"strict": True}, "501 5.5.4 RSET takes no argument"),
        ("QUIT x", {"strict": True}, "501 5.5.4 QUIT takes no argument"),
        ("STARTTLS", {}, "502 5.5.1 STARTTLS is not offered"),
        ("STARTTLS", {"tls": "offered"}, "220 2.0.0 Ready to start TLS"),
        ("STARTTLS x", {"tls": "offered"}, "501 5.5.4 STARTTLS takes no argument"),
        ("STARTTLS", {"tls": "offered", "secure": True}, "503 5.5.1 TLS is active already"),
        ("AUTH PLAIN", {}, "334 "),
        ("AUTH LOGIN", {}, "334 VXNlcm5hbWU6"),
        ("AUTH LOGIN YQ==", {}, "334 UGFzc3dvcmQ6"),
        ("AUTH PLAIN AGEAYg==", {}, "235 2.7.0 Authentication successful"),
        ("AUTH PLAIN ?", {}, "501 5.5.2 This is not base64"),
        ("AUTH PLAIN AAAAA", {}, "501 5.5.2 This is not base64"),
        ("AUTH", {}, "501 5.5.4 Syntax: AUTH mechanism [initial response]"),
        ("AUTH CRAM-MD5", {}, "504 5.5.4 Mechanism not offered: use PLAIN or LOGIN"),
        ("AUTH PLAIN", {"login": "none"}, "502 5.5.1 AUTH is not offered"),
        ("AUTH PLAIN", {"tls": "required"}, "530 5.7.0 Must issue a STARTTLS command first"),
        ("GET / HTTP/1.1", {}, "421 4.7.0 gw.example This is SMTP, not HTTP"),
    ],
)
def test_reply(said, options, reply):
    assert ask(greeted(**options), said.encode() + b"\r\n") == reply + "\r\n"


@pytest.mark.parametrize(
    ("said", "options", "reply"),
    [
        ("MAIL FROM:<x@y>", {}, "503 5.5.1 A mail is under way, RSET first"),
        ("RCPT TO:<x@y>", {}, "250 2.1.5 Ok"),
        ("RCPT TO:<>", {}, "501 5.1.3 Empty address"),
        ("RCPT TO", {}, "501 5.1.3 Syntax: RCPT TO:<address>"),
        ("RCPT TO:<x@y>", {"max_recipients": 1}, "452 4.5.3 Too many recipients"),
        ("RCPT TO:<x@y>", {"recipient": lambda address: address != "x@y"}, "550 5.1.1 No such recipient here"),
        ("DATA", {}, "354 End with <CRLF>.<CRLF>"),
        ("DATA x", {"strict": True}, "501 5.5.4 DATA takes no argument"),
        ("DATA", {"room": lambda: 0}, "452 4.3.1 Not enough storage now, try again later"),
        ("BDAT 2\r\nab", {}, "250 2.0.0 Ok: chunk taken"),
        ("BDAT 2\r\nab", {"room": lambda: 1}, "452 4.3.1 Not enough storage now, try again later"),
        ("BDAT 2\r\nabDATA", {}, "250 2.0.0 Ok: chunk taken\r\n503 5.5.1 Not after BDAT"),
        ("BDAT 2\r\nabRCPT TO:<x@y>", {}, "250 2.0.0 Ok: chunk taken\r\n503 5.5.1 The content has begun"),
        ("AUTH PLAIN", {}, "503 5.5.1 Not during a mail"),
        ("AUTH PLAIN", {"login": "optional"}, "503 5.5.1 Not during a mail"),
    ],
)
def test_reply_during_a_transaction(said, options, reply):
    session = greeted(**options)
    assert ask(session, ENVELOPE) == "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n"
    replies = ask(session, said.encode() + b"\r\n")
    assert replies.removesuffix("500 5.5.1 Command not recognized\r\n") == reply + "\r\n"


def test_replies_to_helo_have_no_enhanced_codes():
    session = Session("gw")
    assert ask(session, b"HELO x\r\n" + ENVELOPE) == "250 gw\r\n250 Ok\r\n250 Ok\r\n"
    assert ask(session, b"DATA\r\n.\r\n") == "354 End with <CRLF>.<CRLF>\r\n"
    session.mail_done("1")
    assert session.output() == b"250 Ok: stored as 1\r\n"


# --- the owner's side ------------------------------------------------------------------------------------------------


def test_the_envelope():
    session = greeted(login="optional", dsn=True)
    session.receive(b"AUTH PLAIN AGNhbQBzZWNyZXQ=\r\n")
    session.auth_done(True)
    session.receive(
        b"MAIL FROM:<a@b> SIZE=3 BODY=8BITMIME ENVID=x+2By\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\nRCPT TO:<e@f>\r\n"
    )
    assert session.receive(b"DATA\r\nabc\r\n.\r\n") == [(BEGIN,), (BODY, b"abc\r\n"), (MAIL,)]
    assert (session.helo, session.esmtp, session.user, session.secure) == ("device", True, "cam", False)
    assert (session.mail_from, session.recipients) == ("a@b", ["c@d", "e@f"])
    assert session.params == {"SIZE": "3", "BODY": "8BITMIME", "ENVID": "x+2By"}
    assert session.recipient_params == {"c@d": {"NOTIFY": "NEVER"}}
    assert session.size == 5
    recipients = session.recipients
    session.mail_done("1")
    assert (session.mail_from, session.recipients, session.params, session.size) == (None, [], {}, 0)
    assert recipients == ["c@d", "e@f"]  # the owner's to keep


def test_without_dsn_nothing_of_a_recipient_is_kept_but_its_address():
    session = greeted()
    words = b" ".join(b"P%d=x" % number for number in range(smtp.PARAMETERS))
    session.receive(b"MAIL FROM:<a@b> " + words + b"\r\n")
    session.receive(b"".join(b"RCPT TO:<c%d@d> " % number + words + b"\r\n" for number in range(100)))
    assert (len(session.params), len(session.recipients), session.recipient_params) == (smtp.PARAMETERS, 100, {})


def test_250_is_said_when_the_owner_says_so():
    session = in_data()
    assert session.receive(b"x\r\n.\r\nNOOP\r\n")[-1] == (MAIL,)
    assert session.waiting
    assert session.output() == b""
    assert session.receive(b"NOOP\r\n") == []
    assert session.output() == b""
    assert session.mail_done("01JD") == []
    assert session.output() == b"250 2.0.0 Ok: stored as 01JD\r\n250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n"
    assert session.idle


def test_pipelined_events_come_from_the_answer():
    session = in_data()
    session.receive(b"x\r\n.\r\n" + ENVELOPE + b"DATA\r\ny\r\n.\r\nQUIT\r\n")
    assert session.mail_done("1") == [(BEGIN,), (BODY, b"y\r\n"), (MAIL,)]
    assert session.mail_done("2") == [(CLOSE, "quit")]


def test_a_mail_that_could_not_be_kept():
    session = in_data()
    session.receive(b"x\r\n.\r\n")
    assert session.mail_failed(451, "4.3.0", "Disk\r\n250 trouble") == []
    assert session.output() == b"451 4.3.0 Disk 250 trouble\r\n"
    assert session.idle


def test_a_mail_that_is_given_up_on_its_way():
    session = in_data()
    session.receive(b"abc\r\ndef")
    session.fail_mail(452, "4.3.1", "Full")
    assert session.receive(b"ghi\r\n.\r\n") == []
    assert session.output() == b"452 4.3.1 Full\r\n"
    assert session.idle


def test_a_mail_that_is_given_up_too_late():
    session = in_data()
    assert session.receive(b"abc\r\n.\r\n") == [(BODY, b"abc\r\n"), (MAIL,)]
    session.fail_mail(452, "4.3.1", "Full")
    assert session.waiting
    session.mail_failed(452, "4.3.1", "Full")
    assert session.output() == b"452 4.3.1 Full\r\n"


def test_a_mail_that_is_given_up_between_chunks():
    session = greeted()
    session.receive(ENVELOPE + b"BDAT 2\r\nab")
    session.fail_mail(451, "4.3.0", "No")
    session.output()
    assert session.receive(b"BDAT 2\r\ncdBDAT 2 LAST\r\nef") == []
    assert session.output() == b"451 4.3.0 No\r\n503 5.5.1 Need MAIL first\r\n"


def test_false_ends_in_a_mail_that_was_given_up():
    session = in_data()
    session.receive(b"abc")
    session.fail_mail(452, "4.3.1", "Full")
    ends = (
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r\n",
        b"\r.\r",
        b"\n.\r",
        b"\r\n\0.\r\n",
        b"\r\n.\r\r\n",
        b"\r\n.\0\r\n",
    )
    for end in ends:
        assert session.receive(end + b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<a>\r\nDATA\r\n") == []
    assert session.output() == b""
    assert session.receive(b".\r\nMAIL FROM:<a>\r\n") == []
    assert session.output() == b"452 4.3.1 Full\r\n250 2.1.0 Ok\r\n"
    assert session.mail_from == "a"


def test_no_more_replies_than_somebody_may_read():
    session = greeted()
    assert session.receive(b"NOOP\r\n" * 1000 + ENVELOPE + b"DATA\r\nx\r\n.\r\nNOOP\r\n") == []
    taken, rounds, events = session.output().count(b"\r\n"), 1, []
    assert taken == smtp.REPLIES
    while session.more:
        events += session.go_on()
        rounds += 1
        taken += session.output().count(b"\r\n")
    assert (taken, rounds, events) == (1003, 4, [(BEGIN,), (BODY, b"x\r\n"), (MAIL,)])
    session.receive(b"NOOP\r\n" * smtp.REPLIES)
    assert session.mail_done("ID") == []
    assert session.more
    assert session.output().count(b"\r\n") == smtp.REPLIES
    assert session.receive(b"QUIT\r\n") == [(CLOSE, "quit")]
    assert session.output().count(b"\r\n") == 3
    assert not session.more


def test_a_mail_that_was_given_up_is_not_aborted_too():
    session = greeted()
    session.receive(ENVELOPE + b"BDAT 2\r\nab")
    session.fail_mail(451, "4.3.0", "No")
    assert session.receive(b"RSET\r\n") == []


def test_too_big_is_said_at_the_end():
    session = in_data(max_size=10)
    assert session.receive(b"12345678\r\n") == [(BODY, b"12345678")]
    assert session.receive(b"x") == [(ABORT,)]
    assert session.in_mail
    assert session.receive(b"yz\r\n.\r\n") == []
    assert session.output() == b"552 5.3.4 Message too big\r\n"


@pytest.mark.parametrize("command", [b"RSET", b"EHLO x", b"QUIT", b"BDAT 0 NEXT", b"BDAT x", b"STARTTLS", b"GET /"])
def test_a_mail_given_up_between_chunks_is_aborted(command):
    session = greeted(tls="offered")
    assert session.receive(ENVELOPE + b"BDAT 2\r\nab") == [(BEGIN,), (BODY, b"ab")]
    events = session.receive(command + b"\r\n")
    assert (ABORT,) in events
    assert (MAIL,) not in events


def test_login():
    session = greeted(login="required")
    assert session.receive(b"AUTH PLAIN AGNhbQBzZWNyZXQ=\r\nNOOP\r\n") == [(AUTH, "PLAIN", "cam", "secret")]
    assert session.waiting
    assert session.output() == b""
    session.auth_done(False)
    assert session.output() == b"535 5.7.8 Authentication credentials invalid\r\n250 2.0.0 Ok\r\n"
    assert session.receive(b"AUTH LOGIN\r\nY2Ft\r\nc2VjcmV0\r\n") == [(AUTH, "LOGIN", "cam", "secret")]
    session.auth_done(True)
    assert session.output().endswith(b"235 2.7.0 Authentication successful\r\n")
    assert session.user == "cam"
    assert ask(session, b"AUTH PLAIN AGNhbQBzZWNyZXQ=\r\n") == "503 5.5.1 Already logged in\r\n"


@pytest.mark.parametrize(
    ("response", "user", "password"),
    [
        (b"\0cam\0secret", "cam", "secret"),
        (b"admin\0cam\0secret", "cam", "secret"),
        (b"cam\0secret", "cam", "secret"),
        (b"\0\0\0cam\0secret", "cam", "secret"),
        (b"cam", "", ""),
        (b"", "", ""),
        ("\0türe\0schlüssel".encode(), "türe", "schlüssel"),
        ("\0türe\0schlüssel".encode("latin-1"), "türe", "schlüssel"),
    ],
)
def test_plain(response, user, password):
    session = greeted(login="optional")
    line = base64.b64encode(response) or b"="
    assert session.receive(b"AUTH PLAIN " + line + b"\r\n") == [(AUTH, "PLAIN", user, password)]


def test_too_many_failed_logins():
    session = greeted(login="optional", max_auth_failures=2)
    session.receive(b"AUTH PLAIN AGEAYg==\r\n")
    assert session.auth_done(False) == []
    session.receive(b"AUTH PLAIN AGEAYg==\r\nNOOP\r\n")
    assert session.auth_done(False) == [(CLOSE, "logins")]
    assert session.output().endswith(b"421 4.7.0 gw.example Too many failed logins\r\n")


def test_what_a_user_is_called_holds_no_control_character():
    session = greeted()
    session.receive(b"AUTH PLAIN " + base64.b64encode(b"\0a\r\nb\0") + b"\r\n")
    assert session.user == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    "hello", [b"\x16\x03\x01\0u", b"\x16\x03\x01\r\n", b"\x16\x03\x01\n", b"\x16\x03" + b"x" * 5000]
)
def test_a_tls_hello_ends_the_session_without_a_word(hello):
    session = Session("gw")
    events = session.receive(hello)
    assert [event[:2] for event in events] == [(REMARK, "tls-hello"), (CLOSE, "tls-hello")]
    assert session.output() == b""


def test_starttls_throws_away_what_is_behind_it():
    session = greeted(tls="offered")
    assert session.receive(b"STARTTLS\r\nNOOP\r\n") == [(STARTTLS,)]
    assert session.receive(b"NOOP\r\n") == []
    assert session.waiting
    assert session.output() == b"220 2.0.0 Ready to start TLS\r\n"
    session.tls_started()
    assert session.secure
    assert not session.waiting
    assert session.output() == b""
    assert session.helo == ""


def test_strict_wants_a_greeting_after_starttls():
    session = greeted(tls="offered", strict=True)
    session.receive(b"STARTTLS\r\n")
    session.output()
    session.tls_started()
    assert ask(session, ENVELOPE).startswith("503 Say HELO or EHLO first\r\n")


def test_what_it_is_doing():
    session = Session("gw")
    assert (session.idle, session.in_mail, session.waiting) == (True, False, False)
    session.receive(b"HELO x\r\n" + ENVELOPE)
    assert (session.idle, session.in_mail, session.waiting) == (False, False, False)
    session.receive(b"DATA\r\n")
    assert (session.idle, session.in_mail, session.waiting) == (False, True, False)
    session.receive(b".\r\n")
    assert (session.idle, session.in_mail, session.waiting) == (False, False, True)
    session.mail_done("1")
    session.receive(b"BDAT 3\r\n")
    assert (session.idle, session.in_mail, session.waiting) == (True, True, False)  # the chunk is nobody's


def test_farewells():
    assert Session("gw").timeout() == b"421 gw Timeout, closing\r\n"
    session = greeted()
    assert session.shutdown() == b"421 4.3.2 gw.example Service shutting down\r\n"
    assert session.receive(b"NOOP\r\n") == []
    assert session.output() == b""


def test_an_answer_after_the_end_is_no_trouble():
    session = in_data()
    session.receive(b".\r\n")
    session.shutdown()
    assert session.mail_done("1") == []
    assert session.auth_done(True) == []
    assert session.output() == b""


def test_nothing_is_read_after_close():
    session = greeted()
    assert session.receive(b"QUIT\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n") == [(CLOSE, "quit")]
    assert session.receive(ENVELOPE) == []
    assert session.output() == b"221 2.0.0 Bye\r\n"


def test_a_remark_is_made_once():
    session = Session("gw")
    events = session.receive(b"HELO\nHELO\nMAIL FROM:a@b\nRCPT TO:c@d\n")
    assert [event[:2] for event in events] == [
        (REMARK, "lf-commands"),
        (REMARK, "empty-helo"),
        (REMARK, "no-brackets"),
    ]
    assert events[1][2] == "It says HELO without a name; its network address stands in for it."


def test_memory_does_not_grow_with_an_endless_line():
    session = greeted()
    for _ in range(100):
        assert session.receive(b"x" * 1000) == []
    assert session._kept == b""
    assert ask(session, b"\r\nNOOP\r\n") == "500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"


def test_an_endless_line_ends_a_login():
    session = greeted(login="optional")
    assert ask(session, b"AUTH PLAIN\r\n" + b"A" * 20000 + b"\r\n") == "334 \r\n500 5.5.2 Line too long\r\n"
    assert ask(session, b"NOOP\r\n") == "250 2.0.0 Ok\r\n"


@pytest.mark.parametrize("line", [b"\x16\x03\n", b"\x16\x03\r\n"])
def test_a_tls_hello_in_a_login_is_but_a_bad_response(line):
    session = greeted()
    assert ask(session, b"AUTH PLAIN\r\n" + line) == "334 \r\n501 5.5.2 This is not base64\r\n"


def test_body_chunks_are_given_on_as_they_come():
    session = in_data()
    assert session.receive(b"ab") == [(BODY, b"ab")]
    assert session.receive(b"c\r") == [(BODY, b"c")]
    assert session.receive(b"\n") == []
    assert session.receive(b".") == []
    assert session.receive(b".x") == [(BODY, b"\r\n.x")]
    assert session.receive(b"\r\n.\r") == []
    assert session.receive(b"\n") == [(BODY, b"\r\n"), (MAIL,)]


@pytest.mark.parametrize(
    "chunks", [(b"a\r", b"\nb\n", b".\n"), (b"a\nb\r\n.\n",), (b"a\n", b"b\r", b"\n", b".", b"\n")]
)
def test_bare_lf(chunks):
    session = in_data(bare_lf=True)
    events = [event for chunk in chunks for event in session.receive(chunk)]
    assert b"".join(event[1] for event in events if event[0] == BODY) == b"a\r\nb\r\n"
    assert events[-1] == (MAIL,)


@pytest.mark.parametrize(
    ("operand", "address", "params"),
    [
        ("<a@b>", "a@b", {}),
        ("<>", "", {}),
        ("<> AUTH=<>", "", {"AUTH": "<>"}),
        ("<a@b> AUTH=<> SIZE=1", "a@b", {"AUTH": "<>", "SIZE": "1"}),
        ("<a@b> ORCPT=rfc822;<c@d>", "a@b", {"ORCPT": "rfc822;<c@d>"}),
        ("<a@b>SIZE=1", "a@b", {"SIZE": "1"}),
        ("a@b", "a@b", {}),
        ("a@b AUTH=<> X", "a@b", {"AUTH": "<>", "X": ""}),
        ("a b@c SIZE=1", "a b@c", {"SIZE": "1"}),
        ("root SIZE=1", "root", {"SIZE": "1"}),
        ("<a@b", "a@b", {}),
        ("<a@b SIZE=1", "a@b", {"SIZE": "1"}),
        ("a@b>", "a@b", {}),
        ("Name<a@b>", "a@b", {}),
        ("Two Words <a@b> SIZE=1", "a@b", {"SIZE": "1"}),
        ('"Quoted <x> Name" <a@b>', "a@b", {}),
        ("<Two Words <a@b>>", "a@b", {}),
        ('<"Name" <a@b>>', "a@b", {}),
        ("<<a@b>>", "a@b", {}),
        ("A <x@y> B <a@b>", "a@b", {}),
        ("<two words@b> SIZE=1", "two words@b", {"SIZE": "1"}),
        ('<"> <"@b> SIZE=1', '"> <"@b', {"SIZE": "1"}),
        ('<"\\"">', '"\\""', {}),
        ("<@r1,@r2:a@b>", "a@b", {}),
        ("<@__>", "@__", {}),
        ("<a@[IPv6:::1]>", "a@[IPv6:::1]", {}),
        ("<a=b@c>", "a=b@c", {}),
        ("<#/+$SYS@b>", "#/+$SYS@b", {}),
    ],
)
def test_address(operand, address, params):
    session = greeted()
    assert ask(session, b"MAIL FROM:" + operand.encode() + b"\r\n") == "250 2.1.0 Ok\r\n"
    assert (session.mail_from, session.params) == (address, params)


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("SIZE=1", True), ("SIZE=", False), ("SIZE=٣", False), ("BODY=7BIT", True), ("BODY=BINARYMIME", False),
        ("SMTPUTF8", True), ("SMTPUTF8=1", False), ("RET=FULL", True), ("RET=SOME", False), ("AUTH=<>", True),
        ("AUTH=a+2B", True), ("AUTH=", False), ("ENVID=a+0A", False), ("ENVID=a+7F", False), ("ENVID=a+2", False),
        ("ENVID=a+2b", False), ("ENVID=a+20", True),
    ],
)  # fmt: skip
def test_strict_parameter(value, right):
    session = greeted(strict=True, dsn=True)
    reply = ask(session, f"MAIL FROM:<a@b> {value}\r\n".encode())
    assert reply == ("250 2.1.0 Ok\r\n" if right else "501 5.5.4 Malformed parameter\r\n")


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("NOTIFY=NEVER", True), ("NOTIFY=SUCCESS,DELAY", True), ("NOTIFY=NEVER,DELAY", False),
        ("ORCPT=rfc822;a@b", True), ("ORCPT=a@b", False), ("ORCPT=;a", False),
    ],
)  # fmt: skip
def test_strict_recipient_parameter(value, right):
    session = greeted(strict=True, dsn=True)
    session.receive(b"MAIL FROM:<a@b>\r\n")
    session.output()
    reply = ask(session, f"RCPT TO:<c@d> {value}\r\n".encode())
    assert reply == ("250 2.1.5 Ok\r\n" if right else "501 5.5.4 Malformed parameter\r\n")


# --- properties ------------------------------------------------------------------------------------------------------


def always(*strategies):
    """`given`, on a machine of any speed."""
    calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    return lambda test: calm(given(*strategies)(test))


def cut(data, places):
    """The data in pieces."""
    places = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def happened(pieces, options):
    """All that an owner saw and sent, told so that it does not depend on where the bytes were cut."""
    owner = Owner(keep=True, **options)
    output = b"".join(owner.feed(piece) for piece in pieces)
    return output, owner.contents, [entry for entry in owner.log if entry[:2] != [REMARK, "lf-end"]]


def spoken(dialog):
    line = MemoryLine(Owner(keep=False, **dialog.session_options))
    play(dialog, line)
    return b"".join(data * times for data, times in line.feeds)


DIALOGS = [dialog for dialog in load_all() if not any(step.verb in ("starttls", "repeat") for step in dialog.steps)]
OPTIONS = st.sampled_from([{}, {"strict": True}, {"login": "required"}, {"tls": "required"}, {"chunking": False}])
WORDS = st.lists(
    st.sampled_from(
        [b"EHLO x", b"HELO", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", b"BDAT 5", b"BDAT 3 LAST", b"RSET", b"QUIT",
         b"AUTH PLAIN", b"AUTH LOGIN Y2Ft", b"c2VjcmV0", b"AGNhbQBzZWNyZXQ=", b"*", b"STARTTLS", b"NOOP", b".", b"..",
         b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\0", b" ", b"\x16\x03", b"x" * 5000, b"text", b"GET /"]
    )
).map(b"".join)  # fmt: skip


@always(st.sampled_from(DIALOGS), st.lists(st.integers(0, 1_000_000), max_size=12))
def test_where_a_dialog_is_cut_changes_nothing(dialog, places):
    data = spoken(dialog)
    assert happened(cut(data, places), dialog.session_options) == happened([data], dialog.session_options)


@always(WORDS, st.lists(st.integers(0, 100_000), max_size=12), OPTIONS)
@example(b"\n\r\n", [2], {})
@example(b"EHLO x\r\nAUTH PLAIN\r\n\x16\x03\r\n", [22], {})
@example(b"EHLO x\r\nAUTH PLAIN\r\n\x16\x03\n", [22], {})
def test_where_rubbish_is_cut_changes_nothing(data, places, options):
    assert happened(cut(data, places), options) == happened([data], options)


@always(st.lists(st.binary(max_size=300)), OPTIONS)
def test_rubbish_never_raises_and_is_no_mail(pieces, options):
    _, contents, _ = happened(pieces, options)
    assert contents == []


@always(st.one_of(st.binary(), st.text("\r\n.x").map(str.encode)), st.lists(st.integers(0, 1000)))
def test_content_never_becomes_a_second_mail(data, places):
    assume((b"\r\n" + data + b"\r\n.\r\n").find(b"\r\n.\r\n") == len(data) + 2)
    pieces = cut(b"EHLO x\r\n" + ENVELOPE + b"DATA\r\n" + data + b"\r\n.\r\nQUIT\r\n", places)
    output, contents, log = happened(pieces, {})
    assert len(contents) == 1
    assert output.endswith(b"354 End with <CRLF>.<CRLF>\r\n250 2.0.0 Ok: stored as mail-1\r\n221 2.0.0 Bye\r\n")
    assert log[-1] == [CLOSE, "quit"]


@always(st.one_of(st.binary(), st.text("\r\n.x").map(str.encode)), st.lists(st.integers(0, 1000)))
def test_a_stuffed_mail_arrives_as_it_was(mail, places):
    _, contents, _ = happened([b"EHLO x\r\n" + ENVELOPE + b"DATA\r\n", *cut(stuffed(mail), places)], {})
    assert contents == [mail if mail.endswith(b"\r\n") or not mail else mail + b"\r\n"]


@always(st.text("\r\n.x").map(str.encode), st.integers(0, 200))
def test_a_dot_at_the_start_of_a_line_is_found_among_many_and_in_much(text, dots):
    for much in (text, b"." * dots + text, b"x" * 5000 + b"." * dots + text, b"." * dots + text + b"x" * 5000):
        assert smtp._line_dot(much) == much.find(b"\r\n.")


@always(st.binary(), st.lists(st.integers(0, 1000)))
def test_chunks_arrive_as_they_were(mail, places):
    chunks = b"".join(b"BDAT %d\r\n%s" % (len(piece), piece) for piece in cut(mail, places))
    _, contents, _ = happened([b"EHLO x\r\n" + ENVELOPE + chunks + b"BDAT 0 LAST\r\n"], {})
    assert contents == [mail]


@always(st.text())
def test_an_address_is_taken_as_it_is_or_refused(address):
    session = greeted()
    session.receive(f"MAIL FROM:<{address}>\r\n".encode("utf-8", "replace"))
    assert session.mail_from is None or not any("\0" <= letter < " " for letter in session.mail_from)


def test_all_remarks_can_be_made():
    assert {remark for dialog in load_all() for remark in dialog.remarks} == set(REMARKS)
