"""Sensors: the real firmware under the real MicroPython, with a real Mosquitto to hear it.

What is connected to the board is a stand-in (stand_ins/): files in place of levels, voltages and registers. So this
shows what the firmware makes of readings, not that a real sensor is read.
"""

import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests.firmware.board import BUILDS, ROOT, Board, interpreter
from tests.firmware.test_slots import STAND_INS
from tests.mosquitto import Listener, free_port, until

# What a board has, and room for the stand-ins, which are compiled where they are used.
HEAPS = {"x86_64": "512K", "i386": "200K"}

# The worked example of the BMP280's data sheet, BST-BMP280-DS001 §3.12: 25.08 °C, 100653.27 Pa.
CALIBRATION = (27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
RAW_TEMPERATURE, RAW_PRESSURE = 519888, 415148
HUMIDITY = (75, 362, 0, 313, 50, 30)  # such as a BME280 has; there is no worked example for it
RAW_HUMIDITY = 30000


def registers(chip, humidity=RAW_HUMIDITY, temperature=RAW_TEMPERATURE):
    """The memory of the chip, by its data sheet (BST-BME280-DS002 §4.2.2, §5.3)."""
    h1, h2, h3, h4, h5, h6 = HUMIDITY
    data = b"".join(((raw << 4).to_bytes(3, "big")) for raw in (RAW_PRESSURE, temperature)) + humidity.to_bytes(
        2, "big"
    )
    return {
        0x88: (struct.pack("<HhhHhhhhhhhh", *CALIBRATION) + bytes((0, h1))).hex(),
        0xD0: bytes((chip,)).hex(),
        0xE1: struct.pack("<hBbBbb", h2, h3, h4 >> 4, (h5 & 15) << 4 | h4 & 15, h5 >> 4, h6).hex(),
        0xF3: "00",
        0xF7: data.hex(),
    }


def relative_humidity(raw, fine):
    """By the data sheet's other formula, in floating point (appendix 8.1)."""
    h1, h2, h3, h4, h5, h6 = HUMIDITY
    v = fine - 76800.0
    v = (raw - (h4 * 64.0 + h5 / 16384.0 * v)) * (
        h2 / 65536.0 * (1.0 + h6 / 67108864.0 * v * (1.0 + h3 / 67108864.0 * v))
    )
    return min(max(v * (1.0 - h1 * v / 524288.0), 0.0), 100.0)


class World:
    """What is connected to a board."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "world"
        self._folder.mkdir(parents=True)

    def put(self, name: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        new = self._folder / f"{name}.new"
        new.write_text(text)
        new.replace(self._folder / name)

    def take(self, name: str) -> None:
        (self._folder / name).unlink()


@pytest.fixture(params=BUILDS)
def build(request):
    return request.param


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "flash")


@pytest.fixture
def ear(mosquitto):
    with Listener(mosquitto.port) as listener:
        yield listener


@pytest.fixture
def start(tmp_path, mosquitto, build):
    boards = []

    def started(*sensors):
        settings = {
            "name": "attic",
            "mqtt": {"url": f"mqtt://127.0.0.1:{mosquitto.port}"},
            "smtp": {"port": free_port()},
            "sensors": list(sensors),
        }
        environment = {"MICROPYPATH": f"{STAND_INS}:.frozen"}
        boards.append(Board(tmp_path / "flash", settings, build=build, heap=HEAPS[build], env=environment).start())
        return boards[-1]

    yield started
    for board in boards:
        board.stop()


def events(ear):
    return [json.loads(payload) for payload in ear.payloads("mailwire/attic/event")]


def told(ear, title):
    """The event of this title."""
    return until(
        lambda: next((event for event in events(ear) if event["title"] == title), None),
        f"for {title!r}; there are {[event['title'] for event in events(ear)]}",
    )


def reading(ear, key, value):
    until(lambda: (ear.newest("mailwire/attic/state") or {}).get(key) == value, f"for {key}={value}")


def test_contacts_and_buttons(world, start, ear):
    world.put("pin4", "0")
    world.put("pin5", "1")
    world.put("pin6", "1")
    world.put("pin7", "0")
    board = start(
        {"name": "Front door", "type": "contact", "pin": 4},
        {"name": "Bell", "type": "button", "pin": 5, "kind": "doorbell", "title": "Somebody is at the door"},
        {"name": "Cellar", "type": "contact", "pin": 6, "kind": "leak", "severity": "critical"},
        {"name": "Slow", "type": "contact", "pin": 7, "debounce": 10000},
        {"name": "Ghost", "type": "contact", "pin": 99},
    )
    # At the start: what is on is told, what is off is not, and what isn't there is.
    leak = told(ear, "Cellar: on")
    assert (leak["kind"], leak["state"], leak["severity"]) == ("leak", "on", "critical")
    assert leak["device"]["id"] == "attic"
    assert leak["data"] == {"sensor": "cellar"}
    ghost = told(ear, "Ghost: can't be read")
    assert (ghost["kind"], ghost["state"], ghost["text"]) == ("hardware", "on", "invalid pin")
    reading(ear, "front_door", "off")
    world.put("pin7", "1")  # a bounce, for a contact that counts after ten seconds
    world.put("pin4", "1")
    assert told(ear, "Front door: open")["state"] == "on"
    reading(ear, "front_door", "on")
    world.put("pin7", "0")
    world.put("pin5", "0")
    assert told(ear, "Somebody is at the door")["state"] is None
    world.put("pin5", "1")
    world.put("pin4", "0")
    assert told(ear, "Front door: closed")["state"] == "off"
    world.put("pin6", "0")
    off = told(ear, "Cellar: off")
    assert (off["state"], off["severity"]) == ("off", "info")
    assert len(events(ear)) == 6
    state = ear.newest("mailwire/attic/state")
    assert state["ghost"] is None
    assert "bell" not in state
    components = ear.newest("homeassistant/device/mailwire_attic/config")["components"]
    assert components["front_door"]["platform"] == "binary_sensor"
    assert components["front_door"]["device_class"] == "door"
    assert components["cellar"]["device_class"] == "moisture"
    assert "Traceback" not in board.output.decode()


def test_numbers_have_limits_with_hysteresis(world, start, ear):
    world.put("adc34", "20000")
    world.put("onewire5", {"28ff641e8216": 60.0, "28ff641e8217": -18.0})
    start(
        {"name": "Tank", "type": "analog", "pin": 34, "every": 0.1, "scale": 0.001, "unit": "m", "on": 5, "off": 10},
        {"name": "Freezer", "type": "ds18x20", "pin": 5, "rom": "28FF641E8217" + "0" * 4, "every": 1},
    )
    reading(ear, "tank", 20.0)
    reading(ear, "tank_alarm", "off")
    for raw in (6000, 5001):  # below `off` is no alarm yet
        world.put("adc34", str(raw))
        reading(ear, "tank", raw / 1000)
    assert not [event for event in events(ear) if event["data"].get("sensor") == "tank"]
    world.put("adc34", "5000")
    low = told(ear, "Tank: 5 m")
    assert (low["kind"], low["state"], low["severity"], low["data"]["value"]) == ("other", "on", "warning", 5.0)
    reading(ear, "tank_alarm", "on")
    world.put("adc34", "9999")  # above `on` is no end yet
    reading(ear, "tank", 9.999)
    reading(ear, "tank_alarm", "on")
    world.put("adc34", "10000")
    assert told(ear, "Tank: 10 m, normal again")["state"] == "off"
    components = ear.newest("homeassistant/device/mailwire_attic/config")["components"]
    assert components["tank"]["unit_of_measurement"] == "m"
    assert components["tank_alarm"]["device_class"] == "problem"


def test_one_wire_and_dht(world, start, ear):
    world.put("onewire5", {"28ff641e82160301": 60.0})
    world.put("onewire7", {"28ff641e82160301": 60.0, "28ff641e82160302": 7.5})
    world.put("onewire8", {"28ff641e82160301": 60.0, "28ff641e82160302": 7.5})
    world.put("dht6", "21.5 40.0")
    start(
        {"name": "Boiler", "type": "ds18x20", "pin": 5, "every": 1, "on": 80, "off": 70, "title": "The boiler is hot"},
        {"name": "One of two", "type": "ds18x20", "pin": 7, "every": 1, "rom": "28FF641E82160302"},
        {"name": "Which", "type": "ds18x20", "pin": 8, "every": 1},
        {"name": "Room", "type": "dht22", "pin": 6, "every": 2, "of": "humidity", "on": 60, "off": 55},
    )
    reading(ear, "boiler", 60.0)
    reading(ear, "one_of_two", 7.5)
    reading(ear, "room_temperature", 21.5)
    reading(ear, "room_humidity", 40.0)
    assert told(ear, "Which: can't be read")["text"].endswith(
        "there are several sensors on this pin; choose with rom: 28ff641e82160301, 28ff641e82160302"
    )
    world.put("onewire5", {"28ff641e82160301": 80.5})
    world.put("dht6", "20.0 60.0")
    hot = told(ear, "The boiler is hot: 80.5 °C")
    assert (hot["kind"], hot["data"]) == ("temperature", {"sensor": "boiler", "temperature": 80.5})
    damp = told(ear, "Room: 60 %")
    assert damp["kind"] == "humidity"
    assert damp["data"] == {"sensor": "room", "temperature": 20.0, "humidity": 60.0}


def test_a_sensor_is_lost_and_comes_back(world, start, ear):
    world.put("i2c118", registers(0x60))
    world.put("i2c119", registers(0x58))
    start(
        {"name": "Air", "type": "bme280", "i2c": {"sda": 21, "scl": 22}, "every": 1, "on": 25, "off": 24},
        {"name": "Pressure", "type": "bmp280", "i2c": {"sda": 25, "scl": 26, "address": 119}, "every": 1},
        {"name": "Wrong", "type": "bme280", "i2c": {"sda": 25, "scl": 26, "address": 119}, "every": 1},
    )
    reading(ear, "air_temperature", 25.1)
    reading(ear, "air_pressure", 1006.5)
    reading(ear, "air_humidity", round(relative_humidity(RAW_HUMIDITY, 128422), 1))
    reading(ear, "pressure_pressure", 1006.5)
    assert told(ear, "Air: 25.1 °C")["state"] == "on"
    world.take("i2c118")
    lost = told(ear, "Air: can't be read")
    assert (lost["kind"], lost["state"], lost["severity"]) == ("hardware", "on", "warning")
    reading(ear, "air_temperature", None)
    reading(ear, "air_alarm", None)
    assert told(ear, "Wrong: can't be read")["text"].endswith("change its type to bmp280")
    world.put("i2c118", registers(0x60, temperature=480000))
    back = told(ear, "Air: can be read again")
    assert (back["kind"], back["state"], back["severity"]) == ("hardware", "off", "info")
    # The alarm's end is told, though nobody saw it.
    assert until(lambda: [event for event in events(ear) if event["title"].endswith("normal again")])


def micropython(build, source, tmp_path, *arguments):
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.path.insert(0, sys.argv[1])\n" + source)
    done = subprocess.run(
        [interpreter(build), str(script), str(ROOT), *arguments],
        env=os.environ | {"MICROPYPATH": f"{STAND_INS}:.frozen"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_formulas_are_those_of_the_data_sheet(build, tmp_path):
    source = f"""
from firmware.bme280 import fine_temperature, air_pressure, relative_humidity
c = {CALIBRATION!r}
fine = fine_temperature(c, {RAW_TEMPERATURE})
print(fine, (fine * 5 + 128) >> 8, air_pressure(c, {RAW_PRESSURE}, fine), air_pressure((0,) * 12, {RAW_PRESSURE}, fine))
print([[relative_humidity({HUMIDITY!r}, raw, t) for raw in range(0, 65536, 4096)] for t in (0, 128422, 400000)])
"""
    first, second = micropython(build, source, tmp_path).splitlines()
    fine, temperature, pressure, none = map(int, first.split())
    assert (fine, temperature, none) == (128422, 2508, 0)
    assert pressure / 256 == pytest.approx(100653.27, abs=0.05)
    for fine, row in zip((0, 128422, 400000), json.loads(second), strict=True):
        for raw, measured in zip(range(0, 65536, 4096), row, strict=True):
            assert measured / 1024 == pytest.approx(relative_humidity(raw, fine), abs=0.05)


def test_what_finds_no_room_in_the_spool_is_told_later(build, tmp_path):
    World(tmp_path).put("pin4", "1")
    source = """
import asyncio
from firmware import sensors
from firmware.spool import Full
class App:
    parts = {}
    left = 5
    def keep(self, source):
        def kept(draft):
            self.left -= 1
            if self.left >= 0:
                raise Full("the spool is full")
            print(source, draft["title"], draft["state"])
        return kept
row = {"name": "Door", "type": "contact", "pin": 4, "pull": "up", "active": None, "debounce": 0}
row.update({"kind": "door", "severity": "info", "title": ""})
async def run():
    app = App()
    app.settings = {"sensors": [row]}
    one = sensors.Sensors(app)
    task = asyncio.create_task(one.run())
    while "on" not in one.readings().values():
        await asyncio.sleep_ms(10)
    task.cancel()
asyncio.run(run())
"""
    assert micropython(build, source, tmp_path).splitlines() == [
        "sensors: what Door has to say waits: the spool is full",
        "sensors Door: open on",
    ]


MISTAKES = [
    ({}, "sensors: must be a list of sensors. Write [{...}, {...}]."),
    ([5], 'sensors[0]: must be a set of keys. Begin with {"name": "...", "type": "..."}.'),
    (
        [{"name": "x"}],
        "sensors[0]: the key 'type' is missing. The types are contact, button, analog, ds18x20, dht11, dht22, bme280, "
        "bmp280.",
    ),
    (
        [{"name": "x", "type": "dht21"}],
        "sensors[0].type: there is no such type of sensor, not 'dht21'. Did you mean 'dht11'?",
    ),
    (
        [{"name": "x", "type": "button", "pul": "up", "pin": 1}],
        "sensors[0].pul: there is no such key here. Did you mean 'pull'?",
    ),
    ([{"name": "x", "type": "button"}], "sensors[0]: the key 'pin' is missing."),
    ([{"name": "x", "type": "bme280", "i2c": {"sda": 1}}], "sensors[0].i2c: the key 'scl' is missing."),
    (
        [{"name": "x", "type": "dht22", "pin": 1, "every": 1}],
        "sensors[0].every: must be at least 2.",
    ),
    (
        [{"name": "x", "type": "dht22", "pin": 1, "on": 5}],
        "sensors[0].on: 'on' and 'off' come together: the alarm begins at one and ends at the other.",
    ),
    (
        [{"name": "x", "type": "dht22", "pin": 1, "on": 5, "off": 5}],
        "sensors[0].off: must be another number than 'on': what lies between is the hysteresis.",
    ),
    (
        [{"name": "x", "type": "button", "pin": 1}, {"name": "X", "type": "button", "pin": 2}],
        "sensors[1].name: another sensor has this name. Choose another one.",
    ),
    (
        [{"name": "x", "type": "button", "pin": 1}, {"name": "y", "type": "button", "pin": 1}],
        "sensors[1].pin: 'x' is on this pin, too. Only DS18x20 with their rom given can share one.",
    ),
    (
        [{"name": "Uptime", "type": "button", "pin": 1}],
        "sensors[0].name: the board's state has another 'uptime'. Choose another name.",
    ),
    (
        [{"name": "Network", "type": "contact", "pin": 1}],
        "sensors[0].name: the board's state has another 'network'. Choose another name.",
    ),
    (
        [{"name": "!", "type": "button", "pin": 1}],
        "sensors[0].name: has no letter from a to z and no digit, and the sensor's key is made of them.",
    ),
]


def test_every_mistake_in_the_settings_is_told(build, tmp_path):
    good = {"name": "Good", "type": "contact", "pin": 40}
    cases = [given if not isinstance(given, list) else [*given, good] for given, _ in MISTAKES]
    (tmp_path / "cases").write_text(json.dumps(cases))
    source = """
import json
from firmware import settings
for given in json.load(open("cases")):
    found, mistakes = settings.check({"sensors": given})
    print(json.dumps([mistakes, [one["name"] for one in found["sensors"]]]))
"""
    lines = [json.loads(line) for line in micropython(build, source, tmp_path).splitlines()]
    assert [mistakes for mistakes, _ in lines] == [[words] for _, words in MISTAKES]
    assert all(
        "Good" in names for (given, _), (_, names) in zip(MISTAKES, lines, strict=True) if isinstance(given, list)
    )
