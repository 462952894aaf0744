"""What the tests of the relay share."""

import pytest

from tests.certificates import Authority
from tests.integrations.smtp_relay.harness import Gateway


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
