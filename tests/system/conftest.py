"""One hub with its hospitals for all the tests that are hard on them; each test finds it whole."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

SOAK = "POLYCLINIC_SOAK" in os.environ


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from tests.system.hospitals import Hospitals

    with Hospitals(tmp_path_factory.mktemp("hospitals")) as found:
        yield found


@pytest.fixture
def hospitals(running):
    running.restore()
    yield running
    running.wait(False)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The same experiment in this process."""
    from tests.system.hospitals import in_this_process

    return in_this_process(tmp_path_factory.mktemp("expected"))
