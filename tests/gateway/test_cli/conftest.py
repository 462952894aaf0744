"""A home of its own for each test, the command line as a function, and a store that a real pipeline has filled."""

import asyncio
import json
import time
from typing import NamedTuple

import pytest

from gateway.__main__ import main
from gateway.config import LearnSettings
from gateway.deliver import Worker
from gateway.intake import Intake
from gateway.pipeline import Pipeline
from gateway.registry import Registry
from gateway.route import Router
from gateway.store import Store
from tests.gateway.test_cli.cli_mails import CHINESE, MOTION, NASTY, Away, Refusing


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()

    @property
    def documents(self):
        return [json.loads(line) for line in self.lines]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The working folder: empty, and nothing of this machine's own configuration or data is seen from it."""
    for name in ("MAILWIRE_CONFIG", "MAILWIRE_DATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mailwire(capsys):
    def run(*words, program="mailwire"):
        try:
            code = main([program, *map(str, words)])
        except SystemExit as end:
            code = end.code
        return Result(code, *capsys.readouterr())

    return run


async def _fill(folder, mails, targets):
    store = Store(folder)
    store.open(exclusive=True)
    store.start()
    registry = Registry(store.save_device)
    registry.load(store.devices())
    registry.configure({}, LearnSettings())
    pipeline = Pipeline(store, registry)
    pipeline.workers = {
        name: Worker(name, target(None, None), store, pipeline.ledger) for name, target in targets.items()
    }
    pipeline.router = Router([], targets, None)
    pipeline.resume()
    intake = Intake(store, pipeline.arrived, 0)
    for worker in pipeline.workers.values():
        worker.start()
    ids = []
    for envelope, content in mails:
        kept = asyncio.get_running_loop().create_future()
        receipt = intake.begin()
        receipt.write(content)
        receipt.commit(envelope, lambda mail_id, trouble, kept=kept: kept.set_result((mail_id, trouble)))
        mail_id, trouble = await kept
        assert trouble is None
        ids.append(mail_id)
    deadline = time.monotonic() + 20
    while store.owed()["uninterpreted"] or store.owed()["dead"] < len(mails) * (Refusing in targets.values()):
        assert time.monotonic() < deadline, store.owed()
        await asyncio.sleep(0.01)
    for worker in pipeline.workers.values():
        await worker.stop()
    await pipeline.stop()
    registry.save_all()
    intake.close()
    await store.close()
    return ids


@pytest.fixture
def fill(tmp_path):
    """Sends mails through intake, store and pipeline into the data folder; their ids. The gateway then ends."""

    def run(*mails, folder=tmp_path / "data", **targets):
        return asyncio.run(_fill(folder, mails, targets))

    return run


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def ids(fill):
    """Three mails are kept and interpreted; of each, the target `siren` is refused, `broker` is owed."""
    return fill(MOTION, NASTY, CHINESE, siren=Refusing, broker=Away)
