"""Mail to the firmware under the real MicroPython: by several clients at once, through faults, within its limits."""

import contextlib
import json
import random
import smtplib
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import pytest

from tests import needs
from tests.firmware.board import BUILDS, Board, free_port
from tests.firmware.test_dialogs import certificate
from tests.live import until

JPEG = b"\xff\xd8\xff\xe0" + random.Random(1).randbytes(12000)


def settings(**smtp):
    return {"name": "attic", "smtp": {"port": free_port()} | smtp, "ntp": False, "spool": 2**22}


def mail(subject, picture=JPEG):
    message = EmailMessage()
    message["From"] = "Front door <door@lan.example>"
    message["To"] = "alerts@attic"
    message["Subject"] = subject
    message.set_content("Motion was seen.\n")
    if picture:
        message.add_attachment(picture, maintype="image", subtype="jpeg", filename="snap.jpg")
    return message


def send(board, subject, picture=JPEG, **tls):
    """One mail with smtplib; what the server said at its end."""
    client = smtplib.SMTP_SSL if tls.get("implicit") else smtplib.SMTP
    with client("127.0.0.1", board.settings["smtp"]["port"], timeout=20) as smtp:
        if tls.get("starttls"):
            smtp.starttls()
        smtp.send_message(mail(subject, picture))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_clients_at_once(tmp_path, build, count):
    with Board(tmp_path / "flash", settings(), build=build).started() as board, ThreadPoolExecutor(count) as pool:
        subjects = [f"Motion detected {number}" for number in range(3 * count)]
        list(pool.map(lambda subject: send(board, subject), subjects))
        events = board.events()
        assert sorted(event["title"] for event in events) == sorted(subjects)
        assert {(event["kind"], event["state"], event["severity"]) for event in events} == {("motion", "on", "warning")}
        assert {event["device"]["id"] for event in events} == {"front_door"}
        assert [one["size"] for event in events for one in event["attachments"]] == [len(JPEG)] * len(events)


@pytest.mark.parametrize("way", [{"implicit": True}, {"starttls": True}])
def test_inside_tls(tmp_path, way):
    folder = tmp_path / "flash"
    folder.mkdir()
    certificate(folder)
    kind = "implicit" if "implicit" in way else "required"
    with Board(folder, settings(tls=kind), build="i386").started() as board, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda subject: send(board, subject, **way), ["one", "two"]))
        assert sorted(event["title"] for event in board.events()) == ["one", "two"]


def test_tls_without_a_certificate(tmp_path):
    with Board(tmp_path / "flash", settings(tls="implicit")) as board:
        board.wait_for(r"smtp_server: smtp\.certificate: there is no file cert\.der on the board; README\.md tells how")


def test_swaks_sends_a_picture(tmp_path):
    swaks = needs.program("swaks", "swaks")
    picture = tmp_path / "snap.jpg"
    picture.write_bytes(JPEG)
    with Board(
        tmp_path / "flash", settings(login="required", users={"cam": "secret"}), build="i386"
    ).started() as board:
        command = [swaks, "--server", f"127.0.0.1:{board.settings['smtp']['port']}", "--from", "cam@lan.example"]
        command += ["--to", "alerts@attic", "--h-Subject", "Line crossing detected", "--body", "Channel 1"]
        command += ["--auth", "LOGIN", "--auth-user", "cam", "--attach-type", "image/jpeg", "--attach", f"@{picture}"]
        done = subprocess.run([*command, "--auth-password", "wrong"], capture_output=True, check=False)
        assert done.returncode == 28
        subprocess.run([*command, "--auth-password", "secret"], check=True, capture_output=True)
        (event,) = board.events()
        assert (event["kind"], event["text"].strip()) == ("line_crossing", "Channel 1")
        assert [(one["name"], one["type"], one["size"]) for one in event["attachments"]] == [
            ("snap.jpg", "image/jpeg", len(JPEG))
        ]


