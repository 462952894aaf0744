"""`profile`: list, test and new; and `explain` and `check` with profiles of one's own."""

import json

import pytest

from gateway.interpret.families import OURS, ours
from gateway.profile import check
from tests.gateway.test_families import HEAD, MAILS

DVR = b"From: DVR <dvr@lan>\r\nSubject: Embedded Net DVR: Motion Detected On Channel %b\r\n\r\n" + (
    b"EVENT TYPE:    Motion Detected\r\nEVENT TIME:    2025-07-26,16:5%d:09\r\nDVR NAME:      Embedded Net DVR\r\n"
    b"Free space: %d GB\r\nDVR S/N:       D1234567\r\n"
)


@pytest.fixture
def own(here):
    """A configuration with a profile of one's own."""
    (here / "mailwire.yaml").write_text("integrations: {}\n", encoding="utf-8")
    folder = here / "profiles"
    folder.mkdir()
    (folder / "acme.toml").write_text(HEAD + MAILS, encoding="utf-8")
    return folder


@pytest.fixture
def mails(here):
    paths = []
    for number in (1, 2):
        paths.append(here / f"{number}.eml")
        paths[-1].write_bytes(DVR % (b"A%d" % number, number, 10 * number))
    return paths


def test_list(mailwire, own):
    result = mailwire("profile", "list", "--json")
    assert (result.code, result.err) == (0, "")
    described = {one["profile"]: one for one in result.documents}
    assert described.keys() == {"acme", *ours().families}
    assert described["acme"]["from"] == "profiles/acme.toml"
    assert described["hikvision"]["from"] == "built-in"
    assert described["hikvision"]["sources"]
    motion = {"name": "motion", "kind": "motion", "state": "on", "severity": "warning", "off_after": 60}
    assert motion in described["hikvision"]["mails"]
    table = mailwire("profile", "list").lines
    assert table[0].split() == ["FAMILY", "GROUP", "MAILS", "FROM", "WHAT"]
    assert table[1].split()[:3] == ["acme", "plant", "2"]


def test_list_one(mailwire, own):
    lines = mailwire("profile", "list", "acme").lines
    assert lines[0].split() == ["profile", "acme"]
    assert "source  the manual" in lines
    assert [line.split() for line in lines[-2:]] == [
        ["sounds", "alarm", "on", "by", "level", "after", "30", "s"],
        ["switched", "alarm", "by", "level", "info"],
    ]
    missed = mailwire("profile", "list", "hikvison")
    assert (missed.code, missed.err) == (2, "There is no family 'hikvison'. Did you mean 'hikvision'?\n")
    assert mailwire("profile", "list", "a", "b").err == "mailwire profile list takes one, not 2.\n"


def test_test_writes_and_compares(mailwire, own):
    (own / "acme").mkdir()
    (own / "acme" / "one.eml").write_bytes(b"Subject: Acme siren sounds\r\n\r\nLoad: 9 %\r\n")
    result = mailwire("profile", "test")
    assert (result.code, result.lines) == (
        1,
        [
            "FAIL  acme/one",
            "      no event is expected beside it: --write writes this one, read it then",
            "1 sample, 1 with another event than expected.",
        ],
    )
    assert mailwire("profile", "test", "--write").code == 0
    beside = own / "acme" / "one.json"
    told = json.loads(beside.read_text("utf-8"))
    assert told["event"]["data"] == {"loud": True, "load": 9, "load_unit": "%"}
    assert mailwire("profile", "test").lines == ["ok    acme/one", "1 sample, none with another event than expected."]
    told["event"]["data"] = {"load": 8, "load_unit": "%", "zone": "1"}
    told["event"]["kind"] = "fire"
    beside.write_text(json.dumps(told), encoding="utf-8")
    result = mailwire("profile", "test", own)
    assert (result.code, result.lines[1:-1]) == (
        1,
        [
            '      kind is "alarm", not "fire"',
            "      data.load is 9, not 8",
            '      data.zone is missing: "1"',
            "      data.loud is not expected: true",
        ],
    )
    (document,) = mailwire("profile", "test", "--json").documents
    assert (document["sample"], document["ok"], len(document["differences"])) == ("acme/one", False, 4)
    beside.write_text("{", encoding="utf-8")
    assert mailwire("profile", "test").err.startswith("profiles/acme/one.json: this is no JSON: ")
    beside.write_text('{"evnt": 1}', encoding="utf-8")
    assert mailwire("profile", "test").err == (
        "profiles/acme/one.json: must be a set of keys: about, source, provenance, envelope, held_back, event\n"
    )


def test_test_tells_what_is_wrong_with_ones_own(mailwire, own):
    (own / "acme.toml").write_text((HEAD + MAILS).replace("points = 3", "points = three"), encoding="utf-8")
    result = mailwire("profile", "test", own)
    assert result.code == 1
    assert result.lines[0] == f"{own.name}/acme.toml:16: this is no TOML: Invalid value."
    missing = mailwire("profile", "test", "away")
    assert (missing.code, missing.err) == (
        2,
        "away: there is no such folder. Samples are FOLDER/FAMILY/NAME.eml with NAME.json beside each.\n",
    )


