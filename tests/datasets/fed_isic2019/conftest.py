from __future__ import annotations

from pathlib import Path

import pytest

from polyclinic.datasets.fed_isic2019 import mock, prepare

SIDE = 36  # pixels of the shorter side, so that the crop is 32


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Made-up raw data, 5 images a center, 48 x 36 pixels; not to be changed."""
    return mock(tmp_path_factory.mktemp("isic") / "raw", patients_per_center=5, size=(48, 36))


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    return prepare(raw, tmp_path_factory.mktemp("isic") / "prepared", shorter_side=SIDE, show_progress=False)
