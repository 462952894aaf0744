"""`flash`: what it would do for each board, where settings and passwords come from, what an ESP32's flash holds
afterwards byte for byte, and that nothing is overwritten without a yes.

esptool is the real one, MicroPython's image is the published one; the boot ROM is a fake (tests/firmware/fake_rom.py).
"""

import hashlib
import http.server
import io
import json
import os
import pty
import subprocess
import sys
import threading
from functools import partial

import pytest

import gateway.flash
from gateway import ports
from gateway.flash import FlashError, application, boards, image, micropython, partitions
from gateway.flash import settings as making
from gateway.wire import link
from tests import needs
from tests.firmware.fake_rom import FakeRom
from tests.gateway.test_cli.test_cli_boards import EVERY

NO_RESET = ("--before", "no-reset", "--after", "no-reset")
VFS = 0x200000


@pytest.fixture
def micropython_file():
    return needs.esp32_micropython()


@pytest.fixture
def flash(mailwire, micropython_file):
    def run(rom, *words):
        return mailwire("flash", "ESP32_GENERIC", "--port", rom.url, "--firmware", micropython_file, *NO_RESET, *words)

    return run


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch, tmp_path):
    """Of this machine neither passwords nor downloads are seen."""
    for part in ("WIFI", "MQTT", "POST"):
        monkeypatch.delenv(f"MAILWIRE_{part}_PASSWORD", raising=False)
    monkeypatch.setenv("MAILWIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


def image_of(mailwire, tmp_path, board, *words):
    """What `flash BOARD --image` makes: path -> content."""
    done = mailwire("flash", board, "--image", tmp_path / "image", *words)
    assert done.code == 0, done.err
    return image.read((tmp_path / "image").read_bytes())


def settings_of(*args):
    return json.loads(image_of(*args)["settings.json"])


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", EVERY)
def test_a_dry_run_prints_every_step_and_does_nothing(mailwire, board, here, tmp_path):
    done = mailwire("flash", board, "--dry-run")
    assert done.code == 0, done.err
    wanted = {
        "esptool": ("Download ", "mpy-cross", "flash-id", "write-flash --flash-size detect", "hello"),
        "uf2": ("Download ", "BOOTSEL", "cp MICROPYTHON.uf2", "mpy-cross", "mpremote connect PORT cp", "hello"),
        "lines": ("main.py", "mpremote connect PORT exec"),
        "folder": ("mpy-cross", "mailwire-board"),
        "steps": ("mailwire service install",),
    }[boards.find(board, boards.folders(None)).mailwire.flash]
    for words in wanted:
        assert words in done.out
    assert list(here.iterdir()) == []
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_knows_the_layout_of_a_file_at_hand(mailwire, micropython_file):
    done = mailwire(
        "flash", "ESP32_GENERIC", "--dry-run", "--firmware", micropython_file, "--erase", "--port", "/dev/x"
    )
    line = "write-flash --flash-size detect --erase-all 0x1000 MICROPYTHON 0x200000 'FILE_SYSTEM(2048K)'"
    assert line in done.out
    done = mailwire("flash", "ESP32_GENERIC", "--dry-run", "--no-stub", "--baud", 9600, "--port", "socket://h:1")
    assert "esptool --chip esp32 --port socket://h:1 --baud 9600 --no-stub --before default-reset" in done.out


def test_asks_for_a_board(mailwire):
    done = mailwire("flash")
    assert done.code == 2
    assert done.err.startswith("Which board? ESP32_GENERIC, ")
    assert (
        mailwire("flash", "RPI_PICOO", "--dry-run").err == "There is no board 'RPI_PICOO'. Did you mean 'RPI_PICO'?\n"
    )


def test_no_port_to_be_found(mailwire, micropython_file, monkeypatch):
    monkeypatch.setattr(ports, "list_ports", list)
    done = mailwire("flash", "ESP32_GENERIC", "--firmware", micropython_file)
    assert done.code == 1
    assert "No board is plugged in, as far as this machine can see." in done.err


def test_the_one_likely_port_is_taken_and_of_several_one_is_named(mailwire, micropython_file, monkeypatch):
    likely = ports.Port("/dev/ttyUSB7", "CP2102N", 0x10C4, 0xEA60, "77")
    others = [ports.Port(f"/dev/ttyACM{number}", "Pico", 0x2E8A, 0x0005, str(number)) for number in range(2)]
    monkeypatch.setattr(ports, "list_ports", lambda: [*others, likely])
    done = mailwire("flash", "ESP32_GENERIC", "--firmware", micropython_file)
    assert "The board is taken to be at /dev/ttyUSB7 (CP2102N, 10C4:EA60, serial number 77)." in done.out
    assert "/dev/ttyUSB7" in done.err
    done = mailwire("flash", "RPI_PICO", "--files-only")
    assert done.code == 2
    assert "Name it with --port:\n  1. /dev/ttyACM0 (Pico, 2E8A:0005, serial number 0)\n" in done.err


def test_what_is_not_installed_is_told_with_the_line_to_type(mailwire, monkeypatch):
    monkeypatch.setattr(gateway.flash, "_installed", lambda name: name != "esptool")
    done = mailwire("flash", "ESP32_GENERIC")
    assert done.code == 1
    assert done.err.startswith("This needs esptool, which is not installed here. Install it with:\n  ")
    assert done.err.endswith("-m pip install 'esptool>=5'\n")
    assert mailwire("flash", "ESP32_GENERIC", "--dry-run").code == 0


@pytest.fixture
def person(monkeypatch):
    """Somebody at a terminal who types these lines."""

    def types(*lines):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True)

    return types


