"""Network, LED, watchdog and clock, in the real MicroPython, on stand-ins for the hardware that a PC lacks.

What `network` and `machine` do on a board is not tested here; what we ask of them, and say of it, is.
"""

import contextlib
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from tests.firmware.board import BUILDS, ROOT, interpreter

STAND_INS = Path(__file__).parent / "stand_ins_network"
BEGIN = """
import sys
sys.path.insert(0, {root!r})
import asyncio, network, machine
from firmware import board, join, log, net, pins, settings
net.LOOK_MS, net.JOIN_MS, net.FIRST, net.LAST = 1, 20, 0, 0

class App:
    id = "front_door"
    parts = {{}}
    mistakes = []
    def __init__(self, **own):
        own.setdefault("ntp", False)
        self.settings, self.mistakes = settings.check(own)
    def is_target(self, section):
        return section == "serial" and not self.settings["mqtt"]

async def until(condition):
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep_ms(1)
    print("waited in vain")

def play(app, scenario):
    async def both():
        one = net.make(app)
        task = asyncio.create_task(one.run())
        await scenario(one)
        task.cancel()
    asyncio.run(both())
"""


@pytest.fixture(params=BUILDS)
def run(request, tmp_path):
    """What a script prints, after the lines above."""

    def started(code: str) -> list[str]:
        path = tmp_path / "script.py"
        path.write_text(BEGIN.format(root=str(ROOT)) + code)
        done = subprocess.run(
            [interpreter(request.param), "-X", "heapsize=1M", path],
            env=os.environ | {"MICROPYPATH": f"{STAND_INS}:.frozen"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return started


def test_wifi_without_gateway_and_dns(run) -> None:
    assert run("""
async def scenario(one):
    await until(lambda: not one.trouble)
    print(one.address, one.signal(), one.trouble)
play(App(wifi={"ssid": "lobby", "country": "DE"}), scenario)
print(network.calls[:2], [call for call in network.calls if call[0] in ("connect", "config")])
""") == [
        "wifi: this board is 10.0.2.15 (no gateway, no DNS)",
        "10.0.2.15 -61 None",
        "[('hostname', 'front-door'), ('country', 'DE')] "
        "[('config', {'reconnects': 0}), ('config', {'pm': 0}), ('connect', 'lobby')]",
    ]


def test_reasons_in_words(run) -> None:
    said = run("""
async def scenario(one):
    network.calls.clear()
    await until(lambda: network.calls.count(("WLAN", "active", True)) > 3)  # several tries, said once
play(App(wifi={"ssid": "home", "password": "wrong-one"}), scenario)
play(App(wifi={"ssid": "hoem", "password": "right"}), scenario)
network.DHCP[0] = "0.0.0.0"
play(App(wifi={"ssid": "home", "password": "right"}), scenario)
network.WLAN.connect = lambda self, *_: None
network.WLAN.one.code, network.WLAN.one.up = 1001, False
play(App(wifi={"ssid": "home", "password": "right"}), scenario)
""")
    there_is_none = "wifi: there is no network 'hoem' in reach (of 2.4 GHz, with a protection known here)"
    assert said == [
        "wifi: 'home' refuses the password: see wifi.password",
        there_is_none + ". Did you mean 'home'?",
        "wifi: joined 'home', but got no address from it: is there DHCP?",
        "wifi: 'home' does not answer",
    ]


def test_a_connection_that_is_lost_comes_back(run) -> None:
    assert run("""
async def scenario(one):
    await until(lambda: not one.trouble)
    network.WLAN.one.up = False
    await until(lambda: one.trouble)
    print(one.trouble, one.address, one.signal())
    await until(lambda: not one.trouble)
real = asyncio.sleep
asyncio.sleep = lambda seconds: asyncio.sleep_ms(int(seconds * 10))  # a second is long here
network.DHCP[2] = network.DHCP[3] = "10.0.2.2"
play(App(wifi={"ssid": "home", "password": "right"}), scenario)
""") == [
        "wifi: this board is 10.0.2.15",
        "wifi: the connection is lost",
        "wifi: the connection is lost None None",
        "wifi: this board is 10.0.2.15",
    ]


def test_the_radio_is_on_before_the_program_is_loaded(run) -> None:
    """An ESP32's heap grows into the memory that its radio needs."""
    assert run("""
app = App(wifi={"ssid": "home"})
one = net.make(app)
print(network.calls)
network.WLAN.active = lambda self, on: 1 // 0 if on is None else (_ for _ in ()).throw(OSError("WiFi Out of Memory"))
net.make(app)
""") == [
        "[('hostname', 'front-door'), ('WLAN', 'active', True)]",
        "net: the radio can't be switched on: WiFi Out of Memory",
    ]


def test_an_old_reason_is_no_answer_to_a_new_try(run) -> None:
    """ESP32's driver tells why the last try failed until there is an address: here, one that takes a while."""
    assert run("""
class Slow(network.WLAN):
    tries = 0
    def connect(self, ssid, *key):
        self.tries += 1
        self.looks = 0
        network.calls.append(("connect", ssid))
    def status(self, what=None):
        if what:
            return -61
        self.looks += 1
        if self.tries == 1 and self.looks > 2:
            self.code = network.STAT_NO_AP_FOUND
        if self.tries > 1 and self.looks > 5:
            self.code, self.up, self.lease = network.STAT_GOT_IP, True, network.DHCP
        return self.code
    looks = 0
network.WLAN.one = object.__new__(Slow)
network.WLAN.one.code = network.STAT_IDLE
async def scenario(one):
    await until(lambda: not one.trouble)
    print(network.calls.count(("connect", "home")))
play(App(wifi={"ssid": "home"}), scenario)
""")[1:] == ["wifi: this board is 10.0.2.15 (no gateway, no DNS)", "2"]


def test_numbers_of_esp_idf_mean_nothing_elsewhere(run) -> None:
    """On RP2, 2 says that the network is joined and that its address is awaited."""
    assert run("""
network.STAT_IDLE, network.STAT_CONNECTING, network.STAT_GOT_IP = 0, 1, 3
network.STAT_NO_AP_FOUND, network.STAT_WRONG_PASSWORD = -2, -3
print([join._why(status, "home") for status in (0, 1, 2, 3, -3)])
""") == ["['', '', '', '', \"'home' refuses the password: see wifi.password\"]"]


def test_one_that_fails_leaves_nobody_behind(run) -> None:
    """Two that keep the same Wi-Fi would take it from each other."""
    assert run("""
async def scenario():
    one = net.make(App(wifi={"ssid": "home", "password": "right"}, ntp="time"))
    async def keeps(name, own):
        try:
            await asyncio.Event().wait()
        finally:
            print(name, "ends")
    async def fails(server):
        raise KeyError(server)
    one._keep, one._keep_time = keeps, fails
    try:
        await one.run()
    except KeyError:
        print("fails")
    await asyncio.sleep_ms(0)
asyncio.run(scenario())
""") == ["fails", "wifi ends"]


def test_memory_that_runs_out_is_told_and_tried_again(run) -> None:
    said = run("""
async def scenario(one):
    real = one._ask_time
    async def asked(server):
        one.asked += 1
        raise MemoryError if one.asked < 3 else OSError(110)
    one.asked, one._ask_time = 0, asked
    await until(lambda: one.asked > 3)
    print(network.calls.count(("connect", "lobby")))
play(App(wifi={"ssid": "lobby"}, ntp="time"), scenario)
""")
    assert said[1:] == ["ntp: time does not tell the time (no answer); mail is taken without", "1"]


def test_ethernet_has_the_pins_of_the_board(run) -> None:
    assert run("""
async def scenario(one):
    await until(lambda: not one.trouble)
olimex = {"phy_type": "PHY_LAN8720", "phy_addr": 1,
          "mdc": 23, "mdio": 18, "power": 12, "ref_clk": 17, "ref_clk_mode": "out"}
play(App(ethernet={"phy_addr": 0}, board={"ethernet": olimex}), scenario)
arguments = [call for call in network.calls if call[0] == "LAN"][0][1]
print([(key, getattr(arguments[key], "number", arguments[key])) for key in sorted(arguments)])
async def other(one):
    await until(lambda: one.trouble != "not joined yet")
play(App(ethernet={"phy_type": "PHY_XY"}), other)
""") == [
        "ethernet: this board is 192.168.1.9",
        "[('mdc', 23), ('mdio', 18), ('phy_addr', 0), ('phy_type', 1), ('power', 12), ('ref_clk', 17), "
        "('ref_clk_mode', 3)]",
        "ethernet: this MicroPython has no driver 'PHY_XY'",
    ]


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.fixture
def time_server():
    """A fake of an NTP server (RFC 5905): answers what it is told to."""
    answers: list[bytes] = []
    over = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.settimeout(0.05)

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    asked, peer = own.recvfrom(100)
                    assert len(asked) == 48
                    own.sendto(answers.pop(0), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield own.getsockname()[1], answers
        over.set()
        thread.join()


def answer(seconds: int, stratum: int = 2) -> bytes:
    return bytes([0x24, stratum]) + bytes(38) + struct.pack(">II", (seconds + 2208988800) & 0xFFFFFFFF, 0)


def test_the_clock_is_set(run, time_server) -> None:
    port, answers = time_server
    answers += [answer(1800000000), answer(2100000000), b"no time", answer(0, stratum=0)]
    assert run(f"""
async def ask():
    print(await join.ask_time("127.0.0.1", {port}))
    print(await join.ask_time("127.0.0.1", {port}))  # behind 2036, where NTP begins again
    for _ in range(2):
        try:
            await join.ask_time("127.0.0.1", {port})
        except ValueError as error:
            print(error)
    net.NTP_PATIENCE = 0.01
    try:
        await join.ask_time("127.0.0.1", 1)
    except (OSError, asyncio.TimeoutError) as error:
        print(type(error).__name__)
asyncio.run(ask())
board.set_clock(1800000000)
print(machine.calls[-1])
""") == [
        "1800000000", "2100000000", "its answer is no time", "its answer is no time", "OSError",
        "('clock', (2027, 1, 15, 4, 8, 0, 0, 0))",
    ]  # fmt: skip


# --- LED and watchdog ------------------------------------------------------------------------------------------------


def test_a_watchdog_on_rp2_waits_as_long_as_it_was_told(run) -> None:
    """Longer than the chip's own, and not for ever."""
    said = run("""
from firmware import watchdog_rp2

class Chip:
    def WDT(self, timeout):
        print("the chip waits", timeout)
        self.fed = 0
        return self
    def feed(self):
        self.fed += 1
    def Timer(self, number, period, callback):
        print("timer", number, period)
        self.tick = callback
        return self
    def deinit(self):
        print("the timer ends")

chip = watchdog_rp2.machine = Chip()
feed = watchdog_rp2.start(60)
for _ in range(100):
    chip.tick(None)
print(chip.fed)
feed()
chip.tick(None)
print(chip.fed)
chip.mem32 = {}
watchdog_rp2.stop("Raspberry Pi Pico 2 W with RP2350")
print([(hex(at), hex(bit)) for at, bit in chip.mem32.items()])
""")
    assert said == [
        "the chip waits 8388", "timer -1 2000", "30", "31", "the timer ends", "[('0x400db000', '0x40000000')]",
    ]  # fmt: skip


def test_blink_codes_and_watchdog(run) -> None:
    said = run("""
from firmware import alive
alive.FLASH_MS = alive.GAP_MS = alive.FLICKER_MS = 1
class Part:
    trouble = None
net_, mqtt, frames = Part(), Part(), Part()

async def flashes(app):
    machine.calls.clear()
    one = alive.make(app)
    one._feed = lambda: machine.calls.append(("fed",))
    task = asyncio.create_task(one.run())
    await until(lambda: ("fed",) in machine.calls)
    task.cancel()
    return len([call for call in machine.calls if call == ("led", 2, True)])

async def scenario():
    app = App(board={"led": 2}, mqtt={"url": "mqtt://broker"}, wifi={"ssid": "home"})
    app.parts = {"net": net_, "mqtt": mqtt, "frames": frames}
    print("well", await flashes(app))
    mqtt.trouble = "away"
    print("no broker", await flashes(app))
    net_.trouble = "away"
    print("no network", await flashes(app))
    app.mistakes = ["x: y."]
    print("mistakes", await flashes(app))
    lines = App(board={"led": 2, "led_active_low": True})
    lines.parts = {"frames": frames}
    frames.trouble = "nobody is there"
    machine.calls.clear()
    one = alive.make(lines)
    task = asyncio.create_task(one.run())
    await until(lambda: ("fed",) in machine.calls)
    task.cancel()
    print([call for call in machine.calls if call[0] != "fed"])
    board.release_watchdog()
    print(machine.calls[-1])
    broken = App(board={"led": 99}, watchdog=0)
    task = asyncio.create_task(alive.make(broken).run())
    await asyncio.sleep_ms(20)
    task.cancel()
    print(board.reset_cause())
asyncio.run(scenario())
""")
    assert said == [
        "well 1",
        "no broker 2",
        "no network 3",
        "mistakes 4",
        # off is high where the LED is lit by low; nobody on the line: two flashes
        "[('led', 2, True), ('watchdog', 60000), ('led', 2, False), ('led', 2, True), ('led', 2, False), "
        "('led', 2, True)]",
        "('watchdog', 86400000)",
        "alive: there is no LED at 99: invalid pin",
        "watchdog",
    ]


def test_a_uart_has_the_pins_of_the_board(run) -> None:
    assert run("""
pins.uart(1, 9600, {"id": 1, "tx": 4, "rx": 36})
pins.uart(2, 115200, {"id": 1, "tx": 4, "rx": 36})
for call in machine.calls:
    print(call[:3], sorted(call[3].items()))
""") == [
        "('uart', 1, 9600) [('rx', 36), ('rxbuf', 1024), ('tx', 4), ('txbuf', 1024)]",
        "('uart', 2, 115200) [('rxbuf', 1024), ('txbuf', 1024)]",
    ]
