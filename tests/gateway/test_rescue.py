"""A database that is damaged by hand: found at the start or while it is used, set aside and said; mail is taken again.

What is owed in it and can still be read becomes part of the new one, under the ids that it had.
"""

import contextlib
import re
import smtplib
import sqlite3

import pytest

from gateway import pages, rescue
from gateway.store import FILE, MIGRATIONS
from tests.gateway.test_gateway import WITH_BROKER, heard, mail, send
from tests.live import Gateway, until
from tests.mosquitto import Listener, Mosquitto

BEFORE, AFTER = range(60), range(60, 64)
LARGE = "large"


def pages_of(path, table):
    """Where the pages of a table are in the file."""
    with contextlib.closing(sqlite3.connect(path)) as store:
        (root,) = store.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
        size = store.execute("PRAGMA page_size").fetchone()[0]
    return [(root - 1) * size], size


def test_rows_are_known_as_every_version_wrote_them():
    """SQLite rewrites no row when a column is added: one of before is shorter."""
    deliveries = [len(table.columns) for table in rescue._tables() if table.name == "deliveries"]
    assert deliveries[:2] == [7, 8]


def zero_the_header(path):
    with path.open("r+b") as file:
        file.write(bytes(100))


def zero_the_first_page(path):
    with path.open("r+b") as file:
        file.write(bytes(8192))


def cut_in_half(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def spoil_a_page_of_mails(path):
    """The root of the table: SQLite reaches none of its rows any more."""
    (at, *_), size = pages_of(path, "mails")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * size)


def empty(path):
    path.write_bytes(b"")


def write_text(path):
    path.write_text("This is where a database should be.\n" * 100)


def put_a_folder_there(path):
    path.unlink()
    path.mkdir()
    (path / "what").write_text("ever")


# What is done to the file, and whether everything that is owed in it can be read all the same.
DAMAGES = [
    (zero_the_header, True),
    (zero_the_first_page, True),
    (spoil_a_page_of_mails, True),
    (cut_in_half, False),
    (empty, False),
    (write_text, False),
    (put_a_folder_there, False),
]


@pytest.fixture
def gateway(tmp_path, broker):
    made = Gateway(tmp_path / "a b", WITH_BROKER.format(port=broker.port))
    yield made
    made.terminate()


@pytest.fixture
def broker(tmp_path):
    running = Mosquitto(tmp_path / "broker")
    yield running
    running.stop()


def owing(gateway):
    """Id -> subject of what it was sent and could not deliver yet: there is no broker."""
    gateway.start()
    send(gateway.port, BEFORE)
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=30) as smtp:
        smtp.sendmail("nas@lan.example", ["a@gw"], mail(LARGE, "x" * 400_000))
    return {event["id"]: event["mail"]["subject"] for event in gateway.settled(len(BEFORE) + 1)}


def numbers(*which):
    return {f"number {number}" for some in which for number in some}


def asides(gateway):
    return rescue.all_aside(gateway.data)


