"""The reasons why aiosmtpd and we differ are true: each has its example, and what is by the book has none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dialog import stuffed
from tests.fuzz import reasons
from tests.fuzz.aiosmtpd import Unexplained, differences, fuzz_aiosmtpd

DEVICE, STRICT, LOGIN, SMALL = b"\0", b"\1", b"\2", b"\3"
HELLO = b"EHLO x\r\n"
MAIL = b"MAIL FROM:<a@b>\r\n"
DATA = HELLO + MAIL + b"RCPT TO:<c@d>\r\nDATA\r\n"
EXAMPLES = {
    "long-command": DEVICE + b"NOOP " + b"x" * 600 + b"\r\n",
    "long-content-line": DEVICE + DATA + b"x" * 1001 + b"\r\n.\r\n",
    "size-of-dots": SMALL + DATA + b"..........\r\n" * 9 + b".\r\n",
    "unknown-commands": DEVICE + b"X\r\n" * 5,
    "errors": DEVICE + b"RCPT\r\n" * 21,
    "long-address": DEVICE + HELLO + b"MAIL FROM:<" + b"x" * 300 + b"@b>\r\n",
    "http": DEVICE + b"GET / HTTP/1.1\r\n",
    "tls-hello": DEVICE + b"\x16\x03\x01\r\n",
    "separators": DEVICE + HELLO + b"AUTH LOGIN\x1eY2Ft\r\n",
    "digits": STRICT + HELLO + "MAIL FROM:<a@b> SIZE=\u0663\r\n".encode(),
    "bdat": DEVICE + HELLO + b"BDAT x\r\n",
    "starttls": DEVICE + b"STARTTLS\r\n",
    "help": DEVICE + b"HELP me\r\n",
    "vrfy": DEVICE + b"VRFY @\r\n",
    "auth-parameter": DEVICE + HELLO + b"MAIL FROM:<a@b> AUTH=<>\r\n",
    "auth-after-helo": DEVICE + b"HELO x\r\nAUTH PLAIN\r\n",
    "auth-in-a-mail": DEVICE + HELLO + MAIL + b"AUTH PLAIN\r\n",
    "auth-mechanism": DEVICE + HELLO + b"AUTH login\r\n",
    "auth-response": DEVICE + HELLO + b"AUTH LOGIN Y2E\r\n",
    "blanks": DEVICE + b"\tNOOP\r\n",
    "nuls": STRICT + b"HELO \0\r\n",
    "auth-separators": DEVICE + HELLO + b"AUTH LOGIN\r\nY2Ft\x0c\r\n",
    "comments": STRICT + HELLO + b"MAIL FROM:<a@b> (\r\n",
    "arguments": DEVICE + b"RSET now\r\n",
    "hello-without-name": DEVICE + b"HELO\r\n",
    "address-form": DEVICE + HELLO + b"MAIL FROM:Cam <a@b>\r\n",
    "parameters": DEVICE + HELLO + b"MAIL FROM:<a@b> X=1\r\n",
    "outlines": STRICT + HELLO + b"MAIL FROM:<a@b..c>\r\n",
    "lone-lf": STRICT + b"NOOP\n",
    "strict-address": STRICT + HELLO + b"MAIL FROM:a@b\r\n",
    "strict-parameters": STRICT + HELLO + b"MAIL FROM:<a@b> SIZE=1 SIZE=1\r\n",
    "strict-helo-parameters": STRICT + b"HELO x\r\nMAIL FROM:<a@b> SIZE=1\r\n",
    "control-characters": DEVICE + HELLO + b"MAIL FROM:<a\x01@b>\r\n",
    "empty-path": DEVICE + HELLO + MAIL + b"RCPT TO:<>\r\n",
    "size-as-address": DEVICE + HELLO + b"MAIL FROM:a SIZE=99999999999\r\n",
    "name": DEVICE + DATA.replace(b"EHLO x", b"EHLO x\x01") + b".\r\n",
    "address-text": DEVICE + DATA.replace(b"a@b", b"a (me)@b") + b".\r\n",
}


@pytest.mark.parametrize("name", reasons.REASONS)
def test_a_reason_is_true(name):
    found = [reasons.reason(difference) for difference in differences(EXAMPLES[name])]
    assert found == [name]


def test_every_example_has_its_reason():
    assert EXAMPLES.keys() == reasons.REASONS.keys()
    assert all(why.endswith(".") for why, _ in reasons.REASONS.values())


@pytest.mark.parametrize("name", reasons.REASONS)
def test_without_its_reason_it_is_a_crash(name, monkeypatch):
    monkeypatch.setattr(reasons, "REASONS", {})
    with pytest.raises(Unexplained, match="no reason is known for Difference"):
        fuzz_aiosmtpd(EXAMPLES[name])


ATOM = st.text("abcXYZ019!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=12)
LABEL = st.from_regex("[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True)
MAILBOX = st.builds(
    lambda local, domain: f"<{'.'.join(local)}@{'.'.join(domain)}>",
    st.lists(ATOM, min_size=1, max_size=3),
    st.lists(LABEL, min_size=1, max_size=3),
)
PARAMETERS = st.lists(st.sampled_from(["SIZE=90", "BODY=7BIT", "BODY=8BITMIME", "SMTPUTF8"]), unique=True, max_size=2)
CONTENT = st.lists(st.binary(max_size=80) | st.sampled_from([b".", b"..", b"\r\n.", b"\n.\n", b"\r.\r", b"."])).map(
    b"".join
)
ONE_MAIL = st.builds(
    lambda sender, parameters, recipients, content: (
        f"MAIL FROM:{' '.join([sender, *parameters])}\r\n".encode()
        + b"".join(f"RCPT TO:{mailbox}\r\n".encode() for mailbox in recipients)
        + b"DATA\r\n"
        + stuffed(content)
    ),
    st.one_of(st.just("<>"), MAILBOX),
    PARAMETERS.filter(lambda words: sum(word.startswith("BODY") for word in words) < 2),
    st.lists(MAILBOX, min_size=1, max_size=3),
    CONTENT,
)
BETWEEN = st.sampled_from([b"RSET\r\n", b"NOOP\r\n", HELLO, b"VRFY <a@b>\r\n", b"EXPN x\r\n", MAIL + HELLO])


@settings(deadline=None)
@given(st.sampled_from([DEVICE, STRICT]), st.lists(ONE_MAIL | BETWEEN, max_size=6))
def test_what_is_by_the_book_is_taken_alike(listener, words):
    assert list(differences(listener + HELLO + b"".join(words) + b"QUIT\r\n")) == []


@settings(deadline=None)
@given(
    st.sampled_from([b"HELO", b"EHLO"]),
    st.sampled_from([b"RCPT TO:<a@b>", b"DATA", b"AUTH LOGIN", b"XYZ", MAIL.strip()]),
)
def test_what_is_out_of_order_is_refused_alike(hello, command):
    for said in (command, hello + b" x\r\n" + command + b"\r\n" + command):
        assert [reasons.reason(found) for found in differences(STRICT + said + b"\r\n")] == []
