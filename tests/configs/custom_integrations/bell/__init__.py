"""A target with one key of each kind, for the configurations in this folder."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, IPvAnyNetwork, SecretStr

from gateway.api import ConfigModel, Event, Target


def _bell_url(url: str) -> str:
    if not url.startswith("bell://"):
        raise ValueError(f"'{url}' is not a bell's URL: it begins with bell://")
    return url


class Room(ConfigModel):
    name: str
    floor: int = 0


class Config(ConfigModel):
    url: Annotated[str, AfterValidator(_bell_url)] = "bell://localhost"
    volume: Annotated[int, Field(ge=0, le=10)] = 5
    at_night: bool = False
    tone: Literal["ding", "dong", "gong"] = "ding"
    password: SecretStr | None = None
    pin: Annotated[str, Field(min_length=4)] = "0000"
    rooms: tuple[Room, ...] = ()
    hours: int | tuple[int, ...] = 24
    allow: tuple[IPvAnyNetwork, ...] = ()


class Bell(Target):
    async def deliver(self, event: Event) -> None:
        pass
