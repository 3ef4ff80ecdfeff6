"""Where the TCGA-BRCA table comes from, and a made-up table in the same format.

Nothing is computed ahead: the table is read in milliseconds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_tcga_brca.dataset import FEATURES, SITES, TABLE, centers_of, read_table
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import ConfigError

CARD = Card(
    name="fed_tcga_brca",
    title="Fed-TCGA-BRCA",
    task="survival of breast cancer patients from 39 features",
    license="GDC open access",
    license_url="https://gdc.cancer.gov/access-data/data-access-policies",
    citation=(
        "The Cancer Genome Atlas Network, Nature 2012, 490:61; J. Liu et al., Cell 2018, 173:400; "
        "table by J. O. du Terrail et al., FLamby, NeurIPS 2022"
    ),
    source_url="https://github.com/owkin/FLamby/tree/main/flamby/datasets/fed_tcga_brca",
    download_size="113 kB",
    needs_data=True,
    samples=((248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)),
    extra="survival",
)

FILE = RemoteFile(
    url="https://raw.githubusercontent.com/owkin/FLamby/main/flamby/datasets/fed_tcga_brca/brca.csv",
    name=TABLE,
    sha256="07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
    by_hand=f"By hand: open {CARD.source_url} , save {TABLE}, and give its folder as the data path.",
)


def download(to: str | Path, *, accept_license: bool = False, **options: Any) -> Path:
    """The table into a folder. See `fetch` for the options.

    Raises:
        ConfigError: the terms are not accepted.
        DownloadError: the file cannot be had.
    """
    require_license(CARD, accept_license)
    return fetch(FILE, Path(to), **options).parent


def prepare(source: str | Path, to: str | Path, *, flamby_compatible: bool = False, workers: int | None = None) -> Path:
    """Checks the table in ``source`` and copies it: there is nothing to compute ahead."""
    del flamby_compatible, workers
    centers_of(read_table(source))
    path = Path(source)
    path = path / TABLE if path.is_dir() else path
    Path(to).mkdir(parents=True, exist_ok=True)
    if path.resolve() != (Path(to) / TABLE).resolve():
        shutil.copyfile(path, Path(to) / TABLE)
    return Path(to)


def ensure_prepared(data_path: str | Path | None) -> Path:
    """The same path, after reading what is there; DatasetError says how to get the table when it is not."""
    centers_of(read_table(data_path))
    assert data_path is not None
    return Path(data_path)


def mock(to: str | Path, patients_per_center: int = 40, seed: int = 0) -> Path:
    """Writes a made-up ``brca.csv`` with the real columns and sites, in which age and stage shorten life.

    Args:
        patients_per_center: in each of the six regions; at least 5.
        seed: the same seed writes the same bytes.
    """
    if patients_per_center < 5:
        raise ConfigError(f"{patients_per_center} patients cannot be split", to_do="ask for at least 5 per center")
    rng = np.random.default_rng(seed)
    sites = [site for group in SITES for site in rng.choice(group.split(), size=patients_per_center)]
    table = pd.DataFrame(0, index=range(len(sites)), columns=list(FEATURES))
    table["age_at_index"] = rng.integers(30, 85, len(sites))
    for group in (
        ("race_asian", "race_black or african american", "race_white"),
        ("ajcc_pathologic_n_N1", "ajcc_pathologic_n_N1a", "ajcc_pathologic_n_N2"),
        ("ajcc_pathologic_t_T1c", "ajcc_pathologic_t_T2", "ajcc_pathologic_t_T3"),
        ("ajcc_staging_system_edition_6th", "ajcc_staging_system_edition_7th"),
    ):
        table = _one_of(table, rng, group)
    stage = rng.integers(0, 5, len(sites))
    # In the real table, too, the stage stands there twice, and so does the kind of tumour.
    for number, roman in enumerate(("IA", "IIA", "IIB", "IIIA", "IIIC")):
        for name in (f"ajcc_pathologic_stage_Stage {roman}", f"tumor_stage_stage {roman.lower()}"):
            table[name] = (stage == number).astype(int)
    ductal = rng.random(len(sites)) < 0.8
    for name in ("morphology_8500/3", "primary_diagnosis_Infiltrating duct carcinoma, NOS"):
        table[name] = ductal.astype(int)
    for name in ("morphology_8520/3", "primary_diagnosis_Lobular carcinoma, NOS"):
        table[name] = (~ductal).astype(int)
    table["treatment_or_therapy_yes"] = (rng.random(len(sites)) < 0.8).astype(int)
    table["icd_10_code_C50.9"] = 1
    risk = np.exp((table["age_at_index"].to_numpy() - 58) / 20 + stage / 2)
    died = rng.exponential(4000 / risk)
    seen = rng.exponential(3000, len(sites))
    table.insert(0, "pid", [f"TCGA-{site}-M{row:03d}" for row, site in enumerate(sites)])
    table["E"] = (died <= seen).astype(float)
    table["T"] = np.round(np.minimum(died, seen))
    Path(to).mkdir(parents=True, exist_ok=True)
    table.to_csv(Path(to) / TABLE, index=False, lineterminator="\n")
    return Path(to)


def _one_of(table: pd.DataFrame, rng: np.random.Generator, columns: tuple[str, ...]) -> pd.DataFrame:
    """Sets at most one of these columns to 1 in each row."""
    drawn = rng.integers(0, len(columns) + 1, len(table))
    return table.assign(**{name: (drawn == number).astype(int) for number, name in enumerate(columns)})
