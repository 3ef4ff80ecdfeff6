"""Breast cancer patients of The Cancer Genome Atlas (TCGA-BRCA) by the region of the hospital that treated them.

The second field of a TCGA barcode, the tissue source site, says where a patient comes from. In each region a fifth
of the patients, in the order of the table, is the test part: scikit-learn's train_test_split with seed 8.

Table: FLamby's ``brca.csv``, made of the clinical data of the GDC with the survival end points of Liu et al.,
Cell 2018, 173:400, as in Andreux et al. 2020, arXiv:2006.08997.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.table import TableDataset, Transform
from polyclinic.errors import DatasetError

CENTERS = ("Northeast", "South", "West", "Midwest", "Europe", "Canada")
NUM_CLIENTS = len(CENTERS)
# Tissue source sites in the table, region by region; those of no region are in the table but in no center.
SITES = (
    "BH E2 AO S3 LD 3C PE OK UL",
    "B6 EW A7 GM LL AQ 5T UU V7 W8",
    "A2 AC AN A1 Z7 4H",
    "AR E9 OL WT XX GI LQ MS",
    "A8 D8",
    "C8 HN",
)
SITES_OF_NO_REGION = "PL JL 5L"
FEATURES = (
    "age_at_index",
    "ethnicity_not hispanic or latino",
    "ethnicity_not reported",
    "race_asian",
    "race_black or african american",
    "race_not reported",
    "race_white",
    "ajcc_pathologic_m_MX",
    "ajcc_pathologic_n_N0 (i-)",
    "ajcc_pathologic_n_N1",
    "ajcc_pathologic_n_N1a",
    "ajcc_pathologic_n_N2",
    "ajcc_pathologic_n_N2a",
    "ajcc_pathologic_stage_Stage IA",
    "ajcc_pathologic_stage_Stage IIA",
    "ajcc_pathologic_stage_Stage IIB",
    "ajcc_pathologic_stage_Stage IIIA",
    "ajcc_pathologic_stage_Stage IIIC",
    "ajcc_pathologic_t_T1c",
    "ajcc_pathologic_t_T2",
    "ajcc_pathologic_t_T3",
    "ajcc_staging_system_edition_5th",
    "ajcc_staging_system_edition_6th",
    "ajcc_staging_system_edition_7th",
    "icd_10_code_C50.9",
    "morphology_8500/3",
    "morphology_8520/3",
    "primary_diagnosis_Infiltrating duct carcinoma, NOS",
    "primary_diagnosis_Lobular carcinoma, NOS",
    "prior_malignancy_yes",
    "synchronous_malignancy_Not Reported",
    "treatment_or_therapy_not reported",
    "treatment_or_therapy_yes",
    "tumor_stage_stage i",
    "tumor_stage_stage ia",
    "tumor_stage_stage iia",
    "tumor_stage_stage iib",
    "tumor_stage_stage iiia",
    "tumor_stage_stage iiic",
)
TABLE = "brca.csv"

_SEED = 8
_TEST_FRACTION = 0.2
HOW_TO_GET_IT = (
    "get the table with  polyclinic dataset download fed_tcga_brca --to DIR --accept-license , "
    "or try  polyclinic dataset mock fed_tcga_brca --to DIR , and give DIR as the data path"
)


def read_table(data_path: str | Path | None) -> pd.DataFrame:
    """The table with the columns pid, the 39 features, E (event 0 or 1) and T (days), in its own row order.

    Args:
        data_path: ``brca.csv``, or a folder that holds it.

    Raises:
        DatasetError: there is no such file, or its columns or values are not as they must be.
    """
    if data_path is None:
        raise DatasetError("Fed-TCGA-BRCA needs its table, which does not ship with us", to_do=HOW_TO_GET_IT)
    path = Path(data_path)
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise DatasetError(f"there is no file {path}", to_do=HOW_TO_GET_IT)
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path} cannot be read as a CSV table: {err}", to_do=HOW_TO_GET_IT) from err
    numbers = [*FEATURES, "E", "T"]
    if missing := [name for name in ("pid", *numbers) if name not in table.columns]:
        raise DatasetError(
            f"{path} lacks {len(missing)} columns, first of all: {', '.join(missing[:3])}",
            to_do="use the table that FLamby made of the GDC data; " + HOW_TO_GET_IT,
        )
    unfit = [name for name in numbers if not pd.api.types.is_numeric_dtype(table[name]) or table[name].isna().any()]
    if unfit:
        raise DatasetError(
            f"{path} has missing values or text in: {', '.join(unfit)}", to_do="every cell must be a number"
        )
    if not table["E"].isin([0, 1]).all():
        raise DatasetError(f"{path}: column E must be 1 (died) or 0 (alive when last seen)", to_do="mend column E")
    if repeated := int(table["pid"].duplicated().sum()):
        raise DatasetError(f"{path}: {repeated} rows repeat a pid", to_do="keep one row a patient")
    return table


def centers_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """(rows,) the center of each patient, -1 for sites of no region; DatasetError for sites we do not know."""
    number_of = {site: number for number, sites in enumerate(SITES) for site in sites.split()}
    number_of |= dict.fromkeys(SITES_OF_NO_REGION.split(), -1)
    sites = table["pid"].astype(str).str.extract(r"^TCGA-([0-9A-Z]{2})-", expand=False)
    numbers = sites.map(number_of)
    if unknown := sorted(sites[numbers.isna()].fillna("not a TCGA barcode").unique()):
        raise DatasetError(
            f"{int(numbers.isna().sum())} patients are of tissue source sites of no known region: {', '.join(unknown)}",
            to_do="pid must be a barcode like TCGA-BH-A0B3 with one of the sites that the table knows",
        )
    return np.asarray(numbers, dtype=np.int64)


def train_rows(centers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(rows,) True for the training part of each center; False for the test part, and for rows of no center."""
    # Here and not above: scikit-learn imports rich, which draws from Python's global random generator.
    from sklearn.model_selection import train_test_split

    marks = np.zeros(len(centers), dtype=bool)
    for number in range(NUM_CLIENTS):
        rows = np.flatnonzero(centers == number)
        if len(rows) < 2:
            marks[rows] = True  # a single patient can only be learned from
            continue
        chosen, _ = train_test_split(rows, test_size=_TEST_FRACTION, random_state=_SEED)
        marks[chosen] = True
    return marks


