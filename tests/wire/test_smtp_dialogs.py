"""Every dialog at the session itself, in memory, cut into chunks of several sizes."""

import pytest

from gateway.wire import smtp
from tests.dialog import Dialog, MemoryLine, Received, check, load_all, play
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
