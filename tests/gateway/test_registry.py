"""Who sent this mail? Known, told apart, learned, bounded, forgotten."""

import dataclasses
import json
import logging

import pytest

from gateway.api import Envelope
from gateway.registry import MOST_QUANTITIES, Registry, Sender


@dataclasses.dataclass
class Learn:
    limit: int = 100
    per_peer: int = 50
    forget_days: float = 90


@dataclasses.dataclass
class Setting:
    match: dict
    name: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    profile: str | None = None
    off_after: float | None = None
    url: str | None = None
    expect: object = True

    def patterns(self):
        return self.match


def envelope(helo="ipc", peer="192.168.1.20", mail_from="cam@lan", to=("a@gw",)):
    return Envelope("lan-mail", peer, helo, mail_from, list(to))


def event(kind="motion", state=None, severity="info", title="t", **data):
    return {
        "id": "E",
        "time": "T",
        "kind": kind,
        "state": state,
        "severity": severity,
        "title": title,
        "data": data,
    }


@pytest.fixture
def saved():
    return {}


@pytest.fixture
def registry(saved):
    made = Registry(lambda key, document: saved.__setitem__(key, document))
    made.configure({}, Learn())
    return made


def who(registry, *, subject="", now=1000.0, **kwargs):
    names = {field.name for field in dataclasses.fields(Sender)}
    defaults = {"sender": "cam@lan", "sender_name": ""}
    sender = Sender(**defaults | {key: value for key, value in kwargs.items() if key in names})
    rest = {key: value for key, value in kwargs.items() if key not in names}
    return registry.identify(envelope(**rest), sender, subject, now)


def test_the_first_mail_makes_a_device_and_the_second_knows_it(registry, saved):
    first, new = who(registry, sender_name="Front door")
    assert (first.id, first.name, new) == ("front_door", "Front door", True)
    again, new = who(registry, sender_name="Front door")
    assert again is first
    assert not new
    assert saved["front_door"]["device"]["name"] == "Front door"


@pytest.mark.parametrize(
    ("about", "device_id"),
    [
        ({"device_name": "EZIP08", "sender_name": "Alarm"}, "ezip08"),
        ({"sender_name": "DiskStation"}, "diskstation"),
        ({"sender": "garage@lan"}, "garage"),
        ({"sender": "noreply@lan", "helo": "apc21A2B3"}, "apc21a2b3"),
        ({"sender": "root@pve1.corp.example", "helo": "localhost"}, "pve1"),
        ({"sender": "cam@lan", "helo": "ipc"}, "cam_192_168_1_20"),
        ({"sender": "", "mail_from": "jan@example.com", "helo": "localhost"}, "jan"),
        ({"sender": "", "mail_from": "", "helo": "[192.168.1.20]"}, "192_168_1_20"),
        ({"sender_name": "门口摄像头", "sender": "gate7@lan"}, "gate7"),
        ({"sender_name": "bridge"}, "bridge_20"),
        ({"sender_name": "../../#/+\x1b[2J$SYS"}, "2j_sys"),
    ],
)
def test_ids_are_sensible_and_safe(registry, about, device_id):
    assert who(registry, **about)[0].id == device_id


def test_a_profile_gets_more_exact_but_never_less(registry):
    device, _ = who(registry, profile="generic")
    who(registry, profile="hikvision")
    who(registry, profile="generic")
    assert device.profile == "hikvision"


@pytest.mark.parametrize(
    ("name", "device_id", "shown"),
    [
        ("Küche", "kueche", "Küche"),
        ("Entrée 2", "entree_2", "Entrée 2"),
        ("倉庫1", "plc", "倉庫1"),
    ],
)
def test_an_id_of_a_name_that_is_not_in_ascii(registry, name, device_id, shown):
    device, _ = registry.identify(envelope(), Sender("plc@lan", name), "x", 0.0)
    assert (device.id, device.name) == (device_id, shown)


def test_names_hold_nothing_that_a_screen_would_obey(registry):
    device, _ = who(registry, sender="", mail_from="", helo="cam7\x1b[2J\u202e\r\nx")
    assert (device.id, device.name) == ("cam7_2j_x", "Cam7 [2j x")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("length", [40, 60, 63, 64, 65, 100, 5000])