@pytest.mark.parametrize(("damage", "all_there"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_database_is_set_aside_and_what_is_owed_is_brought_over(gateway, broker, damage, all_there):
    owed = owing(gateway)
    gateway.terminate()
    damage(gateway.data / FILE)
    broken = gateway.cli("doctor", check=False)
    assert re.search(r"^fail  store .*(damaged|folder in its place)", broken.stdout.decode(), re.MULTILINE)
    broker.start()
    with Listener(broker.port, "mailwire/+/event", "mailwire/bridge/health") as subscriber, gateway:
        send(gateway.port, AFTER)
        wanted = numbers(AFTER, [*BEFORE, LARGE] if all_there else [])
        until(lambda: wanted <= {event["mail"]["subject"] for event in heard(subscriber)}, "the events")
        aside = until(lambda: [one for one in asides(gateway) if one.brought_over], "bringing over")[0]
        health = until(lambda: subscriber.newest("mailwire/bridge/health"))
        found = gateway.cli("doctor", check=False).stdout.decode()
        events = heard(subscriber)
    assert all(owed.get(event["id"], event["mail"]["subject"]) == event["mail"]["subject"] for event in events)
    assert all(event["id"] in owed for event in events if event["mail"]["subject"] in numbers(BEFORE, [LARGE]))
    assert (aside.folder / FILE).exists()
    assert len(list((aside.folder / "mails").iterdir())) == 1
    assert f"the database is damaged: {aside.why.split('damaged: ')[1].split('. ')[0]}" in gateway.log.read_text()
    if all_there:
        assert aside.brought_over == f"0 mails and {len(BEFORE) + 1} events that were owed were brought over."
    assert health["problems"]["store"] == (
        f"a damaged database was set aside as {aside.folder.name}; `mailwire doctor` says more"
    )
    assert f"store: {health['problems']['store']}" in health["reasons"]
    assert f"warn  set aside      {aside.folder.name}: " in found
    assert f"rm -r '{aside.folder}'" in found


def test_mails_that_were_not_interpreted_are_brought_over_too(gateway):
    owing(gateway)
    gateway.terminate()
    with contextlib.closing(sqlite3.connect(gateway.data / FILE)) as store, store:
        store.execute("UPDATE mails SET state = 'received'")
        store.execute("DELETE FROM deliveries")
        store.execute("DELETE FROM events")
    zero_the_header(gateway.data / FILE)
    with gateway:
        until(lambda: [one for one in asides(gateway) if one.brought_over], "bringing over")
        kept = gateway.settled(len(BEFORE) + 1)
        assert {event["mail"]["subject"] for event in kept} == numbers(BEFORE, [LARGE])
        large = next(event for event in kept if event["mail"]["subject"] == "number large")
        assert gateway.cli("mails", large["id"], "--raw").stdout == mail(LARGE, "x" * 400_000)
    assert "61 mails and 0 events that were owed were brought over." in gateway.log.read_text()


def spoil_the_header_of_the_log(wal):
    with wal.open("r+b") as file:
        file.write(b"\xa5" * 32)


def spoil_the_middle_of_the_log(wal):
    with wal.open("r+b") as file:
        file.seek(wal.stat().st_size // 3)
        file.write(b"\xa5" * 5000)


@pytest.mark.parametrize("damage", [spoil_the_header_of_the_log, spoil_the_middle_of_the_log])
def test_what_is_behind_the_damage_in_a_log_is_brought_over(gateway, broker, damage):
    owed = owing(gateway)
    gateway.kill()
    damage(gateway.data / f"{FILE}-wal")
    broker.start()
    with Listener(broker.port, "mailwire/+/event") as subscriber, gateway:
        send(gateway.port, AFTER)
        wanted = numbers(AFTER, BEFORE, [LARGE])
        until(lambda: len(wanted & {event["mail"]["subject"] for event in heard(subscriber)}) > len(wanted) - 9)
        gateway.logged(r"-wal: the database's log can't be read after its page \d+\. .* \d+ mails and \d+ events that")
    assert {event["id"]: event["mail"]["subject"] for event in heard(subscriber)}.items() >= {
        (event["id"], owed[event["id"]]) for event in heard(subscriber) if event["id"] in owed
    }
    (aside,) = asides(gateway)
    assert aside.is_log
    assert (aside.folder / f"{FILE}-wal").exists()


def test_the_end_of_a_log_that_the_power_cut_off_is_no_damage(gateway):
    owing(gateway)
    gateway.kill()
    wal = gateway.data / f"{FILE}-wal"
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 2000)
    with gateway:
        send(gateway.port, AFTER)
        gateway.settled(len(BEFORE) + 1 + len(AFTER))
    assert asides(gateway) == []
    assert "damaged" not in gateway.log.read_text()


def test_damage_that_is_met_while_running_is_set_aside_then(gateway, broker):
    owed = owing(gateway)
    gateway.terminate()
    broker.start()
    path = gateway.data / FILE
    with contextlib.closing(sqlite3.connect(path)) as store:  # in the middle, where no look at both ends comes by
        leaves = "SELECT pageno FROM dbstat WHERE name = 'events' AND pagetype = 'leaf' ORDER BY path"
        places = [row[0] for row in store.execute(leaves)]
        size = store.execute("PRAGMA page_size").fetchone()[0]
    assert len(places) > 2
    with path.open("r+b") as file:
        file.seek((places[len(places) // 2] - 1) * size)
        file.write(b"\xa5" * size)
    with Listener(broker.port, "mailwire/+/event") as subscriber, gateway:
        gateway.logged(r"the store is damaged \(database disk image is malformed\): starting again with a new one")
        gateway.logged(r"events that were owed were brought over\.")
        until(lambda: {event["id"]: event["mail"]["subject"] for event in heard(subscriber)} == owed)


@pytest.mark.parametrize("size", [4096, 8192])
def test_the_size_of_pages_is_found_out_without_headers(tmp_path, size):
    path = tmp_path / FILE
    wal = path.with_name(f"{FILE}-wal")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as store:
        store.execute(f"PRAGMA page_size = {size}")
        store.execute("PRAGMA journal_mode = WAL")
        for migration in MIGRATIONS:
            store.executescript(migration)
        store.executemany("INSERT INTO devices (id, document) VALUES (?, ?)", [(f"{n}", "x" * 700) for n in range(100)])
        log = wal.read_bytes()
    assert not wal.exists()
    zero_the_header(path)
    with contextlib.closing(pages.Pages(path, wal)) as found:
        assert found.size == size
    wal.write_bytes(bytes(32) + log[32:])
    with contextlib.closing(pages.Pages(path, wal)) as found:
        assert found.size == size
        assert found.count > 10


def test_a_salvage_finds_nothing_in_what_is_no_database(tmp_path):
    for content in (b"", b"text" * 5000, bytes(range(256)) * 100, b"\x0d" * 50_000, b"\x0a\xff" * 50_000):
        (tmp_path / FILE).write_bytes(content)
        (tmp_path / f"{FILE}-wal").write_bytes(content)
        with contextlib.closing(rescue.Salvage(tmp_path)) as salvage:
            assert list(salvage.read()) == []
            assert (salvage.devices, salvage.unreadable) == ({}, 0)
