"""Every sample mail of every family becomes exactly the event beside it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from gateway.api import part_of, same_part
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


PAIRS = [
    (began.told["event"], ended.told["event"])
    for began, ended in itertools.product(SAMPLES, SAMPLES)
    if began.family == ended.family
    and began.told["event"]["kind"] == ended.told["event"]["kind"]
    and (began.told["event"]["state"], ended.told["event"]["state"]) == ("on", "off")
]


def test_an_end_ends_what_began() -> None:
    """Each off of a sample ends an on of its family, or could end that of another part, named by the same keys."""
    ends = {(event["device"]["profile"], event["kind"], event["title"]) for _, event in PAIRS}
    fits = {
        (event["device"]["profile"], event["kind"], event["title"])
        for began, event in PAIRS
        if same_part(part_of(began), part_of(event)) or part_of(began).keys() == part_of(event).keys()
    }
    assert sorted(ends - fits) == []
