"""Every dialog at the session itself, in memory, cut into chunks of several sizes."""

import re
from contextlib import nullcontext

import pytest

from gateway.wire import smtp
from tests.dialog import Dialog, MemoryLine, Mismatch, Received, check, load, load_all, play
from tests.wire.owner import Owner

DIALOGS = load_all()


def play_in_memory(dialog: Dialog, size: int | None) -> Owner:
    owner = Owner(keep=True, **dialog.session_options)
    play(dialog, MemoryLine(owner, size))
    return owner


def received(owner: Owner) -> list[Received]:
    envelopes = [entry[1] for entry in owner.log if entry[0] == "mail"]
    return [
        Received(sender, recipients, content, helo, user)
        for (helo, user, sender, recipients), content in zip(envelopes, owner.contents, strict=True)
    ]


@pytest.mark.parametrize("size", [None, 1, 7, 1000], ids=["whole", "by1", "by7", "by1000"])
@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
def test_dialog(dialog, size):
    owner = play_in_memory(dialog, size)
    check(dialog, received(owner))
    remarks = {entry[1] for entry in owner.log if entry[0] == smtp.REMARK}
    # Whether a peer stops behind LF . LF depends on where its bytes are cut.
    assert set(dialog.remarks) <= remarks <= {*dialog.remarks, "lf-end"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("device: x\n", "1: a dialog begins with `# ` and its title"),
        ("# x\nlisten to this\n", "2: not a step: listen to this"),
        ("# x\n< 25\n", "2: not a reply code: 25"),
        ("# x\n> \\q\n", "2: not an escape: \\q"),
        ("# x\nmail: 1\n", "2: not a key: mail"),
        ("# x\nlistener: plain\n< 220\n", "4: a dialog needs `listener:`, one of"),
    ],
)
def test_a_dialog_that_cannot_be_read(tmp_path, text, why):
    path = tmp_path / "x.dialog"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{why}")):
        load(path)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ("< 220\n> NOOP\n< 25.\n> NOOP\n< 354\n", "7: expected 354, got 250 Ok\n  < 220"),
        ("< 220\n> NOOP\n< 250 Fine\n", "5: expected 250 Fine, got 250 Ok\n"),
        ("< 220\n< 250\n", "4: no reply\n"),
        ("< 220\n> NOOP\n> NOOP\n< 250\n", "6: a reply too many: 250 Ok\n"),
        ("< 220\n> QUIT\n< 221\n< 250\n", "6: expected 250, got close\n"),
        ("> NOOP\nsilence 0\n", "4: expected silence, got 220 gw.example ESMTP Mailwire\\r\\n250 Ok\n"),
        ("< 220\nstarttls\n", "4: expected 220, got 502 STARTTLS is not offered\n"),
    ],
)
def test_a_server_that_does_not_do_as_the_dialog_says(tmp_path, steps, why):
    path = tmp_path / "x.dialog"
    path.write_text(f"# x\nlistener: plain\n{steps}mails: 0\n")
    with pytest.raises(Mismatch, match=re.escape(f"{path}:{why}")):
        play_in_memory(load(path), None)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("mails: 0", "0 to 0 mails should be accepted, 1 were"),
        ("mails: 1\nnever-from: a@b", "a mail from a@b was accepted"),
        ("mails: 1\nfrom: x@y", "the sender should be 'x@y', is 'a@b'"),
        ("mails: 1\nto: x@y, c@d", "the recipients should be ['x@y', 'c@d'], is ['c@d']"),
        ("mails: 1\nuser: cam", "the user should be 'cam', is 'eve'"),
        ("mails: 1\nhelo: x", "the name in HELO should be 'x', is 'y'"),
        ("mails: 1\nsha256: 0", "the SHA-256 should be '0', is '2d711642b726"),
        ("mails: 1\ncontent: y\\0", "b'y\\x00' is not in b'x'"),
        ("mails: 1\nnot-content: x", "b'x' is in b'x'"),
        ("mails: 0..2\nfrom 2: x@y", ""),
    ],
)
def test_a_mail_that_is_not_as_the_dialog_says(tmp_path, wanted, why):
    path = tmp_path / "x.dialog"
    path.write_text(f"# x\nlistener: plain\n{wanted}\n")
    with pytest.raises(Mismatch, match=re.escape(why)) if why else nullcontext():
        check(load(path), [Received("a@b", ["c@d"], b"x", "y", "eve")])