class TcgaBrcaRaw(TableDataset):
    """All patients of the table that are in a center (1088 of 1096), in the order of the table.

    ``centers`` (n,), ``sets`` (n,) of "train" and "test", and ``pids`` (n,) say where each row belongs.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        table = read_table(data_path)
        centers = centers_of(table)
        kept = centers >= 0
        self.centers = centers[kept]
        self.sets = np.where(train_rows(centers)[kept], "train", "test")
        self.pids = table["pid"].to_numpy(dtype=str)[kept]
        x = table[list(FEATURES)].to_numpy(dtype=np.float64)[kept]
        y = table[["E", "T"]].to_numpy(dtype=np.float64)[kept]
        super().__init__(x, y, transform=transform, dtype=dtype)


class FedTcgaBrca(TableDataset):
    """One center, or all with ``pooled``; items are ((39,) features, (2,) target = (event, days)) of ``dtype``.

    Args:
        center: number or name; not looked at when pooled.
        train: the training part, else the test part.
        pooled: all centers, in the order of the table.
        data_path: ``brca.csv`` or its folder.
        transform: applied to the features at each access, for example to scale the age, which is in raw years.
        flamby_compatible: changes nothing; here the default is what FLamby does.

    Raises:
        ConfigError: no such center.
        DatasetError: the data cannot be read, or hold no patient of this part.
    """

    def __init__(
        self,
        *,
        center: int | str = 0,
        train: bool = True,
        pooled: bool = False,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
    ) -> None:
        del flamby_compatible
        number = center_index(center, CENTERS)
        table = read_table(data_path)
        centers = centers_of(table)
        chosen = (centers >= 0) if pooled else (centers == number)
        rows = chosen & (train_rows(centers) == train)
        if not rows.any():
            raise DatasetError(
                f"the table has no {'training' if train else 'test'} patient of {CENTERS[number]}",
                to_do="check that this is the table with the patients of this center",
            )
        super().__init__(
            table[list(FEATURES)].to_numpy(dtype=np.float64)[rows],
            table[["E", "T"]].to_numpy(dtype=np.float64)[rows],
            transform=transform,
            dtype=dtype,
        )
