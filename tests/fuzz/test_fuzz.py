"""The fuzz targets without a fuzzer: over their seeds, and over every input that once broke a promise."""

import pytest

from tests.fuzz import targets

KEPT = sorted(path for path in targets.CRASHES.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", targets.NAMES)
def test_seeds(name):
    target = targets.load(name)
    seeds = list(target.seeds())
    assert len(seeds) >= 5
    for seed in seeds:
        target.run(seed)
    for data in (b"", b"\0", b"\xff" * 10, bytes(range(256))):
        target.run(data)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_kept(path):
    targets.load(path.parent.name).run(path.read_bytes())


def test_every_kept_file_has_its_target():
    assert {path.parent.name for path in KEPT} <= set(targets.NAMES)
