"""Boards: a folder each, with a `board.json` in MicroPython's own keys, and what Mailwire needs under `mailwire`.

A folder in a person's own `boards` (beside the configuration) is a board too, and goes before ours of the same name.
Every mistake in a board.json is told at once, with its path and the nearest right word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from gateway.flash import FlashError, shipped
from gateway.problem import Wrong, dotted, explain, nearest

FILE = "board.json"
_ID = re.compile("[A-Z][A-Z0-9_]{0,63}")

Method = Literal["esptool", "uf2", "lines", "folder", "steps"]
"""How a board gets its firmware: by esptool; by copying a UF2 file, then mpremote; a program of its own that prints
lines; into a folder (tests, and a PC); by hand, in steps that are printed."""


def _number(value: object) -> object:
    """A whole number, also as MicroPython writes offsets: "0x1000"."""
    if isinstance(value, str):
        try:
            return int(value, 0)
        except ValueError:
            raise Wrong(f"must be a number such as 4096 or '0x1000', not '{value[:40]}'") from None
    return value


Number = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Pin = int | str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeployOptions(_Model):
    """MicroPython's own: where its image belongs in flash."""

    flash_offset: Number = 0


class Ethernet(_Model):
    """Arguments of `network.LAN` (docs.micropython.org, class LAN): pins as numbers of GPIO."""

    phy_type: str = Field(pattern="^PHY_[A-Z0-9]+$", examples=["PHY_LAN8720"])
    phy_addr: int = Field(0, ge=0, le=31)
    mdc: int
    mdio: int
    power: int | None = None
    ref_clk: int | None = None
    ref_clk_mode: Literal["in", "out"] = "in"


class Uart(_Model):
    """A UART that is free for a machine, beside the one with the console."""

    id: int
    tx: int
    rx: int


class Firmware(_Model):
    """MicroPython for this board, as micropython.org names it: `{board}-{date}-v{version}` and the suffix."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.{}-]+\.(bin|uf2|hex)$", examples=["ESP32_GENERIC-{date}-v{version}.bin"])
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}
    """Version -> checksum of its file. What is not here is kept at the first download and compared from then on."""


class Mailwire(_Model):
    """What Mailwire needs to know of a board."""

    flash: Method
    network: list[Literal["wifi", "ethernet"]] = []
    firmware: Firmware | None = None
    flash_size: Number | None = None
    """Bytes, where they can't be asked for (RP2), or as a rule (ESP32)."""
    file_system: Number | None = None
    """Bytes at the end of the flash that MicroPython makes its file system of; ESP32: see its partition table."""
    heap: Number | None = None
    """Bytes that are free after boot."""
    led: Pin | None = None
    led_active_low: bool = False
    ethernet: Ethernet | None = None
    uart: Uart | None = None
    usb: list[Annotated[str, Field(pattern="^[0-9A-F]{4}:[0-9A-F]{4}$")]] = []
    """VID:PID of what its port is likely to show up as."""
    drive: str | None = None
    """Label of the drive that it becomes in its boot loader."""
    start: str = ""
    """How a person brings it into its boot loader."""
    settings: dict[str, Any] = {}
    """Settings that suit it, beneath what a person asks for."""
    steps: list[str] = []
    """What to do, where no program can."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.flash in ("esptool", "uf2") and self.firmware is None:
            raise Wrong(f"'{self.flash}' needs 'firmware': the name of MicroPython's file for this board")
        if self.flash == "uf2" and not (self.flash_size and self.file_system and self.drive):
            raise Wrong("'uf2' needs 'flash_size', 'file_system' and 'drive'")
        if self.flash == "steps" and not self.steps:
            raise Wrong("'steps' needs the list 'steps'")
        if ("ethernet" in self.network) != (self.ethernet is not None):
            raise Wrong("'ethernet' belongs in 'network' if the pins of the PHY are given, and only then")
        return self


class Board(BaseModel):
    """One board.json. MicroPython's keys that mean nothing to us may stand in it; see its ports/*/boards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: str = Field(min_length=1)
    vendor: str = Field(min_length=1)
    mcu: str = Field(min_length=1)
    url: str = ""
    docs: str = ""
    id: str | None = None
    deploy: list[str] = []
    deploy_options: DeployOptions = DeployOptions()
    features: list[str] = []
    features_non_filterable: list[str] = []
    images: list[str] = []
    thumbnail: str = ""
    variants: dict[str, str] = {}
    old_variants: dict[str, list[str]] = {}
    mailwire: Mailwire

    _folder: Path = PrivateAttr(Path())

    def model_post_init(self, context: Any) -> None:
        self._folder = context

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def folder(self) -> Path:
        return self._folder

    def settings(self) -> dict[str, Any]:
        """The section `board` of this board's settings.json: what the firmware can't find out by itself."""
        ours = self.mailwire
        section: dict[str, Any] = {"id": self.name}
        if ours.led is not None:
            section["led"] = ours.led
        if ours.led_active_low:
            section["led_active_low"] = True
        if ours.ethernet:
            section["ethernet"] = ours.ethernet.model_dump(exclude_none=True)
        if ours.uart:
            section["uart"] = ours.uart.model_dump()
        return section


def folders(own: Path | None) -> list[Path]:
    """Where boards are looked for, the first first. `own`: the folder beside a person's configuration."""
    return [*([own] if own else []), shipped("boards")]


def names(places: Iterable[Path]) -> dict[str, Path]:
    """Board -> its folder, in the order of the names."""
    found: dict[str, Path] = {}
    for place in places:
        for path in place.glob(f"*/{FILE}"):
            found.setdefault(path.parent.name, path.parent)
    return dict(sorted(found.items()))


def find(name: str, places: Iterable[Path]) -> Board:
    """The board of this name, however its letters are written. Raises FlashError."""
    known = names(places)
    folder = known.get(name.upper().replace("-", "_"))
    if folder is None:
        hint = nearest(name, known, "The boards are")
        raise FlashError(f"There is no board '{name}'. {hint}{'' if hint.endswith('?') else '.'}")
    return read(folder)


def read(folder: Path) -> Board:
    """One board; raises FlashError with a line for each mistake in it."""
    path = folder / FILE
    if not _ID.fullmatch(folder.name):
        raise FlashError(f"{folder}: a board's folder is named in capitals, digits and _, such as MY_BOARD.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlashError(f"{path}: can't be read: {error.strerror}.") from None
    except ValueError as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise FlashError(f"{path}{where}: this is not JSON in UTF-8: {error}.") from None
    if not isinstance(data, dict):
        raise FlashError(f"{path}: a board is a set of keys: begin with {{.")
    try:
        return Board.model_validate(data, context=folder)
    except ValidationError as error:
        raise FlashError("\n".join(_lines(path, error, data))) from None


def _lines(path: Path, error: ValidationError, data: dict[str, Any]) -> Iterator[str]:
    for finding in explain(error, Board, data):
        where = dotted(finding.at)
        told = ". ".join(text for text in (finding.message, finding.hint) if text)
        yield f"{path}: {where + ': ' if where else ''}{told}{'' if told.endswith('?') else '.'}"


def json_schema() -> dict[str, Any]:
    """For editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Board.model_json_schema()}