def test_check_and_start_refuse_a_wrong_one(mailwire, own):
    (own / "acme.toml").write_text((HEAD + MAILS).replace('kind = "alarm"', 'kind = "alarms"', 1), encoding="utf-8")
    for command in ("check", "run"):
        result = mailwire(command)
        assert (result.code, result.err) == (
            2,
            "profiles/acme.toml:32: mail[0].kind: 'alarms' is no kind of event. Did you mean 'alarm'?\n",
        )


def test_new_drafts_what_knows_its_mails(mailwire, own, mails):
    result = mailwire("profile", "new", *mails)
    assert (result.code, result.err) == (0, "")
    assert 'words = "motion detected on channel"' not in result.lines
    assert 'words = "embedded net dvr motion detected on channel"' in result.lines
    assert 'event_type = { key = "event_type" }  # the same in all: "Motion Detected"' in result.lines
    assert (
        'free_space = { key = "free_space", type = "number", unit = "GB" }  # varies: "10 GB", "20 GB"' in result.lines
    )
    expression = "^Embedded Net DVR: Motion Detected On Channel (?P<value_1>.{1,60})$"
    assert f"pattern = [{{ in = \"subject\", regex = '{expression}' }}]" in result.lines
    written = mailwire("profile", "new", *mails, "--name", "dvr")
    assert written.code == 0
    assert written.out.startswith("profiles/dvr.toml is a draft that knows these mails.")
    assert [str(problem) for problem in check(own / "dvr.toml")] == []
    again = mailwire("profile", "new", *mails, "--name", "dvr")
    assert (again.code, again.err) == (1, "profiles/dvr.toml is there already, and was left as it is.\n")
    explained = json.loads(mailwire("explain", mails[0], "--json").out)
    assert {"hikvision", "dvr"} <= {one["profile"] for one in explained["profiles"]}


@pytest.mark.parametrize("family", sorted(ours().families))
def test_a_draft_of_every_familys_samples_passes_the_check(mailwire, own, family, request):
    folder = request.config.rootpath / "tests/mails/profiles" / family
    samples = sorted(folder.glob("*.eml"))
    result = mailwire("profile", "new", *samples, "--name", "draft")
    if result.code:
        assert result.err.startswith("these mails have nothing in common that says whom they are from")
        return
    assert [str(problem) for problem in check(own / "draft.toml")] == []
    for sample in samples:
        explained = json.loads(mailwire("explain", sample, "--json").out)
        (score,) = [one["score"] for one in explained["profiles"] if one["profile"] == "draft"]
        assert score >= 10


def test_new_refuses(mailwire, here, mails):
    assert mailwire("profile", "new").err == "Which mails? Write: mailwire profile new FILE.eml...\n"
    assert mailwire("profile", "new", "away.eml").err == "away.eml: can't be read: No such file or directory.\n"
    assert mailwire("profile", "new", mails[0], "--name", "A b").err == (
        "'A b' can't be a profile's name: write a-z, 0-9 and _, such as acme_siren.\n"
    )
    other = here / "other.eml"
    other.write_bytes(b"Subject: x\r\n\r\ny\r\n")
    assert mailwire("profile", "new", mails[0], other).err == (
        "these mails have nothing in common that says whom they are from: no name, no words of the subject, no line. "
        "Give mails of one device only.\n"
    )


def test_explain_shows_scores_fields_and_places(mailwire, own, mails):
    (own / "rival.toml").write_text(
        HEAD.replace('"acme siren"', '"motion detected"').replace("points = 10", "points = 7") + MAILS, encoding="utf-8"
    )
    lines = mailwire("explain", mails[0]).lines
    at = lines.index("Profile")
    assert lines[at + 1].startswith("  20  hikvision: ")
    assert lines[at + 1].endswith(" <- it is one of these")
    assert lines[at + 2] == "   7  rival: 7 for 'motion detected' in subject"
    assert "      the mail 'motion' of hikvision.toml" in lines[at:]
    found = [line.split(None, 1) for line in lines if line.startswith(("data.", "ends"))]
    assert ["data.channel", "A1  (the subject)"] in found
    assert ["data.device_time", "2025-07-26T16:51:09  (the line event time)"] in found
    assert ["data.free_space", "10  (the line free space)"] in found
    assert ["ends", "by itself, 60 seconds after the last"] in found


def test_explain_says_when_no_family_fits_and_when_one_is_told(mailwire, own, here):
    mail = here / "x.eml"
    mail.write_bytes(b"From: a@b\r\nSubject: It sounds\r\n\r\nx\r\n")
    assert (
        "      nothing speaks for a family that is known: the generic words decide" in mailwire("explain", mail).lines
    )
    (here / "mailwire.yaml").write_text(
        "integrations: {}\ndevices: {horn: {match: {from: a@b}, profile: acme}}\n", encoding="utf-8"
    )
    lines = mailwire("explain", mail).lines
    assert "      the configuration says that it is one of acme" in lines
    assert "      the mail 'sounds' of acme.toml" in lines


def test_ours_are_in_the_package():
    assert (OURS / "README.md").exists()
