"""Where the heart data come from, and made-up data in the same format.

Nothing is computed ahead: the tables are read in milliseconds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_heart_disease.dataset import (
    NUM_CLIENTS,
    SOURCES,
    features_and_target,
    read_table,
    source_file,
)
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import ConfigError, DatasetError

CARD = Card(
    name="fed_heart_disease",
    title="Fed-Heart-Disease",
    task="presence of heart disease from 13 features (binary)",
    license="CC BY 4.0",
    license_url="https://creativecommons.org/licenses/by/4.0/",
    citation=(
        "A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano. Heart Disease. "
        "UCI Machine Learning Repository, 1989. doi:10.24432/C52P4X"
    ),
    source_url="https://archive.ics.uci.edu/dataset/45/heart+disease",
    download_size="none: it ships with us",
    needs_data=False,
    samples=((199, 104), (172, 89), (30, 16), (85, 45)),
)

_ADDRESS = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_SHA256 = {
    "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}


def download(to: str | Path, *, accept_license: bool = False, **options: Any) -> Path:
    """UCI's four tables into a folder; only needed to check the copy in the package. See `fetch` for the options.

    Raises:
        ConfigError: the licence is not accepted.
        DownloadError: a file cannot be had.
    """
    require_license(CARD, accept_license)
    for center in range(NUM_CLIENTS):
        name = source_file(center)
        file = RemoteFile(
            url=_ADDRESS + name,
            name=name,
            sha256=_SHA256[SOURCES[center]],
            by_hand=f"By hand: take {name} from {CARD.source_url}; or do without, the data ship in the package.",
        )
        fetch(file, Path(to), **options)
    return Path(to)


def prepare(source: str | Path, to: str | Path, *, flamby_compatible: bool = False, workers: int | None = None) -> Path:
    """Checks UCI's files in ``source`` and copies them: there is nothing to compute ahead.

    Raises:
        DatasetError: no file of a center is there, or one cannot be read.
    """
    del flamby_compatible, workers
    found = ensure_prepared(source)
    assert found is not None
    Path(to).mkdir(parents=True, exist_ok=True)
    for path in _center_files(found):
        if path.parent.resolve() != Path(to).resolve():
            shutil.copyfile(path, Path(to) / path.name)
    return Path(to)


def ensure_prepared(data_path: str | Path | None) -> Path | None:
    """The same path, after reading what is there; None stays None: the data of the package.

    Raises:
        DatasetError: no file of a center is there, or one cannot be read.
    """
    if data_path is None:
        return None
    present = _center_files(Path(data_path))
    if not present:
        raise DatasetError(
            f"there is no processed.*.data file in {data_path}",
            to_do="give the folder with UCI's files, or no path: the data ship in the package",
        )
    for center in range(NUM_CLIENTS):
        if source_file(center) in {path.name for path in present}:
            features_and_target(read_table(center, data_path))
    return Path(data_path)


def _center_files(folder: Path) -> list[Path]:
    names = [source_file(center) for center in range(NUM_CLIENTS)]
    return [folder / name for name in names if (folder / name).is_file()]


def mock(to: str | Path, patients_per_center: int = 60, seed: int = 0) -> Path:
    """Writes made-up tables in UCI's format, in which the sick are somewhat older and have a lower pulse.

    Args:
        patients_per_center: rows without missing values in each of the four files; at least 4.
        seed: the same seed writes the same bytes.
    """
    if patients_per_center < 4:
        raise ConfigError(f"{patients_per_center} patients cannot be split", to_do="ask for at least 4 per center")
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for center in range(NUM_CLIENTS):
        # Both classes from two patients on, in turn, so that every part has both.
        lines = [_mock_row(rng, sick=row % 2 == 1) for row in range(patients_per_center)]
        (folder / source_file(center)).write_text("\n".join(lines) + "\n", encoding="ascii")
    return folder


def _mock_row(rng: np.random.Generator, *, sick: bool) -> str:
    age = int(rng.normal(57 if sick else 50, 8))
    values = [
        age,
        int(rng.random() < (0.8 if sick else 0.6)),
        int(rng.choice([1, 2, 3, 4], p=[0.05, 0.1, 0.15, 0.7] if sick else [0.1, 0.4, 0.3, 0.2])),
        int(rng.normal(134, 18)),
        int(rng.normal(250, 55)),
        int(rng.random() < 0.15),
        int(rng.integers(0, 3)),
        int(rng.normal(130 if sick else 150, 20)),
        int(rng.random() < (0.6 if sick else 0.15)),
        round(abs(rng.normal(1.4 if sick else 0.5, 0.8)), 1),
    ]
    severity = int(rng.integers(1, 5)) if sick else 0
    return ",".join(map(str, values)) + f",?,?,?,{severity}"
