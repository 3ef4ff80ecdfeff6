from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from polyclinic.datasets.fed_tcga_brca import CARD, CENTERS, FEATURES, FedTcgaBrca, TcgaBrcaRaw, mock
from polyclinic.datasets.fed_tcga_brca.dataset import SITES, SITES_OF_NO_REGION, centers_of
from polyclinic.errors import ConfigError, DatasetError

EVENTS = ((45, 14), (35, 4), (14, 8), (16, 3), (7, 2), (2, 1))


@pytest.fixture(scope="module")
def real(shared):
    return shared / "data" / "flamby_meta" / "fed_tcga_brca"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return mock(tmp_path_factory.mktemp("tcga"), patients_per_center=15)


def test_counts_and_events_are_the_published_ones(real):
    for center in range(6):
        for part, train in enumerate((True, False)):
            data = FedTcgaBrca(center=center, train=train, data_path=real)
            assert len(data) == CARD.samples[center][part]
            assert int(data.tensors[1][:, 0].sum()) == EVENTS[center][part]


def test_every_patient_is_where_flamby_has_it(real, shared):
    with (shared / "reference" / "flamby_splits" / "tcga_brca.csv").open() as opened:
        theirs = {row["pid"]: (int(row["center"]), row["split"]) for row in csv.DictReader(opened)}
    raw = TcgaBrcaRaw(data_path=real)
    ours = {pid: (center, split) for pid, center, split in zip(raw.pids, raw.centers, raw.sets, strict=True)}
    assert ours == theirs
    assert len(raw) == 1088


def test_the_regions_of_the_sites_are_those_of_the_gdc(real):
    regions = pd.read_csv(real / "centers.csv").set_index("TSS Code")["Region"]
    for region, sites in zip((*CENTERS, "Other"), (*SITES, SITES_OF_NO_REGION), strict=True):
        assert set(regions[sites.split()]) == {region}


def test_columns_are_those_of_the_table_in_its_order(real):
    table = pd.read_csv(real / "brca.csv")
    assert tuple(table.columns[1:40]) == FEATURES
    pooled = FedTcgaBrca(pooled=True, data_path=real / "brca.csv")
    x, y = pooled.tensors
    assert (len(x), x.shape[1], y.shape[1]) == (866, 39, 2)
    kept = (centers_of(table) >= 0).nonzero()[0]
    train = TcgaBrcaRaw(data_path=real).sets == "train"
    np.testing.assert_array_equal(x.numpy(), table.iloc[kept[train], 1:40].to_numpy(dtype=np.float32))
    np.testing.assert_array_equal(y.numpy(), table.iloc[kept[train], 40:42].to_numpy(dtype=np.float32))


def test_the_target_is_the_event_and_then_the_time(made):
    _, y = FedTcgaBrca(center="europe", data_path=made).tensors
    assert set(y[:, 0].tolist()) <= {0.0, 1.0}
    assert y[:, 1].max() > 1


def test_age_stays_in_years_and_a_transform_may_scale_it(made):
    raw = FedTcgaBrca(center=0, data_path=made)
    assert raw.tensors[0][:, 0].min() >= 26
    scaled = FedTcgaBrca(center=0, data_path=made, transform=lambda x: x / 100, dtype=torch.float64)
    assert scaled.tensors is None
    assert scaled[0][0].dtype == scaled[0][1].dtype == torch.float64
    torch.testing.assert_close(scaled[0][0].float(), raw[0][0] / 100)


def test_compatible_changes_nothing(made):
    one, two = (FedTcgaBrca(data_path=made, flamby_compatible=flag).tensors for flag in (False, True))
    torch.testing.assert_close(one, two)


def test_without_a_path_the_way_to_the_data_is_told():
    with pytest.raises(DatasetError, match="does not ship with us") as caught:
        FedTcgaBrca()
    assert "polyclinic dataset download fed_tcga_brca" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'europe'"):
        FedTcgaBrca(center="Europa")


def test_a_path_without_table_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no file .*brca\.csv"):
        FedTcgaBrca(data_path=tmp_path)


def spoil(made, to, change):
    table = pd.read_csv(made / "brca.csv")
    change(table).to_csv(to / "brca.csv", index=False)
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["E", "race_white"]), "lacks 2 columns, first of all: race_white, E"),
        (lambda t: t.assign(T=t["T"].where(t.index > 2)), "missing values or text in: T"),
        (lambda t: t.assign(age_at_index="old"), "missing values or text in: age_at_index"),
        (lambda t: t.assign(E=t["E"] + 1), r"column E must be 1 \(died\) or 0"),
        (lambda t: t.assign(pid=["TCGA-ZZ-0001", *t["pid"][1:]]), "1 patients are of tissue source sites .*: ZZ"),
        (lambda t: t.assign(pid=["somebody", *t["pid"][1:]]), "not a TCGA barcode"),
        (lambda t: t.assign(pid=[t["pid"][1], *t["pid"][1:]]), "1 rows repeat a pid"),
        (lambda t: t[t["pid"].str.contains("-D8-|-A8-")], "no training patient of Northeast"),
    ],
)
def test_a_table_that_does_not_fit_says_what_is_wrong(made, tmp_path, change, message):
    with pytest.raises(DatasetError, match=message):
        FedTcgaBrca(center=0, data_path=spoil(made, tmp_path, change))


def test_a_file_that_is_no_table_is_said(tmp_path):
    (tmp_path / "brca.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be read as a CSV table"):
        FedTcgaBrca(data_path=tmp_path)


def test_a_region_alone_has_the_folds_that_it_has_in_the_whole_table(made, tmp_path):
    table = pd.read_csv(made / "brca.csv")
    table[centers_of(table) == 2].to_csv(tmp_path / "brca.csv", index=False)
    for train in (True, False):
        alone = FedTcgaBrca(center=2, train=train, data_path=tmp_path)
        torch.testing.assert_close(alone.tensors, FedTcgaBrca(center=2, train=train, data_path=made).tensors)