def test_long_names_that_begin_alike_stay_apart(registry, length):
    ids = [
        who(registry, sender=f"{number}@lan", sender_name="n" * length, helo="h" * 80 + str(number % 2))[0].id
        for number in range(5)
    ]
    assert len(set(ids)) == 5
    assert all(len(one) <= 64 for one in ids)
    assert [one[:30] for one in ids] == ["n" * 30] * 5


def test_two_cameras_that_share_a_sender_stay_apart_by_address(registry):
    one, _ = who(registry, peer="192.168.1.20", sender_name="IPCam1")
    two, _ = who(registry, peer="192.168.1.21", sender_name="IPCam1")
    assert one.id == "ipcam1"
    assert two.id == "ipcam1_21"
    assert who(registry, peer="192.168.1.20", sender_name="IPCam1")[0] is one


def test_two_cameras_behind_one_address_stay_apart_by_their_helo_names(registry):
    one, _ = who(registry, helo="EZIP08", sender="ez@lan")
    two, _ = who(registry, helo="EZIP09", sender="ez@lan")
    assert one is not two


def test_a_device_with_a_name_of_its_own_is_known_at_a_new_address(registry):
    one, _ = who(registry, helo="NPIF65E56", sender="printer@lan")
    again, new = who(registry, helo="NPIF65E56", sender="printer@lan", peer="192.168.1.99")
    assert again is one
    assert not new


def test_the_one_that_is_left_is_known_at_a_new_address(registry):
    about = {"helo": "NPIF65E56", "sender": "printer@lan"}
    first, _ = who(registry, **about, peer="192.168.1.20")
    registry._by_names.clear()  # as if its name had been learned later
    second, _ = who(registry, **about, peer="192.168.1.21")
    assert first.id != second.id
    registry.forget(second.id)
    assert who(registry, **about, peer="192.168.1.99")[0].id == first.id


def test_a_global_ipv6_address_counts_by_its_network(registry):
    one, _ = who(registry, peer="2001:4860:4860::8888")
    assert who(registry, peer="2001:4860:4860::1234")[0] is one
    assert who(registry, peer="2001:4860:4861::1234")[0] is not one


def test_configured_devices_come_first(registry):
    registry.configure(
        {"gate": Setting({"from": ["CAM@*"], "peer": ["192.168.1.*"]}, name="Gate", off_after=5)}, Learn()
    )
    device, new = who(registry)
    assert (device.id, device.name, device.learned, new) == ("gate", "Gate", False, False)
    assert who(registry, peer="10.0.0.1")[0].id != "gate"


def test_a_match_without_keys_matches_nothing(registry):
    registry.configure({"gate": Setting({})}, Learn())
    assert who(registry)[0].id != "gate"


def test_invented_senders_flood_nothing(registry, saved):
    for number in range(500):
        device, _ = who(registry, sender=f"x{number}y@lan")
    assert device.id == "unknown"
    assert len(registry.devices()) == 51
    other, _ = who(registry, sender="honest@lan", peer="192.168.1.77")
    assert other.id == "honest"


def test_the_total_is_bounded_too(saved):
    registry = Registry(lambda key, document: saved.__setitem__(key, document))
    registry.configure({}, Learn(limit=20))
    for number in range(100):
        who(registry, sender=f"x{number}y@lan", peer=f"10.0.0.{number}")
    assert len(registry.devices()) == 21


def test_a_motion_ends_by_itself_and_a_power_cut_does_not(registry):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on"), None, 1000)
    registry.saw(device, event("power", "on"), None, 1000)
    assert registry.tick(1059.9) == []
    assert registry.tick(1060) == [device]
    assert device.states == {"motion": "off", "power": "on"}


def test_a_profile_says_what_ends_by_itself_and_the_configuration_says_it_before(registry):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on"), None, 1000, 0)
    registry.saw(device, event("power", "on"), None, 1000, 30)
    registry.saw(device, event("door", "on"), None, 1000, None)
    assert registry.tick(1029.9) == []
    assert registry.tick(1030) == [device]
    assert registry.tick(9999) == []
    assert device.states == {"motion": "on", "power": "off", "door": "on"}
    setting = Setting({"from": ["*"]}, off_after=5)
    registry.configure({device.id: setting}, Learn())
    registry.saw(device, event("motion", "on"), None, 2000, 0)
    assert registry.tick(2005) == [device]