def test_one_connection_too_many(tmp_path):
    with Board(tmp_path / "flash", settings(connections=2)).started() as board, contextlib.ExitStack() as stack:
        port = board.settings["smtp"]["port"]
        for _ in range(2):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            assert line.recv(100).startswith(b"220 ")
        with socket.create_connection(("127.0.0.1", port), 20) as line:
            assert line.makefile("rb").read() == b"421 4.3.2 Too many connections, try again later\r\n"
        stack.close()
        until(lambda: _sent(board), "a place that was left")


def _sent(board):
    with contextlib.suppress(smtplib.SMTPException, OSError):
        send(board, "in the end", None)
        return True


@pytest.mark.parametrize(
    ("allow", "answer"),
    [
        ("private", b"220 "),
        ("all", b"220 "),
        (["127.0.0.0/8"], b"220 "),
        (["10.1.2.0/24", "192.168.7.7"], b"554 5.7.1 "),
    ],
)
def test_who_may_send(tmp_path, allow, answer):
    with (
        Board(tmp_path / "flash", settings(allow=allow)).started() as board,
        socket.create_connection(("127.0.0.1", board.settings["smtp"]["port"]), 20) as line,
    ):
        assert line.recv(200).startswith(answer)


@pytest.mark.parametrize(
    ("before", "letter"),
    [(b"", b"N"), (b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n", b"")],
    ids=["command", "data"],
)
def test_a_peer_that_takes_its_time(tmp_path, before, letter):
    """Who sends a command letter by letter, or falls silent within a mail, is sent away; limits are a second here."""
    board = Board(tmp_path / "flash", settings())
    main = board.folder / "main.py"
    short = "import sys\nsys.path.insert(0, 'a')\nimport firmware.smtp_server as one\none.COMMAND = one.SILENCE = 1\n"
    main.write_text(short + main.read_text())
    with board.started(), socket.create_connection(("127.0.0.1", board.settings["smtp"]["port"]), 20) as line:
        line.sendall(before)
        heard = b""
        line.settimeout(0.2)
        while b"Timeout, closing\r\n" not in heard:
            with contextlib.suppress(TimeoutError):
                line.sendall(letter)
                heard += line.recv(200)


def test_a_chunk_that_is_refused_is_waited_for(tmp_path):
    with (
        Board(tmp_path / "flash", settings()).started() as board,
        socket.create_connection(("127.0.0.1", board.settings["smtp"]["port"]), 1.5) as line,
    ):
        line.sendall(b"EHLO x\r\nBDAT 5 LAST\r\nab")
        heard = b""
        with contextlib.suppress(TimeoutError):  # longer than the board looks for who is too late
            while True:
                heard += line.recv(1000)
        assert b"421" not in heard
        line.sendall(b"cde")
        assert line.recv(100).startswith(b"503 ")


def test_full_spool_says_452_and_drains(tmp_path):
    board = Board(tmp_path / "flash", settings() | {"spool": 5 * 4096})
    with board.started():
        for number in range(5):
            send(board, f"kept {number}", None)
        with pytest.raises(smtplib.SMTPResponseException) as refused:
            send(board, "too much", None)
        assert refused.value.smtp_code == 452
        assert [event["title"] for event in board.events()] == [f"kept {number}" for number in range(5)]
        board.kill()
        board.started()
        first = board.folder / "spool" / "00000001.serial"
        acknowledge(board, 1)
        until(lambda: not first.exists(), "the first one's delivery")
        until(lambda: _sent(board), "room")
        assert board.events()[-1]["title"] == "in the end"


def acknowledge(board, count):
    """Be the other side of the serial line: answer `hello`, acknowledge so many events; their titles."""
    from gateway.wire import frame

    decoder = frame.Decoder()
    decoder.agree(frame.MAX_LINE)
    taken = {}
    hello = {"t": "hello", "n": 1, "boot": "test", "line": frame.MAX_LINE, "window": 1}
    board.process.stdin.write(frame.encode(hello))
    board.process.stdin.flush()
    while len(taken) < count:
        for kind, message in decoder.feed(board.read(0.5)):
            if kind != frame.FRAME:
                continue
            if message["t"] == "event":
                taken[message["n"]] = message["event"]["title"]
            if message["t"] in ("event", "hello"):
                board.process.stdin.write(frame.encode({"t": "ack", "n": message["n"], "boot": message.get("boot")}))
                board.process.stdin.flush()
    return [taken[number] for number in sorted(taken)]


def test_killed_under_load_nothing_acknowledged_is_lost(tmp_path):
    """kill -9 in the middle of it, again and again: each 250 is an event, in the order of the 250s of each client."""
    board = Board(tmp_path / "flash", settings(), build="i386")
    acknowledged: dict[int, list[str]] = {client: [] for client in range(4)}
    stop = threading.Event()

    def client(number):
        count = 0
        while not stop.is_set():
            count += 1
            with contextlib.suppress(smtplib.SMTPException, OSError):
                send(board, f"{number} {count:04d}", JPEG[: 400 * number])
                acknowledged[number].append(f"{number} {count:04d}")

    board.started()
    threads = [threading.Thread(target=client, args=(number,)) for number in acknowledged]
    for thread in threads:
        thread.start()
    for _ in range(4):
        goal = sum(map(len, acknowledged.values())) + 25
        until(lambda goal=goal: sum(map(len, acknowledged.values())) >= goal and board.read() is not None, "mails")
        board.kill()
        board.started()
    stop.set()
    for thread in threads:
        thread.join()
    board.kill()
    titles = [event["title"] for event in board.events()]  # each of them is whole JSON
    for number, said in acknowledged.items():
        kept = [title for title in titles if title.startswith(f"{number} ")]
        assert set(said) <= set(kept)
        assert kept == sorted(kept)
    assert not [
        path for path in (board.folder / "spool").iterdir() if not path.name[0].isdigit() and path.name != "new"
    ]


def test_what_a_power_cut_left_is_cleaned_up(tmp_path):
    board = Board(tmp_path / "flash", settings())
    with board.started():
        send(board, "whole", None)
    whole = next((board.folder / "spool").iterdir()).read_bytes()
    (board.folder / "spool" / "new").write_bytes(whole[: len(whole) // 2])
    (board.folder / "spool" / "00000003.").write_bytes(b"")
    with board.started():
        send(board, "after", None)
        assert [event["title"] for event in board.events()] == ["whole", "after"]
        assert sorted(path.name for path in (board.folder / "spool").iterdir()) == [
            "00000001.serial",
            "00000002.serial",
        ]


def test_event_fits_a_frame(tmp_path):
    """The text is cut before anything else, and the event says so; a name can't be chosen that is the board's own."""
    board = Board(tmp_path / "flash", settings())
    with board.started():
        message = mail("Ü" * 900, None)
        message.replace_header("From", f"{'Größe ' * 30}<attic@lan.example>")
        message.set_content("Ä" * 50000)
        for number in range(20):
            message.add_attachment(JPEG, maintype="image", subtype="jpeg", filename="ö" * 90 + f"{number}.jpg")
        with smtplib.SMTP("127.0.0.1", board.settings["smtp"]["port"]) as smtp:
            smtp.sendmail(
                "attic@lan.example", [f"{'x' * 60}{number}@attic" for number in range(100)], message.as_bytes()
            )
        send(board, "still there", None)
        event, after = board.events()
        size = len(json.dumps(event, separators=(",", ":")).encode("ascii"))
        assert size <= 4000
        assert after["title"] == "still there"
        said = event["data"]["truncated"]
        assert "the subject was cut at 200 characters" in said
        assert "attachments were left out" in said
        assert "recipients were left out" in said
        assert any(words.startswith("the text was cut at") for words in said)
        message = mail("Motion detected", None)
        message.replace_header("From", "attic <attic@lan.example>")
        with smtplib.SMTP("127.0.0.1", board.settings["smtp"]["port"]) as smtp:
            smtp.send_message(message)
        assert board.events()[-1]["device"] == {
            "id": "device_attic", "name": "Attic", "manufacturer": None, "model": None, "profile": None,
        }  # fmt: skip
