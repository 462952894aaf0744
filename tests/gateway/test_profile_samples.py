"""Every sample mail of every family becomes exactly the event beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.interpret.families import OURS, ours
from gateway.samples import Sample, differences, samples

SAMPLES = list(samples(Path(__file__).parents[1] / "mails/profiles"))
FAMILIES = sorted(ours().families)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.family}/{sample.path.stem}")
def test_sample(sample: Sample) -> None:
    assert differences(sample.told["event"], sample.event(ours())) == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.family}/{sample.path.stem}")
def test_it_says_where_it_comes_from(sample: Sample) -> None:
    assert all(sample.told[key] for key in ("about", "source", "provenance"))
    assert sample.told["event"]["device"]["profile"] == sample.family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_two_samples_at_least(family: str) -> None:
    assert sum(sample.family == family for sample in SAMPLES) >= 2


def test_each_sample_is_of_a_family() -> None:
    assert {sample.family for sample in SAMPLES} <= set(FAMILIES)
    assert not ours().broken
    assert len(FAMILIES) == len(list(OURS.glob("*.toml"))) - 1
