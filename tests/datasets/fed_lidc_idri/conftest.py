from __future__ import annotations

from pathlib import Path

import pytest

from polyclinic.datasets.fed_lidc_idri import mock, prepare


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Made-up raw data, 2 scans a center; not to be changed."""
    return mock(tmp_path_factory.mktemp("lidc") / "raw", patients_per_center=2)


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    return prepare(raw, tmp_path_factory.mktemp("lidc") / "prepared", show_progress=False)


@pytest.fixture(scope="session")
def prepared_as_flamby(raw, tmp_path_factory) -> Path:
    to = tmp_path_factory.mktemp("lidc") / "as-flamby"
    return prepare(raw, to, flamby_compatible=True, show_progress=False)


@pytest.fixture
def scan(raw, tmp_path) -> Path:
    """The folder of one made-up scan, with its annotations beside it; may be changed."""
    import shutil

    folder = sorted((raw / "LIDC-IDRI" / "MOCK-9001").iterdir())[0]
    shutil.copytree(folder, tmp_path / "one" / "scan")
    shutil.copy(raw / "LIDC-XML-only" / "tcia-lidc-xml" / "0" / "9001.xml", tmp_path / "one" / "readers.xml")
    return tmp_path / "one" / "scan"
