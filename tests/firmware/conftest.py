from tests.mosquitto import mosquitto

__all__ = ["mosquitto"]  # a fixture
