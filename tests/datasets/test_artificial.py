from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyclinic import Experiment, simulate
from polyclinic.datasets.artificial import make_split, read_split
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.datasets.fed_ixi import mock
from polyclinic.datasets.fed_tcga_brca import mock as mock_survival
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, DatasetChanged, DatasetError
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.federation.places import create_nodes

HEART = FederatedDataset.load("fed_heart_disease")


@pytest.fixture(scope="module")
def survival(tmp_path_factory):
    return mock_survival(tmp_path_factory.mktemp("brca"), patients_per_center=25)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return mock(tmp_path_factory.mktemp("ixi") / "raw", patients_per_center=5)


def stored(tmp_path, dataset, into, **options):
    return FederatedDataset.load(str(make_split(dataset, into, **options).save(tmp_path / "split")))


def held(split, part, sizes):
    """The numbers of all samples that centers hold, each as many times as it is held."""
    counts = [np.zeros(size, dtype=int) for size in sizes]
    for center in split.centers:
        for old, rows in center[part].items():
            np.add.at(counts[int(old)], rows, 1)
    return np.concatenate(counts)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    into=st.integers(2, 12),
    method=st.sampled_from(["dirichlet", "linear", "quantity", "label"]),
    by=st.sampled_from(["label", "center", "age", "2"]),
    alpha=st.floats(0.05, 20),
    seed=st.integers(0, 1000),
)
def test_every_sample_is_in_exactly_one_center(into, method, by, alpha, seed):
    options = {"method": method, "by": by, "alpha": alpha, "seed": seed}
    split = make_split(HEART, into, **options)
    assert (held(split, "train", (199, 172, 30, 85)) == 1).all()
    assert (held(split, "test", (104, 89, 16, 45)) == 1).all()
    assert all(center["train"] and center["test"] for center in split.centers)
    assert make_split(HEART, into, **options) == split


def test_nothing_global_is_drawn_from():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make_split(HEART, 3, seed=7)
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_a_stored_split_gives_the_samples_it_names(tmp_path):
    data = stored(tmp_path, HEART, 4, method="dirichlet", alpha=0.4, seed=2)
    assert data.centers == ("dirichlet 0", "dirichlet 1", "dirichlet 2", "dirichlet 3")
    assert (data.name, data.module.__name__) == (
        "fed_heart_disease_dirichlet_4",
        "polyclinic.datasets.fed_heart_disease",
    )
    own = [HEART.build(k, True).tensors for k in range(4)]
    for number, center in enumerate(data.split.centers):
        part = data.build(number, True)
        expected = torch.cat([own[int(old)][0][rows] for old, rows in sorted(center["train"].items())])
        assert torch.equal(part.tensors[0], expected)
        assert len(data.build(f"dirichlet {number}", False)) == sum(map(len, center["test"].values()))
    together = data.build(pooled=True).tensors[0]
    assert torch.equal(together, torch.cat([x for x, _ in own]))


def test_survival_is_split_by_event_by_time_and_by_center(tmp_path, survival):
    source = FederatedDataset.load("fed_tcga_brca")

    def rates(part, column):
        data = FederatedDataset.load(str(made))
        return [data.build(k, part == "train").tensors[1][:, column] for k in range(3)]

    made = make_split(source, 3, method="label", data_path=survival).save(tmp_path / "event")
    events = [y.mean() for y in rates("train", 0)]
    assert events[0] == 0
    assert events[2] == 1
    made = make_split(source, 3, method="feature", by="time", data_path=survival).save(tmp_path / "time")
    times = rates("train", 1)
    assert times[0].max() <= times[1].min()
    assert times[1].max() <= times[2].min()
    made = make_split(source, 6, method="label", by="center", data_path=survival).save(tmp_path / "center")
    split = read_split(made)
    assert [set(center["train"]) for center in split.centers] == [{str(k)} for k in range(6)]
    make_split(source, 3, by="age_at_index", data_path=survival)