def test_what_one_part_says_ends_nothing_of_another(registry, saved):
    device, _ = who(registry)

    def says(state, **part):
        severity = "warning" if state == "on" else "info"
        registry.saw(device, event("alarm", state, severity, title=f"{part} {state}", **part), None, 1000)

    says("on", host="web1", service="HTTP")
    says("on", host="web1", service="SMTP")
    says("on", host="db1")
    says("off", host="web1", service="HTTP")
    assert device.states == {"alarm": "on"}
    assert list(device.troubles) == ["alarm (web1, SMTP)", "alarm (db1)"]
    registry.save_news()
    fresh = Registry(lambda *_: None)
    fresh.load(json.loads(json.dumps([one for one in saved.values() if one])))
    assert fresh.devices()[0].troubles == device.troubles
    says("off", host="db1", service="SSH")  # of which the host's alarm may have spoken
    says("off", host="web1")  # all of it
    assert (device.states, device.troubles) == ({"alarm": "off"}, {})
    says("on", host="web1", service="HTTP")
    says("off")
    assert (device.states, device.troubles) == ({"alarm": "off"}, {})


def test_parts_end_by_themselves_one_by_one(registry):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on", channel="1"), None, 1000)
    registry.saw(device, event("motion", "on", channel="2"), None, 1030)
    registry.tick(1060)
    assert device.states == {"motion": "on"}
    registry.tick(1090)
    assert device.states == {"motion": "off"}


def test_parts_are_bounded(registry, saved):
    device, _ = who(registry)
    for number in range(1000):
        registry.saw(device, event("alarm", "on", "warning", channel=str(number)), None, 1000)
    registry.save_news()
    assert len(saved[device.id]["alarms"]) == len(device.troubles) == 256


def test_what_a_version_without_parts_has_kept_still_ends(registry, saved):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on"), None, 1000)
    registry.save_news()
    old = saved[device.id]
    del old["alarms"]
    fresh = Registry(lambda *_: None)
    fresh.load([{**old, "ends": {"motion": 1060.0}}])
    fresh.configure({}, Learn())
    assert [one.states for one in fresh.tick(1060)] == [{"motion": "off"}]


def test_the_profile_that_the_configuration_says(registry):
    settings = {
        "a": Setting({"from": ["cam@*"]}, profile="dahua"),
        "b": Setting({"peer": ["10.0.0.*"], "helo": ["ipc"]}, profile="reolink"),
        "c": Setting({"subject": ["?*"]}, profile="axis"),
        "d": Setting({}, profile="foscam"),
    }
    registry.configure(settings, Learn())

    def profile(peer, helo, mail_from):
        return registry.profile_of(Envelope("m", peer, helo, mail_from, []))

    assert profile("10.0.0.1", "ipc", "cam@lan") == "dahua"
    assert profile("10.0.0.1", "ipc", "x@lan") == "reolink"
    assert profile("10.0.0.1", "y", "x@lan") == ""


def test_each_new_motion_starts_the_time_again(registry):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on"), None, 1000)
    registry.saw(device, event("motion", "on"), None, 1050)
    assert registry.tick(1060) == []
    assert registry.tick(1110) == [device]


def test_ends_survive_a_restart(registry, saved):
    device, _ = who(registry)
    registry.saw(device, event("motion", "on"), 2, 1000)
    registry.save_news()
    fresh = Registry(lambda *_: None)
    fresh.load(saved.values())
    fresh.configure({}, Learn())
    assert [one.id for one in fresh.tick(1100)] == [device.id]
    assert fresh.devices()[0].picture == ("E", 2)
    assert who(fresh)[0].id == device.id


def test_seen_again_is_written_after_a_while(registry, saved):
    device, _ = who(registry)
    registry.saw(device, event(), None, 1000)
    registry.save_news()
    registry.saw(device, event(), None, 1001)
    registry.save_news()
    assert saved[device.id]["device"]["mails"] == 1
    registry.tick(1003)
    assert saved[device.id]["device"]["mails"] == 2


def test_news_of_a_flood_is_written_once():
    written = []
    registry = Registry(lambda key, document: written.append(document))
    registry.configure({}, Learn())
    device, _ = who(registry)
    del written[:]
    for number in range(100):
        registry.saw(device, event("motion", "off" if number % 2 else "on"), number, 1000)
    assert written == []
    registry.tick(1000)  # at the latest; the pipeline does it whenever it writes events
    registry.save_news()
    assert [document["device"]["picture"] for document in written] == [("E", 99)]
    registry.saw(device, event("door", "on"), None, 1000)
    registry.age(1000 + 91 * 86400)
    registry.save_news()
    assert written[1:] == [None]


