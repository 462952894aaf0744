"""Every dialog at the live gateway over TCP: replies, the mails kept, and the events that came of them."""

import json
import time

import pytest

from gateway.store import Store
from tests.dialog import LISTENERS, Mismatch, Received, Wanted, answers, check, load_all, play_over_tcp
from tests.live import Gateway, until

# What a listener of each name is in a configuration.
CONFIGS = {
    "plain": "tls: none, login: any",
    "no-login": "tls: none, login: none",
    "login-optional": "tls: none, login: optional, users: {cam: secret}",
    "login-required": "tls: none, login: required, users: {cam: secret}",
    "tls-offered": "tls: offered",
    "tls-required": "tls: required",
    "implicit": "tls: implicit, login: optional, users: {cam: secret}",
    "strict": "tls: none, tolerance: strict, login: optional, users: {cam: secret}",
}
OPTIONS = {"bare_lf": 'bare_lf: ["127.0.0.1"]', "max_commands": "max_commands: 10", "max_size": "max_size: 65536"}
SESSION_ONLY = {"chunking", "dsn"}  # options that only a board switches off


def is_for_listeners(dialog):
    """Whether a listener can be as the dialog wants it: none may take less than 64 KiB."""
    return not SESSION_ONLY & set(dialog.options) and dialog.options.get("max_size", 65536) == 65536


DIALOGS = [dialog for dialog in load_all() if is_for_listeners(dialog)]


def listener_name(dialog):
    return "-".join([dialog.listener, *sorted(dialog.options)]).replace("_", "-")


def configuration(duplicates):
    lines = ["integrations:"]
    for name in sorted({listener_name(dialog) for dialog in DIALOGS}):
        base = max((base for base in CONFIGS if name.startswith(base)), key=len)
        extra = [text for option, text in OPTIONS.items() if option.replace("_", "-") in name]
        keys = ", ".join(["type: smtp_server", "hostname: gw", 'listen: ["127.0.0.1:0"]', CONFIGS[base], *extra])
        lines.append(f"  {name}: {{{keys}}}")
    return "\n".join([*lines, f"duplicates: {duplicates}", ""])


class Live:
    """The gateway, its ports, and its store as a reader beside it."""

    def __init__(self, folder, duplicates):
        self.gateway = Gateway(folder, configuration(duplicates)).start()
        lines = [line.split() for line in self.gateway.greeting.splitlines() if "127.0.0.1:" in line]
        self.ports = {
            line[0]: int(next(word for word in line if word.startswith("127.0.0.1:")).split(":")[1]) for line in lines
        }
        self.store = Store(self.gateway.data)
        self.seen = 0

    def new_mails(self):
        return sorted((mail for mail in self.store.mails(1000) if mail.seq > self.seen), key=lambda mail: mail.seq)

    def interpreted(self):
        """The mails since the dialog before, once none of them waits."""
        until(lambda: all(mail.state != "received" for mail in self.new_mails()), "interpreting")
        mails = self.new_mails()
        self.seen = max([self.seen, *(mail.seq for mail in mails)])
        return mails


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    running = Live(tmp_path_factory.mktemp("live"), 0)
    yield running
    assert running.gateway.terminate() == 0


@pytest.fixture(scope="module")
def live_with_duplicates(tmp_path_factory):
    running = Live(tmp_path_factory.mktemp("once"), 60)
    yield running
    assert running.gateway.terminate() == 0


def test_every_listener_has_its_configuration():
    assert set(CONFIGS) == set(LISTENERS)


@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
def test_dialog(dialog, request):
    live = request.getfixturevalue("live" if dialog.events is None else "live_with_duplicates")
    play_and_check(dialog, live, listener_name(dialog))


# What an attacker says, and where: cut into segments and TLS records of a byte, inside TLS, and at a strict listener.
PIECES = [
    pytest.param(dialog, listener, size, id=f"{dialog.name}-{listener}-{size or 'whole'}")
    for dialog in DIALOGS
    if dialog.name.startswith(("hostile-smuggling-", "bdat-", "tls-"))
    and not any(step.verb == "starttls" and step.data for step in dialog.steps)  # that goes out with STARTTLS or never
    for listener, size in [
        (listener_name(dialog), 1),
        *([("implicit", None), ("implicit", 1), ("strict", None)] if dialog.session_options == {} else []),
    ]
    if listener != "strict" or dialog.name.startswith("hostile-smuggling-")
]


@pytest.mark.parametrize(("dialog", "listener", "size"), PIECES)
def test_dialog_in_pieces(dialog, listener, size, live):
    play_and_check(dialog, live, listener, size)


def play_and_check(dialog, live, listener, size=None):
    port = live.ports[listener]
    implicit = listener == "implicit"
    start = time.monotonic()
    play_over_tcp(dialog, "127.0.0.1", port, implicit=implicit, size=size)
    # What breaks off is worked off without anybody waiting; a whole dialog with the gateway comes after it.
    assert answers("127.0.0.1", port, implicit=implicit)
    if not dialog.steps[-1].verb.startswith("<"):
        until(lambda: len(live.new_mails()) >= dialog.mails[0], "keeping the mail")
    mails = live.interpreted()
    elapsed = time.monotonic() - start
    check(
        dialog,
        [
            Received(
                mail.envelope.mail_from,
                mail.envelope.rcpt_to,
                bytes(live.store.content(mail)),
                mail.envelope.helo,
                mail.envelope.details.get("user"),
            )
            for mail in mails
        ],
    )
    if dialog.within is not None:
        assert elapsed < dialog.within
    if dialog.events is not None:
        assert sum(mail.state == "done" for mail in mails) == dialog.events
    for remark in dialog.remarks:
        if mails:
            assert remark in mails[-1].envelope.details.get("remarks", [])
    for number, mail in enumerate(mails, 1):
        if mail.state == "done":
            check_event(dialog, dialog.wanted.get(number, Wanted()), live.store.event(mail.id))


def check_event(dialog, wanted, event):
    assert event is not None
    json.dumps(event, allow_nan=False)
    if wanted.subject is not None:
        assert event["mail"]["subject"] == wanted.subject
    for text in wanted.texts:
        if text not in event["text"]:
            raise Mismatch(f"{dialog.path}: {text!r} is not in {event['text'][:2000]!r}")
    if wanted.attachments:
        got = sorted((one["name"], one["size"], one["sha256"]) for one in event["attachments"])
        assert got == sorted((one.name, one.size, one.sha256) for one in wanted.attachments)
