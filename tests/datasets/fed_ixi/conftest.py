from __future__ import annotations

from pathlib import Path

import pytest

from polyclinic.datasets.fed_ixi import mock, prepare


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Made-up raw data, 5 subjects a center; not to be changed."""
    return mock(tmp_path_factory.mktemp("ixi") / "raw", patients_per_center=5)


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    return prepare(raw, tmp_path_factory.mktemp("ixi") / "prepared", show_progress=False)