def test_images_are_split_by_their_masks_and_by_center(tmp_path, images):
    source = FederatedDataset.load("fed_ixi")
    data = stored(tmp_path, source, 2, method="feature", by="label", data_path=images)
    assert [len(data.build(k, True)) for k in range(2)] == [6, 6]
    small, large = (max(float(y[1].mean()) for _, y in data.build(k, True)) for k in range(2))
    assert small < min(float(y[1].mean()) for _, y in data.build(1, True)) <= large
    split = make_split(source, 3, method="dirichlet", by="center", alpha=1e-9, data_path=images)
    assert [len(center["train"]) for center in split.centers][:1] == [1]


def test_nodes_are_made_of_it_and_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_split(HEART, 3, method="quantity", alpha=5).save(tmp_path / "many")
    # A relative path, which is kept as an absolute one: a node may be opened from anywhere.
    nodes = create_nodes(tmp_path / "place", "many")
    monkeypatch.chdir("/")
    assert [node.node_id for node in nodes] == ["quantity-0", "quantity-1", "quantity-2"]
    experiment = Experiment(
        BaselinePlan,
        tags=["fed_heart_disease_quantity_3"],
        model_args={"dataset": "fed_heart_disease"},
        training_args={"batch_size": 4, "num_updates": 2},
        round_limit=1,
        federation=InProcessFederation.at(tmp_path / "place"),
        folder=tmp_path / "run",
        observers=(),
    )
    experiment.run()
    assert "accuracy" in str(experiment.evaluate())
    assert len(simulate(str(tmp_path / "many")).nodes()) == 3
    # Other centers under the same name: no round is trained on them.
    (tmp_path / "many" / "split.json").unlink()
    make_split(HEART, 3, method="quantity", alpha=5, seed=1).save(tmp_path / "many")
    dataset = nodes[0].registry.datasets()[0]
    with pytest.raises(DatasetChanged, match=r"artificial centers \(split\.json\) are not those"):
        dataset.require_unchanged()


def test_it_is_known_when_the_data_are_not_those_that_were_split(tmp_path, survival):
    source = FederatedDataset.load("fed_tcga_brca")
    data = stored(tmp_path, source, 3, data_path=survival)
    other = mock_survival(tmp_path / "other", patients_per_center=25, seed=9)
    with pytest.raises(DatasetChanged, match=r"the train part of \w+ is not the one that was split"):
        data.build(0, True, other)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"by": "aeg"}, ConfigError, r"no feature 'aeg'\n.*did you mean 'age'"),
        ({"by": "99"}, ConfigError, r"no feature '99'"),
        ({"by": "time"}, ConfigError, "these data have no times"),
        ({"method": "feature"}, ConfigError, r"needs to know which feature\n.*age, sex"),
        ({"method": "clever"}, ConfigError, "no method 'clever'"),
        ({"into": 400}, DatasetError, r"254 test samples cannot be split into 400 centers"),
    ],
)
def test_what_cannot_be_split_is_refused(options, error, why):
    into = options.pop("into", 3)
    with pytest.raises(error, match=why):
        make_split(HEART, into, **options)


def test_images_have_no_features_to_split_by(images):
    with pytest.raises(ConfigError, match="its samples are no rows of a table"):
        make_split(FederatedDataset.load("fed_ixi"), 2, by="age", data_path=images)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2, "dataset": "x"}'])
def test_a_file_that_is_no_split_is_refused(tmp_path, content):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DatasetError, match="is no file of artificial centers"):
        FederatedDataset.load(str(tmp_path))


def test_a_split_is_not_replaced(tmp_path):
    split = make_split(HEART, 2)
    path = split.save(tmp_path)
    assert read_split(path) == split
    assert "age" not in json.loads(path.read_text())["centers"]
    with pytest.raises(ConfigError, match="already"):
        make_split(HEART, 3).save(tmp_path)