def test_a_person_is_asked_for_the_port_and_may_say_no(mailwire, monkeypatch, person, tmp_path):
    two = [ports.Port(f"/dev/ttyACM{number}", "Pico", 0x2E8A, 0x0005, str(number)) for number in range(2)]
    monkeypatch.setattr(ports, "list_ports", lambda: two)
    (tmp_path / "INFO_UF2.TXT").touch()
    (tmp_path / "m.uf2").write_bytes(b"UF2\n" + bytes(24) + (0xE48BFF56).to_bytes(4, "little"))
    words = ("flash", "RPI_PICO", "--firmware", tmp_path / "m.uf2", "--drive", tmp_path)
    person("attic", "2", "n")
    done = mailwire(*words)
    assert done.code == 1
    assert "Which port is the board at?\n  1. /dev/ttyACM0 (Pico, 2E8A:0005, serial number 0)\n  2. " in done.out
    assert "Wait for MicroPython at /dev/ttyACM1" not in done.out
    assert "Overwrite the program on it? [y/N]" in done.out
    assert done.err == "Nothing was changed.\n"
    person("attic", "3")
    assert mailwire(*words).err == "That is none of them.\n"
    person("attic")
    assert mailwire(*words).err == "\nNobody answers. Nothing was changed.\n"
    assert not (tmp_path / "mailwire.uf2").exists()


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_from_options_a_file_and_single_keys(mailwire, tmp_path, monkeypatch):
    monkeypatch.setenv("MAILWIRE_WIFI_PASSWORD", "sesame")
    monkeypatch.setenv("BROKER", "hush")
    (tmp_path / "s.yaml").write_text("name: from file\nsmtp: {port: 2526, login: none}\n")
    words = ("--settings", tmp_path / "s.yaml", "--name", "attic", "--wifi-ssid", "Net")
    words += ("--mqtt", "mqtts://box%40home@broker:8883", "--mqtt-password-env", "BROKER")
    words += ("--set", "mqtt.verify=false", "--set", "ntp=10.0.0.1", "--set", "smtp.port=25")
    settings = settings_of(mailwire, tmp_path, "RPI_PICO_W", *words, "--data", tmp_path / "data")
    key = settings.pop("update")["key"]
    assert (tmp_path / "data" / "boards" / "attic.key").read_text() == f"{key}\n", "for `mailwire update`"
    assert settings == {
        "board": {"id": "RPI_PICO_W", "led": "LED", "uart": {"id": 0, "tx": 0, "rx": 1}},
        "name": "attic",
        "wifi": {"ssid": "Net", "password": "sesame"},
        "mqtt": {"url": "mqtts://broker:8883", "user": "box@home", "password": "hush", "verify": False},
        "smtp": {"port": 25, "login": "none"},
        "ntp": "10.0.0.1",
    }
    assert (tmp_path / "image").stat().st_mode & 0o077 == 0, "there are passwords in it"


