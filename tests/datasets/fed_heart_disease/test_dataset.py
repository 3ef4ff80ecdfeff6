from __future__ import annotations

import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split

from polyclinic.datasets.fed_heart_disease import (
    CARD,
    CENTERS,
    FEATURES,
    BaselineLoss,
    FedHeartDisease,
    HeartDiseaseRaw,
)
from polyclinic.datasets.fed_heart_disease.dataset import (
    COLUMNS,
    features_and_target,
    read_table,
    source_file,
    standardise,
    train_rows,
)
from polyclinic.errors import ConfigError, DatasetError

ROWS = (303, 294, 123, 200)
POSITIVES = ((91, 48), (65, 33), (30, 15), (66, 35))


@pytest.mark.parametrize("center", range(4))
@pytest.mark.parametrize("train", [True, False])
def test_counts_are_the_published_ones(center, train):
    part = FedHeartDisease(center=center, train=train)
    _, y = part.tensors
    assert len(part) == CARD.samples[center][0 if train else 1]
    assert int(y.sum()) == POSITIVES[center][0 if train else 1]
    assert set(y.unique().tolist()) <= {0.0, 1.0}


def test_the_package_has_all_rows_of_each_center_and_the_raw_view_the_complete_ones():
    assert tuple(len(read_table(center)) for center in range(4)) == ROWS
    raw = HeartDiseaseRaw()
    assert len(raw) == 740
    assert [int((raw.centers == center).sum()) for center in range(4)] == [303, 261, 46, 130]
    assert int((raw.sets == "train").sum()) == 486


def test_the_split_that_the_package_has_written_down_is_scikit_learns():
    raw = HeartDiseaseRaw()
    drawn = [train_rows(features_and_target(read_table(center))[1]) for center in range(4)]
    np.testing.assert_array_equal(raw.sets == "train", np.concatenate(drawn))


def test_every_cell_of_the_package_is_ucis(shared):
    for center in range(4):
        path = shared / "data" / "heart_disease" / source_file(center)
        # Read by hand, not by our reader: 14 fields a line, "?" for missing.
        lines = [line.split(",") for line in path.read_text("ascii").split()]
        theirs = np.array([[np.nan if cell == "?" else float(cell) for cell in line] for line in lines])
        np.testing.assert_array_equal(read_table(center).to_numpy(), theirs)


@pytest.mark.parametrize("pooled", [False, True])
def test_the_package_and_ucis_files_give_the_same_samples(shared, pooled):
    path = shared / "data" / "heart_disease"
    for center in range(4):
        for train in (True, False):
            ours = FedHeartDisease(center=center, train=train, pooled=pooled)
            theirs = FedHeartDisease(center=center, train=train, pooled=pooled, data_path=path)
            torch.testing.assert_close(ours.tensors, theirs.tensors, rtol=0, atol=0)


def as_described(path, center):
    """Features, targets and training rows of a center, by pandas and scikit-learn as the reference describes it."""
    frames = []
    for number in range(4):
        table = pd.read_csv(path / source_file(number), header=None).replace("?", np.nan)
        table = table.drop(columns=[10, 11, 12]).dropna(axis=0).apply(pd.to_numeric)
        frames.append(table.assign(center=number))
    everything = pd.concat(frames, ignore_index=True)
    x = pd.get_dummies(everything[list(range(10))], columns=[2, 6], drop_first=True, dtype=float).to_numpy(dtype=float)
    y = (everything[13] != 0).to_numpy(dtype=float)
    mine = (everything["center"] == center).to_numpy()
    x, y = x[mine], y[mine]
    _, counts = np.unique(y, return_counts=True)
    stratify = y if len(counts) > 1 and (counts > 2).all() else None
    train, test = train_test_split(
        np.arange(len(y)), test_size=1 - 0.66, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
    )
    return x, y, sorted(train), sorted(test)


@pytest.mark.parametrize("center", range(4))
def test_samples_are_those_of_the_described_procedure(shared, center):
    x, y, train, test = as_described(shared / "data" / "heart_disease", center)
    reference = torch.tensor(x[train])
    scaled = (torch.tensor(x) - reference.mean(0)) / (reference.std(0) + 1e-9)
    # A column without spread in training is where we differ on purpose, see README.md.
    usable = reference.std(0) > 0
    for rows, is_train in ((train, True), (test, False)):
        ours_x, ours_y = FedHeartDisease(center=center, train=is_train, dtype=torch.float64).tensors
        torch.testing.assert_close(ours_x[:, usable], scaled[rows][:, usable], rtol=0, atol=1e-7)
        assert ours_x[:, ~usable].abs().sum() == 0
        assert ours_y[:, 0].tolist() == y[rows].tolist()


