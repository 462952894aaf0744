"""A target that can't be imported."""

from gateway.api import ConfigModel, Target


class Config(ConfigModel):
    loudness: int = DEFAULT_LOUDNESS  # noqa: F821  # that is the fault


class Cracked(Target):
    pass