def test_an_open_network_needs_no_password(mailwire, tmp_path):
    done = mailwire("flash", "RPI_PICO_W", "--image", tmp_path / "i", "--wifi-ssid", "Net")
    assert done.code == 0
    assert done.lines[0] == "No password for the Wi-Fi 'Net': it is taken to be an open one."


def test_a_board_with_ethernet_is_told_its_pins(mailwire, tmp_path, micropython_file):
    settings = settings_of(mailwire, tmp_path, "WT32_ETH01", "--firmware", micropython_file)
    assert settings["ethernet"] == {}
    pins = {"phy_type": "PHY_LAN8720", "phy_addr": 1, "mdc": 23, "mdio": 18, "power": 16, "ref_clk": 0}
    assert settings["board"]["ethernet"] == {**pins, "ref_clk_mode": "in"}


@pytest.mark.parametrize("board", [name for name in EVERY if name not in ("MICROBIT", "RASPBERRY_PI")])
def test_the_firmware_takes_what_is_written_for_each_board(board):
    making.check(making.combined(boards.find(board, boards.folders(None))))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "mqtt"), "--set mqtt: write KEY=VALUE, such as mqtt.base=home."),
        (("--set", "smpt.port=25"), "  smpt: there is no such key here. Did you mean 'smtp'?"),
        (("--mqtt", "http://x"), "  mqtt.url: http:// is not spoken here."),
        (("--mqtt", "mqtt://x", "--name", "!"), "  name: has no letter from a to z and no digit, "),
        (("--mqtt", "mqtt://x", "--set", "name=5"), "  name: must be text, not a number."),
        (("--set", "wifi=5"), "  wifi: must be a set of keys, not a number."),
        (("--mqtt", "mqtt://u@x"), "The password of u at mqtt://x is not known. Set MAILWIRE_MQTT_PASSWORD."),
        (("--wifi-ssid", "N", "--wifi-password-env", "NO"), "There is no environment variable NO, which was to hold "),
    ],
)  # fmt: skip
def test_settings_that_the_board_would_not_take(mailwire, tmp_path, words, told):
    done = mailwire("flash", "RPI_PICO_W", "--image", tmp_path / "i", *words)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "i").exists()


def test_a_board_without_a_network_is_given_nothing_that_needs_one(mailwire, tmp_path):
    """Its events would wait for a broker that it never reaches."""
    words = ("--wifi-ssid", "Net", "--mqtt", "mqtt://x")
    done = mailwire("flash", "RPI_PICO", "--image", tmp_path / "i", *words)
    assert done.code == 2
    assert done.err.startswith("RPI_PICO has no network, and these settings need one: wifi, mqtt. Leave them out: ")
    assert not (tmp_path / "i").exists()


def test_a_settings_file_with_mistakes(mailwire, tmp_path):
    (tmp_path / "s.yaml").write_text("- a\n")
    done = mailwire("flash", "RPI_PICO_W", "--image", tmp_path / "i", "--settings", tmp_path / "s.yaml")
    assert (done.code, "settings are a set of keys" in done.err) == (2, True)
    done = mailwire("flash", "RPI_PICO_W", "--image", tmp_path / "i", "--settings", tmp_path / "none.yaml")
    assert done.code == 2


