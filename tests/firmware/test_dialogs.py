"""Every shared dialog at the firmware's own server, on the real MicroPython with words of 32 bits."""

import contextlib
import subprocess

import pytest

from tests import needs
from tests.dialog import LISTENERS, Dialog, Mismatch, answers, load_all, play_over_tcp
from tests.firmware.board import Board, free_port
from tests.live import until
from tests.wire.owner import USERS

DIALOGS = load_all()

STRICT = "a board has devices before it, not the Internet: it has no strict listener"
NO_OPTION = "no setting of a board's"
LINES = "a board keeps 1024 octets of a command and 2048 of a login"
RECIPIENTS = "a board takes 100 recipients, as RFC 5321 asks for"

# What a board can't have, each with its reason.
NOT_ON_A_BOARD = {
    **{dialog.name: STRICT for dialog in DIALOGS if dialog.listener == "strict"},
    **{dialog.name: NO_OPTION for dialog in DIALOGS if set(dialog.options) - {"max_size"}},
    "auth-line-of-12288": LINES,
    "hostile-3000-recipients": RECIPIENTS,
}
# Where the mail is taken, and its event is another one than the gateway's.
OTHER_EVENT = {
    "mime-html-line-of-5000": "a board keeps 1024 octets of text",
}

SMTP = {
    "plain": {},
    "no-login": {"login": "none"},
    "login-optional": {"login": "optional"},
    "login-required": {"login": "required"},
    "tls-offered": {"tls": "offered"},
    "tls-required": {"tls": "required"},
    "implicit": {"tls": "implicit", "login": "optional"},
}


def certificate(folder):
    """As README.md tells a person to make one."""
    openssl = needs.program("openssl", "openssl")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=board", "-outform", "DER", "-out", "cert.der", "-keyout", "key.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    command = [openssl, "pkey", "-in", "key.pem", "-outform", "DER", "-out", "key.der"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """One running board for each listener that is asked for."""
    with contextlib.ExitStack() as stack:
        running: dict[tuple, Board] = {}

        def get(listener: str, max_size: int) -> Board:
            key = (listener, max_size)
            if key not in running:
                smtp = {"port": free_port(), "max_size": max_size, "users": USERS} | SMTP[listener]
                settings = {"name": "gw", "smtp": smtp, "ntp": False, "spool": 2**24}
                folder = tmp_path_factory.mktemp("board")
                certificate(folder)
                board = Board(folder, settings, build="i386")
                stack.callback(board.stop)
                running[key] = board.started()
            return running[key]

        yield get


ON_A_BOARD = [dialog for dialog in DIALOGS if dialog.name not in NOT_ON_A_BOARD]


@pytest.mark.parametrize("dialog", ON_A_BOARD, ids=lambda dialog: dialog.name)
def test_dialog(dialog: Dialog, boards):
    board = boards(dialog.listener, dialog.options.get("max_size", 67108864))
    port = board.settings["smtp"]["port"]
    before = len(board.spool())
    board.read()
    play_over_tcp(dialog, "127.0.0.1", port)
    least, most = dialog.mails
    until(lambda: len(board.spool()) >= before + least, f"{least} events")
    assert answers("127.0.0.1", port, implicit=dialog.listener == "implicit")
    events = board.events()[before:]
    assert len(events) <= most
    for number, event in enumerate(events, 1):
        if dialog.name not in OTHER_EVENT:
            compare(dialog, number, event)
    board.read()
    assert b"Traceback" not in board.output, board.output.decode()


def compare(dialog: Dialog, number: int, event: dict) -> None:
    mail = event["mail"]
    assert mail["from"] not in dialog.never_from
    wanted = dialog.wanted.get(number)
    if wanted is None:
        return
    assert wanted.recipients is None or mail["to"] == wanted.recipients
    assert wanted.helo is None or (mail["helo"] or "") == wanted.helo
    assert wanted.subject is None or mail["subject"] == wanted.subject
    for text in wanted.texts:
        assert " ".join(text.split()) in " ".join(event["text"].split())
    found = sorted((one["name"], one["size"], one["sha256"]) for one in event["attachments"])
    if wanted.attachments:
        assert found == sorted((one.name, one.size, one.sha256) for one in wanted.attachments)


def test_the_list_of_what_a_board_can_not_have(boards):
    assert set(NOT_ON_A_BOARD) | set(OTHER_EVENT) <= {dialog.name for dialog in DIALOGS}
    assert set(SMTP) == set(LISTENERS) - {"strict"}
    for dialog in DIALOGS:
        if NOT_ON_A_BOARD.get(dialog.name) in (LINES, RECIPIENTS):
            board = boards(dialog.listener, 67108864)
            with pytest.raises(Mismatch):
                play_over_tcp(dialog, "127.0.0.1", board.settings["smtp"]["port"])


@pytest.mark.parametrize("name", OTHER_EVENT)
def test_the_list_of_other_events(name, boards):
    dialog = next(dialog for dialog in DIALOGS if dialog.name == name)
    board = boards(dialog.listener, 67108864)
    before = len(board.spool())
    play_over_tcp(dialog, "127.0.0.1", board.settings["smtp"]["port"])
    with pytest.raises(AssertionError):
        compare(dialog, 1, board.events()[before])
