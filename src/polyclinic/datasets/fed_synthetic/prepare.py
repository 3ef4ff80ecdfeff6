"""Writes generated data into a folder, and copies such a folder. There is nothing to download or to compute ahead."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.datasets.fed_synthetic.dataset import ARGUMENTS, center_files, read_center
from polyclinic.datasets.fed_synthetic.generator import NUM_CLIENTS, SMALLEST_CENTER, Options, synthetic_data
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import ConfigError, DatasetError, reject_unknown

CARD = Card(
    name="fed_synthetic",
    title="Fed-Synthetic",
    task="made-up classes or regression, unequal as you like",
    license="CC0 1.0",
    license_url="https://creativecommons.org/publicdomain/zero/1.0/",
    citation="generated; recipe of J. O. du Terrail et al., FLamby, NeurIPS 2022, arXiv:2210.04620",
    source_url="https://github.com/owkin/FLamby/tree/main/flamby/datasets/fed_synthetic",
    download_size="none: it is generated",
    needs_data=False,
    samples=((165, 85),) * NUM_CLIENTS,
)


def generate(to: str | Path, **options: Any) -> Path:
    """Generates data and writes them: ``0.data``, ``1.data``, … and beside them all arguments as JSON.

    A line of a file is a sample: its features, then its target, comma-separated, without a header.

    Args:
        to: the folder; made if absent, and may hold no data of another call.
        options: those of `Options`: n_centers, n_samples, n_features, seed, snr, classification, sample_repartition,
            noise_heterogeneity, features_heterogeneity, label_heterogeneity, n_clusters, flamby_compatible.

    Raises:
        ConfigError: an unknown option, or values that nothing can be generated with.
        DatasetError: the folder holds data already.
    """
    reject_unknown(options, (field.name for field in dataclasses.fields(Options)), kind="option of the generator")
    chosen = Options(**options)
    centers = synthetic_data(chosen)
    folder = Path(to)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.data")):
        raise DatasetError(f"{folder} holds data already", to_do="choose a new folder")
    for number, (x, y) in enumerate(centers):
        # 17 digits bring every float64 back as it was.
        np.savetxt(folder / f"{number}.data", np.hstack([x, y]), fmt="%.17g", delimiter=",", newline="\n")
    text = json.dumps(dataclasses.asdict(chosen), indent=2, sort_keys=True)
    (folder / ARGUMENTS).write_text(text + "\n", encoding="utf-8", newline="\n")
    return folder


def mock(to: str | Path, patients_per_center: int = 250, seed: int = 42) -> Path:
    """`generate` with its defaults: four equal centers.

    Args:
        patients_per_center: samples in each of the four files; at least 2.
        seed: the same seed writes the same bytes; 42 is the set that is there without any path.
    """
    if patients_per_center < SMALLEST_CENTER:
        raise ConfigError(
            f"{patients_per_center} samples cannot be split", to_do=f"ask for at least {SMALLEST_CENTER} per center"
        )
    return generate(to, n_samples=patients_per_center * NUM_CLIENTS, seed=seed)


def download(to: str | Path, *, accept_license: bool = False) -> Path:
    """Nothing is downloaded: the default set is generated."""
    del accept_license
    return generate(to)


def prepare(source: str | Path, to: str | Path, *, flamby_compatible: bool = False, workers: int | None = None) -> Path:
    """Checks a generated folder and copies it: there is nothing to compute ahead.

    Raises:
        DatasetError: there is no file, or one cannot be read.
    """
    del flamby_compatible, workers
    found = ensure_prepared(source)
    assert found is not None
    Path(to).mkdir(parents=True, exist_ok=True)
    for path in [*center_files(found).values(), found / ARGUMENTS]:
        if path.is_file() and path.parent.resolve() != Path(to).resolve():
            shutil.copyfile(path, Path(to) / path.name)
    return Path(to)


def ensure_prepared(data_path: str | Path | None) -> Path | None:
    """The same path, after reading what is there; None stays None: the default set.

    Raises:
        DatasetError: there is no file, or one cannot be read.
    """
    if data_path is None:
        return None
    for path in center_files(data_path).values():
        read_center(path)
    return Path(data_path)