def test_forgetting(registry, saved):
    device, _ = who(registry)
    registry.saw(device, event(), None, 1000)
    assert registry.age(1000 + 89 * 86400) == []
    assert registry.age(1000 + 91 * 86400) == [device.id]
    assert saved[device.id] is None
    assert who(registry)[1]


def test_renaming_and_its_refusals(registry):
    registry.configure({"gate": Setting({"from": ["nobody"]})}, Learn())
    device, _ = who(registry)
    assert registry.rename(device.id, "Porch").name == "Porch"
    with pytest.raises(ValueError, match="gate is named in the configuration; change its name there"):
        registry.rename("gate", "x")
    with pytest.raises(ValueError, match="gate is in the configuration; remove it there"):
        registry.forget("gate")
    with pytest.raises(KeyError):
        registry.forget("nobody")


def test_learning_is_logged_once(registry, caplog):
    caplog.set_level(logging.INFO)
    who(registry)
    who(registry)
    assert caplog.messages == [
        "learned a new device: cam_192_168_1_20 (Cam 192.168.1.20), from cam@lan, at 192.168.1.20"
    ]


# --- what a device says of itself -------------------------------------------------------------------------------


def test_quantities_are_the_numbers_of_its_events(registry, saved):
    device, _ = who(registry)
    first = event(runtime=24, runtime_unit="min", load=12.5, load_unit="%", pages=7, job="31", on=True)
    assert registry.saw(device, first, None, 1000.0)
    assert device.quantities == {"runtime": (24, "min"), "load": (12.5, "%"), "pages": (7, None)}
    assert not registry.saw(device, event(runtime=23, runtime_unit="min"), None, 1001.0)  # no news, but the newest
    assert device.quantities["runtime"] == (23, "min")
    assert registry.saw(device, event(runtime=1380, runtime_unit="s"), None, 1002.0)
    registry.save_news()
    again = Registry(lambda *_: None)
    again.load([json.loads(json.dumps(saved[device.id]))])
    assert again.get(device.id) == device


@pytest.mark.parametrize(
    "data",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"a b": 1},
        {"Ä": 1},
        {"x'}}": 1},
        {"x": "1"},
        {"x": [1]},
        {"x": None},
    ],
)
def test_no_quantity_has_a_name_or_a_value_of_its_own_making(registry, data):
    device, _ = who(registry)
    registry.saw(device, event(**data), None, 1000.0)
    assert device.quantities == {}


@pytest.mark.parametrize("unit", ["", 7, "x" * 17, "a\nb", None])
def test_unit_that_is_none(registry, unit):
    device, _ = who(registry)
    registry.saw(device, event(x=1, x_unit=unit), None, 1000.0)
    assert device.quantities["x"] == (1, None)


def test_quantities_are_bounded(registry):
    device, _ = who(registry)
    for number in range(100):
        registry.saw(device, event(**{f"k{number}": number}), None, 1000.0)
    assert len(device.quantities) == MOST_QUANTITIES
    registry.saw(device, event(k3=77, k99=1), None, 1000.0)
    assert device.quantities["k3"] == (77, None)
    assert "k99" not in device.quantities


def test_trouble_lasts_till_an_event_of_its_kind_is_none(registry):
    device, _ = who(registry)
    assert registry.saw(device, event("backup", severity="critical", title="Backup failed"), None, 1000.0)
    registry.saw(device, event("disk", "on", "warning", "Disk 3"), None, 1000.0)
    registry.saw(device, event("motion", "on", "warning"), None, 1000.0)
    registry.saw(device, event("login", severity="warning"), None, 1000.0)
    assert device.troubles == {"backup": "Backup failed", "disk": "Disk 3"}
    registry.saw(device, event("disk", "off", "warning"), None, 1000.0)
    assert registry.saw(device, event("backup"), None, 1000.0)
    assert device.troubles == {}


def test_person_clears_what_never_ends(registry, saved):
    device, _ = who(registry)
    registry.saw(device, event("smoke", "on", "critical"), None, 1000.0)
    registry.saw(device, event("motion", "on"), None, 1000.0)
    assert registry.clear(device.id) is device
    assert (device.states, device.troubles) == ({"smoke": "off", "motion": "off"}, {})
    assert saved[device.id]["alarms"] == []
    assert registry.tick(5000.0) == []
    with pytest.raises(LookupError):
        registry.clear("nobody")