@pytest.mark.parametrize("center", range(4))
def test_each_center_is_standardised_on_its_own_training_rows(center):
    x, _ = FedHeartDisease(center=center, dtype=torch.float64).tensors
    constant = x.abs().sum(0) == 0
    assert x.mean(0).abs().max() < 1e-12
    assert (x.std(0)[~constant] - 1).abs().max() < 1e-12
    assert [FEATURES[k] for k in torch.nonzero(constant).flatten()] == (["chol"] if center == 2 else [])


@pytest.mark.parametrize("train", [True, False])
def test_pooled_data_are_the_centers_data_one_after_the_other(train):
    pooled = FedHeartDisease(train=train, pooled=True)
    centers = [FedHeartDisease(center=center, train=train).tensors for center in range(4)]
    for part in (0, 1):
        torch.testing.assert_close(pooled.tensors[part], torch.cat([c[part] for c in centers]), rtol=0, atol=0)


def test_as_flamby_pooled_data_have_pooled_statistics_and_centers_their_own():
    x, _ = FedHeartDisease(pooled=True, flamby_compatible=True, dtype=torch.float64).tensors
    assert x.mean(0).abs().max() < 1e-12
    assert (x.std(0) - 1).abs().max() < 1e-12
    own, compatible = (FedHeartDisease(center=1, flamby_compatible=flag).tensors for flag in (False, True))
    torch.testing.assert_close(own, compatible)


def test_a_feature_without_spread_becomes_zero_also_where_it_varies_in_test():
    reference = np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 2.0]])
    scaled = standardise(np.array([[0.1, 2.0], [5.0, 3.0]]), reference)
    assert scaled.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_both_features_and_targets_have_the_asked_dtype():
    x, y = FedHeartDisease(center=0, dtype=torch.float64)[0]
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.float64, torch.float64, (13,), (1,))
    x, y = FedHeartDisease(center=0)[0]
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)


def test_a_center_goes_by_number_or_name():
    torch.testing.assert_close(FedHeartDisease(center="hungary").tensors, FedHeartDisease(center=1).tensors)
    assert CENTERS[1] == "Hungary"
    with pytest.raises(ConfigError, match="center 4 is out of range"):
        FedHeartDisease(center=4)


def test_the_global_random_states_are_left_alone():
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    FedHeartDisease(pooled=True)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_hospital_needs_its_own_file_alone(tmp_path, shared):
    shutil.copy(shared / "data" / "heart_disease" / source_file(3), tmp_path)
    assert len(FedHeartDisease(center=3, data_path=tmp_path)) == 85
    with pytest.raises(DatasetError, match=r"no processed\.cleveland\.data"):
        FedHeartDisease(center=0, data_path=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as a table"),
        ("1,2,3\n", "has 3 columns, expected 14"),
        ("63,male,1,145,233,1,2,150,0,2.3,3,0,6,0\n" * 9, "neither numbers nor '[?]' in: sex"),
        ("63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n", "1 complete rows, which cannot be split"),
        ("63,1,1,145,?,1,2,150,0,2.3,3,0,6,0\n" * 9, "0 complete rows, which cannot be split"),
    ],
)
def test_a_file_that_is_not_a_heart_table_says_what_is_wrong(tmp_path, content, message):
    (tmp_path / source_file(0)).write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        FedHeartDisease(center=0, data_path=tmp_path)
    assert "145" not in str(caught.value)  # no patient's value in a message


def test_columns_are_named_in_ucis_order():
    assert read_table(0).columns.tolist() == list(COLUMNS)


def test_the_baseline_learns_something(tmp_path):
    from polyclinic.datasets.fed_heart_disease import Baseline, metric

    torch.manual_seed(0)
    model, loss = Baseline(), BaselineLoss()
    x, y = FedHeartDisease(pooled=True).tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    x, y = FedHeartDisease(pooled=True, train=False).tensors
    assert metric(y.numpy(), model(x).detach().numpy()) > 0.7
