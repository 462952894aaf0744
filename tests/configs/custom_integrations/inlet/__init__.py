"""A source that needs a key."""

from gateway.api import ConfigModel, Source


class Config(ConfigModel):
    port: int


class Inlet(Source):
    pass