@pytest.mark.parametrize(
    ("peer", "url"),
    [
        ("192.168.1.20", "http://192.168.1.20/"),
        ("fd00::7", "http://[fd00::7]/"),
        ("127.0.0.1", None),
        ("8.8.8.8", None),
        ("fe80::1%eth0", None),
        ("169.254.3.4", None),
        ("", None),
    ],
)
def test_page_of_a_device_is_where_it_sends_from(registry, peer, url):
    assert who(registry, peer=peer)[0].url == url


def test_page_follows_the_device_unless_the_configuration_says_it(saved):
    registry = Registry(saved.__setitem__)
    registry.configure({"nas": Setting({"from": ["nas@lan"]}, url="https://nas.lan:5001/")}, Learn())
    assert who(registry, sender="nas@lan")[0].url == "https://nas.lan:5001/"
    cam, _ = who(registry, helo="NPIF65E56", peer="192.168.1.20")
    again, _ = who(registry, helo="NPIF65E56", peer="192.168.1.21")
    assert again is cam
    assert cam.url == "http://192.168.1.21/"


# --- reports -------------------------------------------------------------------------------------------------------

DAY = 86400.0


def reporting(registry, count=20, last=2e9, **about):
    """A device that reported each day till `last`, and the gateway has listened since the day before."""
    device, _ = who(registry, **about)
    for number in range(count):
        registry.saw(device, event("backup"), None, last - (count - 1 - number) * DAY)
    return device


def listen(registry, begin, end):
    """What is told from the one moment to the other, and the devices that changed."""
    told, changed = [], []
    while begin < end:
        devices, drafts = registry.look(begin)
        changed += devices
        told += drafts
        begin += 50
    return told, changed


def test_who_reports_is_there_till_it_does_not(registry, saved):
    device = reporting(registry)
    assert device.online is None
    assert listen(registry, 2e9, 2e9 + 100) == ([], [device])
    assert device.online is True
    (draft,), changed = listen(registry, 2e9 + 100, 2e9 + 2 * DAY)
    assert (draft["device"], draft["kind"], draft["state"]) == ({"id": device.id}, "backup", "on")
    assert changed == [device]
    assert device.online is False
    again = Registry(lambda *_: None)
    again.configure({}, Learn())
    again.load([saved[device.id]])
    assert again.get(device.id).online is False
    assert again.expected(device.id, {}, 2e9 + 2 * DAY)["backup"].missing
    registry.saw(device, event("motion", "on"), None, 2e9 + 2 * DAY)
    assert device.online is True  # it is there, though its report is missed
    assert listen(registry, 2e9 + 2 * DAY, 2e9 + 4 * DAY) == ([], [])
    assert device.online is True


def test_who_is_heard_of_for_something_else_is_there(registry):
    device = reporting(registry)
    listen(registry, 2e9, 2e9 + 0.9 * DAY)
    told, _ = listen(registry, 2e9 + 0.9 * DAY, 2e9 + 1.01 * DAY)
    registry.saw(device, event("motion", "on"), None, 2e9 + 1.01 * DAY)
    more, _ = listen(registry, 2e9 + 1.01 * DAY, 2e9 + 1.2 * DAY)
    assert (told, len(more)) == ([], 1)
    assert device.online is True


def test_what_is_told_about_a_device_is_not_heard_from_it(registry):
    device = reporting(registry)
    registry.saw(device, event("backup", "on"), None, 2e9 + DAY, heard=False)
    assert (device.last_seen, device.mails, device.states) == (2e9, 20, {})
    assert device.last_event["state"] == "on"


def test_a_mail_that_is_replayed_makes_no_device_older(registry):
    device = reporting(registry)
    registry.saw(device, event("backup"), None, 1e9)
    assert device.last_seen == 2e9


def test_many_devices_are_looked_at_in_turn(registry):
    devices = [reporting(registry, sender=f"nas{number}@lan", peer=f"10.0.0.{number}") for number in range(100)]
    assert len(registry.look(2e9)[0]) == 64
    assert len(registry.look(2e9 + 1)[0]) == 36
    assert all(device.online for device in devices)


def test_those_that_are_not_told_apart_have_no_rhythm(registry):
    registry.configure({}, Learn(limit=0))
    assert reporting(registry).id == "unknown"
    assert listen(registry, 2e9, 2e9 + 2 * DAY) == ([], [])
