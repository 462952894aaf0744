"""What a mail means to a board, on the real MicroPython: what the gateway's generic profile says, mail by mail."""

import json

import pytest

from gateway import interpret
from gateway.api import Envelope
from gateway.flash import phrases
from gateway.interpret.families import UNSPACED
from gateway.interpret.meaning import listed, profile
from gateway.letters import unaccented
from gateway.wire import devices
from gateway.wire.event import slug
from tests.firmware.script import run
from tests.wire.test_mime import DIFFERENT, MAILS


@pytest.fixture(scope="module")
def meanings(tmp_path_factory):
    """{mail: (ours, theirs)}: kind, state, severity, title."""
    asked, theirs = [], {}
    for path in MAILS:
        if path.name in DIFFERENT:
            continue
        reading = interpret.read(path.read_bytes())
        meaning = interpret.meaning(reading, Envelope("smtp", "", "", "", []), family="generic")
        first = reading.attachments[0]["name"] if reading.attachments else ""
        asked.append([path.name, reading.subject or "", reading.text[:1024], first])
        theirs[path.name] = [meaning.kind, meaning.state, meaning.severity, meaning.title]
    folder = tmp_path_factory.mktemp("board")
    (folder / "asked").write_text("\n".join(map(json.dumps, asked)))
    code = """
    from firmware.meaning import meaning
    with open("asked") as lines:
        for line in lines:
            name, subject, text, first = json.loads(line)
            tell([name, meaning(subject, text, first)])
    """
    return {name: (ours, theirs[name]) for name, ours in run(folder, code, heap="256K")}


GATEWAYS_ALONE = {
    "charset-latin1-spanish.eml": "Spanish",
    "header-encoded-word-folded-inside.eml": "a script without blanks between its words",
    "header-encoded-word-split-character.eml": "a script without blanks between its words",
    "header-none-at-all.eml": "words that stand apart",
}


def test_means_what_it_does_to_the_gateway(meanings):
    for name, why in GATEWAYS_ALONE.items():
        ours, theirs = meanings.pop(name)
        assert ours[:2] == ["other", None] != theirs[:2], why
    assert {name: ours[:3] for name, (ours, _) in meanings.items()} == {
        name: theirs[:3] for name, (_, theirs) in meanings.items()
    }


def test_has_the_title_that_the_gateway_gives_it(meanings):
    """But for the mails whose title is a value in the text, which a board does not take apart."""
    alike = [name for name, (ours, theirs) in meanings.items() if ours[3] == theirs[3]]
    assert len(alike) >= 0.9 * len(meanings)


def test_every_phrase_of_the_profile_is_in_the_table():
    lines = [line.split("\t") for line in phrases.table().decode().splitlines()]
    said = {phrase for line in lines if line[0][0] != "=" for phrase in line[5:]}
    rules = [rule.get(scope, "") for rule in profile().source["rule"] for scope in ("anywhere", "title", "short")]
    ours = {phrase for rule in rules for phrase in listed(rule) if not UNSPACED.search(phrase)}
    assert said == ours | set(map(unaccented, ours))
    assert max(map(len, lines)) < 80


def test_generic_names_are_slugs():
    names = devices.GENERIC.split()
    assert names == [slug(name) for name in names]
    assert [devices.is_generic(name) for name in ("", "camera", "front_door", "era")] == [True, True, False, False]
