"""`boards`: every board.json is what MicroPython and we say it is, a new one is a folder, and mistakes are all told."""

import json
import re

import pytest

from gateway.flash import boards, partitions

EVERY = (
    "ESP32_GENERIC", "ESP32_GENERIC_C3", "ESP32_GENERIC_S3", "HOST", "MICROBIT", "OLIMEX_ESP32_POE", "RASPBERRY_PI",
    "RPI_PICO", "RPI_PICO2_W", "RPI_PICO_W", "WT32_ETH01",
)  # fmt: skip
MINE = {
    "product": "My board",
    "vendor": "Me",
    "mcu": "esp32c6",
    "mailwire": {"flash": "esptool", "firmware": {"file": "ESP32_GENERIC_C6-{date}-v{version}.bin"}},
}


@pytest.fixture
def own(here):
    def add(name, document):
        (here / "mailwire.yaml").touch()
        folder = here / "boards" / name
        folder.mkdir(parents=True)
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / "board.json").write_text(text)
        return folder

    return add


def changed(**ours):
    return MINE | {"mailwire": MINE["mailwire"] | ours}


def test_lists_every_board(mailwire):
    done = mailwire("boards")
    assert done.code == 0
    assert tuple(line.split()[0] for line in done.lines[1:]) == EVERY
    assert re.search(r"^RPI_PICO +Pico +rp2040 +serial only +uf2$", done.out, re.MULTILINE)
    assert tuple(one["name"] for one in mailwire("boards", "--json").documents) == EVERY


def test_shows_one_however_it_is_written(mailwire):
    done = mailwire("boards", "wt32-eth01")
    assert done.code == 0
    assert "PHY_LAN8720, phy_addr 1, mdc 23, mdio 18, power 16" in done.out
    (document,) = mailwire("boards", "WT32_ETH01", "--json").documents
    assert document["mailwire"]["ethernet"]["phy_addr"] == 1
    assert document["deploy_options"]["flash_offset"] == 0x1000
    assert "mailwire service install" in mailwire("boards", "RASPBERRY_PI").out


def test_an_unknown_board_has_a_nearest_one(mailwire):
    done = mailwire("boards", "ESP32_GENERC")
    assert done.code == 2
    assert done.err == "There is no board 'ESP32_GENERC'. Did you mean 'ESP32_GENERIC'?\n"


def test_a_new_board_is_one_folder(mailwire, own):
    folder = own("MY_BOARD", MINE)
    assert "MY_BOARD" in mailwire("boards").out
    (document,) = mailwire("boards", "my_board", "--json").documents
    assert document["folder"] == str(folder)
    done = mailwire("flash", "MY_BOARD", "--dry-run")
    assert done.code == 0
    assert "/ESP32_GENERIC_C6-20250415-v1.25.0.bin" in done.out
    assert "esptool --chip esp32c6" in done.out


def test_a_board_of_ones_own_goes_before_ours(mailwire, own):
    own("RPI_PICO", MINE)
    assert mailwire("boards", "RPI_PICO", "--json").documents[0]["product"] == "My board"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", ":1: this is not JSON in UTF-8: "),
        ("[]", ": a board is a set of keys: begin with {."),
        ({"product": "x", "vendor": "y", "mcu": "z"}, ": the key 'mailwire' is missing."),
        (MINE | {"vendr": "Me"}, ": vendr: there is no such key here. Did you mean 'vendor'?"),
        (changed(flash="esptol"), ": mailwire.flash: must be "),
        (changed(firmware=None), "'esptool' needs 'firmware': the name of MicroPython's file for this board."),
        (changed(flash="uf2"), "'uf2' needs 'flash_size', 'file_system' and 'drive'."),
        (changed(flash_size="4MB"), ": mailwire.flash_size: must be a number such as 4096 or '0x1000', not '4MB'."),
        (
            changed(network=["ethernet"]),
            "'ethernet' belongs in 'network' if the pins of the PHY are given, and only then.",
        ),
        (changed(usb=["10c4"]), ": mailwire.usb[0]: must have the form "),
        (
            changed(ethernet={"phy_type": "LAN8720"}, network=["ethernet"]),
            ": mailwire.ethernet: the key 'mdc' is missing.",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_mistakes_are_told(mailwire, own, document, told):
    path = own("BAD", document) / "board.json"
    for done in (mailwire("boards", "BAD"), mailwire("boards")):
        assert done.code == 2
        assert str(path) in done.err
        assert told in done.err
    assert "ESP32_GENERIC" in done.out, "the others are listed all the same"


def test_all_mistakes_at_once(mailwire, own):
    own("BAD", changed(flash="esptol", heap=-1) | {"mcu": ""})
    assert len(mailwire("boards", "BAD").err.splitlines()) == 3


def test_a_folder_has_a_name_in_capitals(mailwire, own):
    own("my-board", MINE)
    assert "a board's folder is named in capitals" in mailwire("boards").err


def test_the_schema_takes_what_is_there(mailwire):
    schema = json.loads(mailwire("boards", "--schema").out)
    assert {"product", "vendor", "mcu", "mailwire"} == set(schema["required"])
    assert "phy_type" in schema["$defs"]["Ethernet"]["properties"]


def test_what_is_said_of_our_boards_fits_together():
    for folder in boards.names(boards.folders(None)).values():
        board = boards.read(folder)
        ours = board.mailwire
        if ours.flash == "esptool":
            assert board.mcu in partitions.CHIPS.values(), board.name
        if ours.file_system:
            assert ours.file_system % 4096 == 0, board.name
            assert ours.file_system < ours.flash_size, board.name
        if ours.flash in ("esptool", "uf2"):
            assert ours.start, board.name
            assert "{version}" in ours.firmware.file, board.name