def test_asks_a_person_and_never_shows_a_password(tmp_path):
    """On a real terminal: what is typed is echoed, but not the password."""
    keys = iter((b"attic\n", b"Net\n", b"mqtt://u@h\n", b"s3same\n", b"hu5h\n"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gateway", "flash", "RPI_PICO_W", "--image", str(tmp_path / "i")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=needs.CACHE.parent) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 1024)
            except OSError:  # the other end is closed
                break
            if shown.endswith(b": "):
                os.write(ours, next(keys))
                shown += b"\n"
        os.close(ours)
    assert process.returncode == 0, shown
    assert b"The password of the Wi-Fi 'Net' (empty for none): " in shown
    assert b"The password of u at mqtt://h (empty for none): " in shown
    assert b"s3same" not in shown
    assert b"hu5h" not in shown
    settings = json.loads(image.read((tmp_path / "i").read_bytes())["settings.json"])
    assert (settings["name"], settings["wifi"]) == ("attic", {"ssid": "Net", "password": "s3same"})
    assert settings["mqtt"] == {"url": "mqtt://h", "user": "u", "password": "hu5h"}


def test_a_password_from_the_keyring(mailwire, tmp_path, monkeypatch):
    (tmp_path / "kept.py").write_text(
        "from keyring.backend import KeyringBackend\n"
        "class Kept(KeyringBackend):\n"
        "    priority = 1\n"
        "    def get_password(self, service, name):\n"
        "        return {('mailwire', 'wifi Net'): 'from the ring'}.get((service, name))\n"
        "    def set_password(self, service, name, password):\n"
        "        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import keyring
    import keyring.core

    before = keyring.get_keyring()
    keyring.set_keyring(keyring.core.load_keyring("kept.Kept"))
    try:
        settings = settings_of(mailwire, tmp_path, "RPI_PICO_W", "--wifi-ssid", "Net")
    finally:
        keyring.set_keyring(before)
    assert settings["wifi"]["password"] == "from the ring"


def test_a_password_is_remembered_if_asked_for(mailwire, tmp_path, monkeypatch, person):
    kept = {}
    monkeypatch.setattr("getpass.getpass", lambda prompt: "s3same")
    monkeypatch.setattr(
        "keyring.set_password", lambda service, name, password: kept.update({(service, name): password})
    )
    for words in ((), ("--remember",)):
        person("attic", "")
        assert mailwire("flash", "RPI_PICO_W", "--image", tmp_path / "i", "--wifi-ssid", "Net", *words).code == 0
        assert kept == ({("mailwire", "wifi Net"): "s3same"} if words else {})


# --- MicroPython -----------------------------------------------------------------------------------------------------


class Site(http.server.ThreadingHTTPServer):
    """A web site that serves files from memory, and counts."""

    def __init__(self):
        self.files, self.asked = {}, []
        super().__init__(("127.0.0.1", 0), Page)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        content = self.server.files.get(name)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: None if name != "RPI_PICO_W-20250415-v1.25.0.uf2" else -1])

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def get(site, tmp_path, board, version="1.25.0"):
    source = micropython.source(
        boards.find(board, boards.folders(None)), version, tmp_path / "cache", f"http://127.0.0.1:{site.server_port}/f/"
    )
    return micropython.get(source, lambda done, total: None)


def test_micropython_is_downloaded_once_and_its_checksum_compared(site, tmp_path, micropython_file):
    site.files["ESP32_GENERIC-20250415-v1.25.0.bin"] = micropython_file.read_bytes()
    assert get(site, tmp_path, "ESP32_GENERIC") == micropython_file.read_bytes()
    assert get(site, tmp_path, "ESP32_GENERIC") == micropython_file.read_bytes()
    assert site.asked == ["ESP32_GENERIC-20250415-v1.25.0.bin"]
    kept = tmp_path / "cache" / "ESP32_GENERIC-20250415-v1.25.0.bin"
    kept.write_bytes(b"rotten")
    assert get(site, tmp_path, "ESP32_GENERIC") == micropython_file.read_bytes()
    assert len(site.asked) == 2


def test_a_wrong_checksum_keeps_nothing(site, tmp_path):
    site.files["ESP32_GENERIC-20250415-v1.25.0.bin"] = b"\xe9 something else"
    with pytest.raises(
        FlashError, match=r"what came is not what it should be: its SHA-256 is [0-9a-f]{64}, and should"
    ):
        get(site, tmp_path, "ESP32_GENERIC")
    assert not (tmp_path / "cache").exists()


def test_a_checksum_that_nobody_published_is_the_one_of_the_first_time(site, tmp_path):
    name = "RPI_PICO-20260824-v1.29.0.uf2"
    site.files[name] = b"UF2\n first"
    assert get(site, tmp_path, "RPI_PICO", "1.29.0") == b"UF2\n first"
    digest = hashlib.sha256(b"UF2\n first").hexdigest()
    assert (tmp_path / "cache" / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    assert get(site, tmp_path, "RPI_PICO", "1.29.0") == b"UF2\n first"
    assert site.asked == [name]


def test_a_download_that_fails(site, tmp_path):
    with pytest.raises(
        FlashError, match=r"can't be downloaded: Not Found. On a machine with a network, download it and"
    ):
        get(site, tmp_path, "RPI_PICO")
    site.files["RPI_PICO_W-20250415-v1.25.0.uf2"] = b"UF2\n cut short"
    with pytest.raises(FlashError, match=r"only 13 of 14 bytes came"):
        get(site, tmp_path, "RPI_PICO_W")
    with pytest.raises(FlashError, match=r"There is no MicroPython 1.25 that this knows. Did you mean '1.25.0'\?"):
        get(site, tmp_path, "RPI_PICO", "1.25")


# --- an ESP32 --------------------------------------------------------------------------------------------------------


def as_board(line):
    """What a board says that has just been flashed: boot noise, then `hello` for a `hello`."""
    start = ports.milliseconds()
    ours = link.Link("b00t", {"firmware": "mailwire 0.1.0", "board": "ESP32_GENERIC"}, start)
    line.sendall(b"ets Jul 29 2019 12:21:46\r\n\xf0\x9frst:0x1 (POWERON_RESET)\r\n")
    line.settimeout(0.05)
    while True:
        if out := ours.take(ports.milliseconds()):
            line.sendall(out)
        try:
            data = line.recv(4096)
        except TimeoutError:
            continue
        if not data:
            return
        ours.feed(data, ports.milliseconds())


def test_the_flash_holds_what_was_meant_and_the_board_says_hello(flash, micropython_file):
    firmware = micropython_file.read_bytes()
    with FakeRom(boot=as_board) as rom:
        done = flash(rom, "--wifi-ssid", "Net", "--mqtt", "mqtt://192.168.1.2:1884", "--name", "Attic 2", "--wait", 20)
        assert done.code == 0, done.err
        held = bytes(rom.flash)
    assert held[:0x1000].strip(b"\xff") == b""
    assert held[0x1000 : 0x1000 + len(firmware)] == firmware
    assert held[0x1000 + len(firmware) : VFS].strip(b"\xff") == b""
    files = image.read(held[VFS:])
    assert files.pop("main.py") == application.main_py()
    settings = json.loads(files.pop("settings.json"))
    assert len(settings.pop("update")["key"]) == 64
    assert settings == {
        "board": {"id": "ESP32_GENERIC", "led": 2, "uart": {"id": 2, "tx": 17, "rx": 16}},
        "name": "Attic 2",
        "wifi": {"ssid": "Net", "password": ""},
        "mqtt": {"url": "mqtt://192.168.1.2:1884"},
    }
    assert files == {f"a/{path}": content for path, content in application.files().items()}
    assert "4096 KiB of flash, of which 2048 KiB for files" in done.out
    assert "its flash is empty" in done.out
    assert "board ESP32_GENERIC, firmware mailwire 0.1.0" in done.out
    assert "  SMTP server  attic-2.local\n  port         2525\n" in done.out
    assert "mosquitto_sub -h 192.168.1.2 -p 1884 -t 'mailwire/#' -v" in done.out


def test_nothing_is_overwritten_without_a_yes(flash, mailwire, micropython_file, tmp_path):
    with FakeRom() as rom:
        rom.flash[0x1000:0x1004] = rom.flash[0x8000:0x8004] = b"\xe9\x01\x02\x03"
        done = flash(rom)
        assert done.code == 2
        assert "There is something else on this board (partitions: of an unknown kind). Overwrite it?" in done.err
        assert "add --yes. Nothing was changed." in done.err
        firmware = micropython_file.read_bytes()
        rom.flash[0x1000 : 0x1000 + len(firmware)] = firmware
        done = flash(rom)
        assert "(partitions: nvs, phy_init, factory, vfs)" in done.err
        mailwire("flash", "ESP32_GENERIC", "--image", tmp_path / "i", "--firmware", micropython_file)
        rom.flash[VFS:] = (tmp_path / "i").read_bytes()
        done = flash(rom)
        assert done.code == 2
        assert "it runs Mailwire already" in done.out
        assert "`mailwire flash --update` keeps both. Flash it anew?" in done.err
        assert not rom.written


def test_with_a_yes_and_erase_nothing_else_is_left(flash):
    with FakeRom() as rom:
        rom.flash[:] = b"\x55" * len(rom.flash)
        done = flash(rom, "--yes", "--erase", "--no-wait", "--name", "x")
        assert done.code == 0, done.err
        assert rom.flash[:0x1000] == b"\xff" * 0x1000
        assert "Its events come as frames:  mailwire monitor socket://" in done.out


def test_a_board_whose_flash_cannot_be_read_needs_a_yes(flash):
    with FakeRom(can_read=False) as rom:
        done = flash(rom)
        assert done.code == 2
        assert "What is on the board can't be seen" in done.err
        assert not rom.written


def test_what_does_not_fit_is_refused_before_anything_is_written(flash, mailwire, micropython_file):
    with FakeRom(size=2 << 20) as rom:
        done = flash(rom)
        assert done.code == 1
        assert "need a flash of more than 4096 KiB, and the board has 2048 KiB." in done.err
        assert not rom.written
    with FakeRom(chip="esp32s2") as rom:
        done = flash(rom)
        assert done.code == 1
        assert "the board has the chip ESP32-S2, and this one would be for ESP32." in done.err
        assert not rom.written
    done = mailwire("flash", "ESP32_GENERIC_C3", "--port", "socket://127.0.0.1:9", "--firmware", micropython_file)
    assert done.err.endswith("this is MicroPython for esp32, and the board has esp32c3.\n")
    done = mailwire("flash", "ESP32_GENERIC", "--port", "socket://127.0.0.1:9", "--firmware", __file__)
    assert "this is no image for an ESP32: it does not begin with the byte E9." in done.err


def test_nobody_at_the_port(flash):
    with FakeRom() as rom:
        pass
    done = flash(rom)
    assert done.code == 1
    assert f"{rom.url}: esptool says: Could not open {rom.url}, the port is busy or doesn't exist. (" in done.err
    done = flash(rom, "--update")
    assert done.code == 1
    assert f"{rom.url}: mpremote says: failed to access {rom.url}" in done.err


def test_secrets_are_on_no_command_line(monkeypatch, flash):
    seen = []
    real = subprocess.run

    def run(command, **options):
        seen.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("MAILWIRE_WIFI_PASSWORD", "s3same")
    with FakeRom() as rom:
        done = flash(rom, "--wifi-ssid", "Net", "--no-wait")
        assert done.code == 0
        assert b"s3same" in rom.flash
    assert len([command for command in seen if "esptool" in command]) == 3
    assert "s3same" not in f"{seen}{done.out}{done.err}"


# --- a Pico ----------------------------------------------------------------------------------------------------------


def test_a_pico_gets_its_uf2_file_on_its_drive(mailwire, tmp_path):
    uf2, drive = tmp_path / "m.uf2", tmp_path / "RPI-RP2"
    uf2.write_bytes(b"UF2\n" + bytes(24) + (0xE48BFF56).to_bytes(4, "little") + bytes(480))
    drive.mkdir()
    words = ("flash", "RPI_PICO", "--firmware", uf2, "--drive", drive, "--port", "socket://127.0.0.1:9")
    assert f"{drive} is no board's drive: there is no INFO_UF2.TXT in it." in mailwire(*words, "--yes").err
    (drive / "INFO_UF2.TXT").touch()
    done = mailwire(*words)
    assert done.code == 2
    assert "What is on the board can't be seen in this mode. Overwrite the program on it?" in done.err
    done = mailwire(*words, "--yes")
    assert done.code == 1
    assert "socket://127.0.0.1:9 can't be opened: [Errno 111] Connection refused" in done.err, "no MicroPython came up"
    assert (drive / "mailwire.uf2").read_bytes() == uf2.read_bytes()
    uf2.write_bytes(b"\xe9")
    assert f"{uf2}: this is no UF2 file. Use the .uf2 file for the board." in mailwire(*words, "--yes").err
    uf2.write_bytes(b"UF2\n" + bytes(24) + (0xE48BFF59).to_bytes(4, "little") + bytes(480))
    assert f"{uf2}: this is a UF2 file for another chip than rp2040" in mailwire(*words, "--yes").err


def test_no_drive(mailwire, tmp_path):
    (tmp_path / "m.uf2").write_bytes(b"UF2\n")
    done = mailwire("flash", "RPI_PICO", "--firmware", tmp_path / "m.uf2", "--port", "socket://127.0.0.1:9")
    assert "There is no drive RPI-RP2. Hold BOOTSEL while you plug in the USB cable" in done.err
    assert "--files-only leaves that as it is." in done.err


# --- images and partitions -------------------------------------------------------------------------------------------


def test_a_file_system_is_as_long_as_it_is_asked_to_be_and_what_does_not_fit_is_told():
    built = image.build({"a/b/c.mpy": b"x" * 5000, "main.py": b""}, 64 * 4096)
    assert len(built) == 64 * 4096
    assert image.read(built) == {"a/b/c.mpy": b"x" * 5000, "main.py": b""}
    with pytest.raises(FlashError, match=r"\(99999 bytes\) do not fit on a file system of 65536 bytes"):
        image.build({"big": b"x" * 99999}, 16 * 4096)
    with pytest.raises(FlashError, match="This is no file system of a board"):
        image.read(b"\xff" * 65536)


def entry(label, kind, offset, size):
    return (
        b"\xaaP" + bytes((kind, 0)) + offset.to_bytes(4, "little") + size.to_bytes(4, "little") + label.ljust(20, b"\0")
    )


def test_where_the_file_system_is():
    newer = entry(b"nvs", 1, 0x9000, 0x6000) + entry(b"factory", 0, 0x10000, 0x1F0000) + b"\xff" * 32
    older = newer[:-32] + entry(b"vfs", 1, 0x200000, 0x200000) + b"\xeb\xeb" + b"\xff" * 30
    find = partial(partitions.vfs)
    assert find(partitions.table(older), 16 << 20)[2:] == (0x200000, 0x200000), "the one in the table"
    assert find(partitions.table(newer), 8 << 20)[2:] == (0x200000, 0x600000), "else up to the flash's end"
    assert find(partitions.table(newer), 2 << 20) is None
    assert find(partitions.table(b"\xff" * 64), 4 << 20) is None
    with pytest.raises(FlashError, match="holds no partition table"):
        partitions.file_system(b"\xe9" + bytes(0x9000), 0x1000, 4 << 20)


def test_a_folder_that_stands_for_a_board(mailwire, here):
    done = mailwire("flash", "HOST", "--drive", "flash", "--name", "attic")
    assert done.code == 0
    assert sorted(path.name for path in (here / "flash").iterdir()) == ["a", "main.py", "settings.json"]
    assert mailwire("flash", "HOST", "--drive", "flash").code == 2
    assert mailwire("flash", "HOST", "--update").err == "--update is not for HOST.\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ESP32_GENERIC", "--update"), "--update leaves the board's settings as they are: leave out --name, --set."),
        (("MICROBIT",), "MICROBIT has no settings: leave out --name, --set."),
    ],
)
def test_settings_that_would_go_nowhere(mailwire, words, told):
    done = mailwire("flash", *words, "--dry-run", "--name", "attic", "--set", "smtp.port=26")
    assert (done.code, done.err) == (2, f"{told}\n")
