from __future__ import annotations

import pytest

from polyclinic.datasets.fed_heart_disease import (
    CARD,
    FedHeartDisease,
    HeartDiseaseRaw,
    download,
    ensure_prepared,
    mock,
    prepare,
)
from polyclinic.datasets.fed_heart_disease import prepare as prepare_function
from polyclinic.datasets.fed_heart_disease.dataset import read_table
from polyclinic.errors import ConfigError, DatasetError


def test_made_up_tables_go_the_whole_way(tmp_path):
    made = mock(tmp_path / "raw", patients_per_center=12, seed=3)
    ready = prepare(made, tmp_path / "ready")
    assert ensure_prepared(ready) == ready
    for center in range(4):
        train, test = (FedHeartDisease(center=center, train=part, data_path=ready) for part in (True, False))
        assert (len(train), len(test)) == (7, 5)
        for part in (train, test):
            assert set(part.tensors[1].flatten().tolist()) == {0.0, 1.0}
    assert len(HeartDiseaseRaw(data_path=ready)) == 48
    assert read_table(0, made)["ca"].isna().all()


def test_the_same_seed_makes_the_same_bytes(tmp_path):
    one, same, other = (mock(tmp_path / str(k), 5, seed) for k, seed in enumerate((1, 1, 2)))
    files = sorted(path.name for path in one.iterdir())
    assert [(one / name).read_bytes() for name in files] == [(same / name).read_bytes() for name in files]
    assert [(one / name).read_bytes() for name in files] != [(other / name).read_bytes() for name in files]


def test_too_few_made_up_patients_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="3 patients cannot be split"):
        mock(tmp_path, patients_per_center=3)


def test_without_a_path_there_is_nothing_to_prepare():
    assert ensure_prepared(None) is None


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no processed\.\*\.data file") as caught:
        prepare_function(tmp_path, tmp_path / "to")
    assert "ship in the package" in str(caught.value)


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC BY 4\.0"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert CARD.needs_data is False
