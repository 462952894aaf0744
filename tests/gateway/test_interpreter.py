"""The process that interprets: it says what `interpret` says, and whatever happens to it, no mail is lost by it.

What no mail can do to it (we hope), a worker does here whose `read` was replaced: `HOSTILE` dies, hangs or eats
memory when a mail says so. All else of it is the real thing.
"""

import asyncio
import json
import os
import random
import re
import signal
import smtplib
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from gateway import interpret, interpreter
from gateway.api import Envelope
from gateway.interpret import worker
from gateway.interpreter import COMMAND, Interpreter
from gateway.store import Mail
from tests.gateway.test_families import HEAD
from tests.gateway.test_families import MAILS as PROFILE_MAILS
from tests.gateway.test_pipeline import Bench as Pipelined
from tests.live import Gateway, children, until
from tests.mosquitto import Listener, Mosquitto, free_port

ROOT = Path(__file__).parents[2]
MAILS = sorted((ROOT / "tests" / "mails").glob("*.eml"))
HOSTILE = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from gateway import interpret
from gateway.interpret import worker
read = interpret.read
def hostile(raw):
    if raw.startswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if raw.startswith(b"exit"):
        os._exit(3)
    if raw.startswith(b"stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if raw.startswith(b"hang"):
        while True: pass
    if raw.startswith(b"eat"):
        raw = b"x" * (2 * worker.MEMORY)
    if raw.startswith(b"fault"):
        raise LookupError("a fault of ours")
    if raw.startswith(b"once") and not os.path.exists(sys.argv[2]):
        open(sys.argv[2], "w").close()
        os._exit(4)
    return read(raw)
interpret.read = hostile
worker.main()
"""


def hostile(folder):
    return (sys.executable, "-I", "-c", HOSTILE, str(ROOT), str(folder / "once"))


class Bench:
    """An interpreter, and what it answered."""

    def __init__(self, **how):
        self.heard = []
        self.interpreter = Interpreter(lambda *answer: self.heard.append(answer), **how)
        self.interpreter.start()

    def give(self, content, number=0, helo="h"):
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        mail = Mail(f"{number:026}", 0.0, Envelope("m", "192.0.2.1", helo, "a@b", ["c@d"]), size)
        self.interpreter.give(mail, content)

    async def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, (self.heard, self.interpreter.trouble)
            await asyncio.sleep(0.005)

    async def answers(self, count):
        await self.until(lambda: len(self.heard) >= count)
        return self.heard

    async def pid(self):
        found = []
        await self.until(lambda: found.extend(children(os.getpid(), b"worker")) or found)
        return found[0]

    def titles(self):
        return [meaning.title for _, _, meaning in self.heard]


@pytest.fixture
async def bench(request):
    made = []

    def make(**how):
        made.append(Bench(**how))
        return made[-1]

    yield make
    for one in made:
        await one.interpreter.close()
        assert not children(os.getpid(), b"worker")


def text(subject):
    return f"Subject: {subject}\r\n\r\nx\r\n".encode()


async def test_it_answers_what_interpret_says_in_the_order_of_asking(bench):
    one = bench()
    for number, path in enumerate(MAILS):
        await one.until(lambda: one.interpreter.room)
        one.give(path if number % 2 else path.read_bytes(), number, helo="NPIF65E56")
    heard = await one.answers(len(MAILS))
    for path, (mail, reading, meaning) in zip(MAILS, heard, strict=True):
        expected = interpret.read(path.read_bytes())
        assert (path.name, vars(reading)) == (path.name, vars(expected))
        assert (path.name, vars(meaning)) == (path.name, vars(interpret.meaning(expected, mail.envelope)))
    assert [int(mail.id) for mail, _, _ in heard] == list(range(len(MAILS)))
    assert one.interpreter.room
    assert one.interpreter.restarts == one.interpreter.not_interpreted == one.interpreter._bytes == 0


async def test_it_knows_ones_own_profiles_and_reads_them_again(bench, tmp_path):
    own = tmp_path / "my profiles"
    own.mkdir()
    (own / "acme.toml").write_text(HEAD + PROFILE_MAILS, encoding="utf-8")
    one = bench()
    one.interpreter.profiles = own
    one.give(text("Acme siren sounds"))
    one.give(text("It sounds"))
    one.interpreter.give(Mail("0" * 26, 0.0, Envelope("m", "", "", "", []), 9), text("It sounds"), "acme")
    heard = await one.answers(3)
    assert [(meaning.profile, meaning.off_after) for _, _, meaning in heard] == [
        ("acme", 30), ("generic", None), ("acme", 30)
    ]  # fmt: skip
    (own / "acme.toml").write_text((HEAD + PROFILE_MAILS).replace("off_after = 30", "off_after = 7"), encoding="utf-8")
    one.interpreter.read_profiles()
    one.give(text("Acme siren sounds"))
    assert (await one.answers(4))[3][2].off_after == 7
    assert one.interpreter.restarts == 0


async def test_a_bounded_number_of_mails_and_bytes_is_under_way(bench):
    one = bench()
    given = 0
    while one.interpreter.room:
        one.give(text(given))
        given += 1
    assert given == interpreter._MOST
    await one.answers(given)
    given = 0
    while one.interpreter.room:
        one.give(text("x" * 200_000))
        given += 1
    assert given == 6
    await one.answers(interpreter._MOST + given)
    assert one.interpreter.room


async def test_kill_9_costs_no_mail_and_no_order(bench, monkeypatch):
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(interpreter, "_LONGEST_PAUSE", 0.01)
    one, chance, over = bench(), random.Random(7), threading.Event()

    def kill():
        while not over.wait(chance.uniform(0, 0.5)):
            for process in children(os.getpid(), b"worker"):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    for number in range(3000):
        await one.until(lambda: one.interpreter.room)
        one.give(text(number), number)
        if number % 100 == 0:
            await asyncio.sleep(0.1)
    over.set()
    killer.join()
    heard = await one.answers(3000)
    assert [reading.subject for _, reading, _ in heard] == [str(number) for number in range(3000)]
    assert one.interpreter.restarts > 3
    assert one.interpreter.not_interpreted == 0


@pytest.mark.parametrize(
    ("poison", "words", "restarts"),
    [
        (b"crash", "was ended by SIGSEGV", 3),
        (b"exit", "ended with code 3", 3),
        (b"eat", "it takes more than 256 MiB of memory", 0),
        (b"fault", "LookupError: a fault of ours", 0),
    ],
)
async def test_a_mail_that_can_not_be_interpreted_is_answered_so_and_holds_up_no_other(
    bench, tmp_path, monkeypatch, caplog, poison, words, restarts
):
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    one = bench(command=hostile(tmp_path))
    for number, content in enumerate((text("a"), text("b"), poison, text("c"), text("d"))):
        one.give(content, number)
    heard = await one.answers(5)
    assert [int(mail.id) for mail, _, _ in heard] == list(range(5))
    assert one.titles() == ["a", "b", "The content of this mail could not be interpreted", "c", "d"]
    _, reading, meaning = heard[2]
    assert (meaning.kind, meaning.state, meaning.severity) == ("other", None, "warning")
    assert words in reading.text
    assert f"It is kept as it came: `mailwire mails {2:026} --raw` shows it." in reading.text
    assert reading.truncated == ["The content of this mail could not be interpreted"]
    assert (one.interpreter.restarts, one.interpreter.not_interpreted) == (restarts, 1)
    assert words in caplog.text


@pytest.mark.parametrize("poison", [b"hang", b"stop"])
async def test_a_mail_that_takes_too_long_is_given_up(bench, tmp_path, monkeypatch, poison):
    monkeypatch.setattr(interpreter, "_PATIENCE", 1)
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    one = bench(command=hostile(tmp_path))
    for number, content in enumerate((text("a"), poison, text("b"))):
        one.give(content, number)
    heard = await one.answers(3)
    assert one.titles() == ["a", "The content of this mail could not be interpreted", "b"]
    assert "did not answer within 1 seconds" in heard[1][1].text
    assert one.interpreter.restarts == 3


async def test_a_mail_beside_which_the_process_died_by_chance_is_interpreted(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    one = bench(command=hostile(tmp_path))
    for number, content in enumerate((text("a"), b"once: 1\r\nSubject: b\r\n\r\n", text("c"))):
        one.give(content, number)
    await one.answers(3)
    assert one.titles() == ["a", "b", "c"]
    assert (one.interpreter.restarts, one.interpreter.not_interpreted) == (1, 0)


async def test_a_fault_of_ours_with_an_answer_is_none_of_the_process(bench, caplog):
    one = bench()
    one.interpreter.answered = lambda *_: 1 / 0
    one.give(text("x"))
    await one.until(lambda: not one.interpreter.depth)
    one.interpreter.answered = lambda *answer: one.heard.append(answer)
    one.give(text("y"))
    await one.answers(1)
    assert one.titles() == ["y"]
    assert one.interpreter.restarts == 0
    assert "no event could be made of it" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"not what we say", "can't be understood"),
        (worker.message("0.0.1 of another Python"), "Mailwire was updated, and must be restarted"),
    ],
)
async def test_a_process_that_says_something_else_is_not_believed(bench, caplog, said, words):
    program = f"import os; os.write(0, {said!r}); os.read(0, 1) # worker"
    one = bench(command=(sys.executable, "-I", "-S", "-c", program))
    one.give(text("x"))
    await one.until(lambda: one.interpreter.trouble)
    assert words in one.interpreter.trouble
    assert words in caplog.text
    assert one.interpreter.depth == 1
    one.interpreter._command = COMMAND
    await one.answers(1)
    assert one.titles() == ["x"]
    assert not one.interpreter.trouble


@pytest.mark.parametrize("answer", [(1, (1, 2, 3), "x"), (2, None, "another mail's"), 7, (1, 2)], ids=str)
async def test_rubbish_instead_of_an_answer_ends_the_process(bench, answer, monkeypatch):
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    program = (
        f"import os; os.write(0, {worker.message(worker.VERSION)!r}); os.read(0, 1);"
        f"os.write(0, {worker.message(answer)!r}); os.read(0, 9**6); os.read(0, 1) # worker"
    )
    one = bench(command=(sys.executable, "-I", "-S", "-c", program))
    one.give(text("x"))
    await one.until(lambda: one.interpreter.restarts)
    one.interpreter._command = COMMAND
    await one.answers(1)
    assert one.titles() == ["x"]


async def test_where_no_process_can_be_started_mails_wait(bench, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(interpreter, "_FIRST_PAUSE", 0.01)
    one = bench(command=(str(tmp_path / "no python"),))
    one.give(text("x"))
    await one.until(lambda: one.interpreter.restarts >= 3)
    assert "No such file or directory" in one.interpreter.trouble
    assert caplog.text.count("mails wait in the store") == 1
    one.interpreter._command = COMMAND
    await one.answers(1)
    assert not one.interpreter.trouble


async def test_it_has_no_file_but_its_own_no_right_to_much_memory_and_interrupts_nobody(bench):
    one = bench()
    one.give(text("x"))
    await one.answers(1)
    process = Path(f"/proc/{await one.pid()}")
    files = {path.name: path.readlink() for path in process.joinpath("fd").iterdir()}
    assert files.keys() == {"0", "1", "2"}
    assert str(files["0"]).startswith("socket:")
    [limit] = [line for line in process.joinpath("limits").read_text().splitlines() if "Max data size" in line]
    assert limit.split()[3:5] == [str(worker.MEMORY)] * 2
    assert process.joinpath("oom_score_adj").read_text() == "500\n"
    assert os.sched_getscheduler(int(process.name)) == os.SCHED_BATCH


def test_it_loads_no_library_that_takes_much_memory():
    heavy = ("asyncio", "dataclasses", "email", "inspect", "json", "logging", "pydantic", "sqlite3", "tomllib")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import gateway.interpret.worker"
    program += f"; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_signals_for_the_gateway_are_not_for_it(bench):
    one = bench()
    one.give(text("x"))
    await one.answers(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(await one.pid(), number)
    one.give(text("y"))
    await one.answers(2)
    assert one.interpreter.restarts == 0


async def test_a_mail_that_can_not_be_interpreted_is_an_event_that_says_so_and_is_kept(tmp_path):
    bench = Pipelined(tmp_path)
    try:
        bench.pipeline.interpreter._command = hostile(tmp_path)
        bench.pipeline.resume()
        for content in (text("a"), b"eat: all\r\n\r\n", text("b")):
            await bench.kept(content)
        await bench.heard(3)
        assert await bench.states() == ["done"] * 3
        event = bench.target.heard[1]
        assert (event["kind"], event["state"], event["severity"]) == ("other", None, "warning")
        assert event["title"] == "The content of this mail could not be interpreted"
        assert event["text"] == (
            "The content of this mail could not be interpreted: it takes more than 256 MiB of memory. "
            f"It is kept as it came: `mailwire mails {event['id']} --raw` shows it."
        )
        assert (event["mail"]["from"], event["mail"]["subject"]) == ("a@b", None)
        assert event["data"] == {"truncated": ["The content of this mail could not be interpreted"]}
        assert bench.store.content(bench.store.mail(event["id"])) == b"eat: all\r\n\r\n"
    finally:
        await bench.close()


PARENT = """
import asyncio, sys
from gateway.api import Envelope
from gateway.interpreter import Interpreter
from gateway.store import Mail
async def main():
    one = Interpreter(print, command=sys.argv[1:])
    one.start()
    one.give(Mail("0" * 26, 0.0, Envelope("m", "", "", "", []), 4), b"hang")
    while not one._under_way:
        await asyncio.sleep(0.01)
    print("asked", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_it_ends_with_a_parent_that_is_killed_even_in_the_middle_of_a_mail(tmp_path):
    command = [sys.executable, "-c", PARENT, *hostile(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        try:
            assert parent.stdout.readline() == b"asked\n"
            [process] = children(parent.pid, b"worker")
        finally:
            parent.kill()
    until(lambda: not alive(process), "the end of the process")


def alive(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


# --- at a real gateway -------------------------------------------------------------------------------------------

SEEN = """
integrations:
  lan-mail: {{type: smtp_server, listen: ["127.0.0.1:0"]}}
  broker: {{type: mqtt, url: "mqtt://127.0.0.1:{port}"}}
  watch: {{type: prometheus, listen: "127.0.0.1:{metrics}"}}
"""


def send(port, numbers):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        for number in numbers:
            smtp.sendmail("plc@lan", ["a@gw"], f"From: plc@lan\r\nSubject: number {number}\r\n\r\n{number}\r\n")


def heard(listener):
    return [json.loads(payload) for topic, payload, _ in list(listener.messages) if topic.endswith("/event")]


def test_kill_9_at_it_in_the_middle_of_load_loses_nothing_and_repeats_nothing(tmp_path):
    broker, metrics_port = Mosquitto(tmp_path / "broker").start(), free_port()
    try:
        with (
            Listener(broker.port, "mailwire/+/event", "mailwire/bridge/response/health") as listener,
            Gateway(tmp_path / "gateway", SEEN.format(port=broker.port, metrics=metrics_port)) as gateway,
        ):
            load = threading.Thread(target=send, args=(gateway.port, range(1500)))
            load.start()
            kills = 0
            while load.is_alive():
                process = gateway.interpreter
                time.sleep(0.3)  # else none would ever be ready
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    kills += 1
            load.join()
            events = gateway.settled(1500)
            until(lambda: len(heard(listener)) >= 1500, "all events")
            listener.publish("mailwire/bridge/request/health", "{}")
            health = until(lambda: listener.newest("mailwire/bridge/response/health"), "an answer")
            metrics = urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30).read().decode()
            assert gateway.terminate() == 0
        assert kills > 1
        assert sorted(event["mail"]["subject"] for event in events) == sorted(f"number {n}" for n in range(1500))
        delivered = heard(listener)
        assert len({event["id"] for event in delivered}) == 1500
        assert len({event["mail"]["subject"] for event in delivered}) == 1500
        assert 0 < health["data"]["counts"]["interpreter_restarts"] <= kills
        assert health["data"]["counts"]["not_interpreted"] == 0
        assert re.search(r"^mailwire_interpreter_restarts_total [1-9]", metrics, re.MULTILINE)
        assert re.search(r"^mailwire_mails_not_interpreted_total 0", metrics, re.MULTILINE)
        assert "the process that interprets mails was ended by SIGKILL: starting another one" in gateway.log.read_text()
    finally:
        broker.stop()


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_it_ends_with_the_gateway(tmp_path, end):
    with Gateway(tmp_path) as gateway:
        send(gateway.port, [1])
        gateway.settled(1)
        process = gateway.interpreter
        getattr(gateway, end)()
        until(lambda: not alive(process), "the end of the process")
