from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from polyclinic.datasets import fed_heart_disease
from polyclinic.datasets.artificial import make_split
from polyclinic.datasets.contents import foreground, quantile_groups, read_features, read_targets
from polyclinic.datasets.describe import describe
from polyclinic.datasets.fed_ixi import mock
from polyclinic.datasets.fed_tcga_brca import TcgaBrcaRaw
from polyclinic.datasets.fed_tcga_brca import mock as mock_survival
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import DatasetError


def dataset_of(samples, *, absent=()):
    """A federated dataset whose parts are lists of samples: ``samples(center, train)``."""
    module = ModuleType("made_up")
    for name in ("BATCH_SIZE", "Baseline", "BaselineLoss", "LR", "NUM_EPOCHS_POOLED", "Optimizer", "metric"):
        setattr(module, name, getattr(fed_heart_disease, name))
    module.NUM_CLIENTS = 3
    module.get_nb_max_rounds = fed_heart_disease.get_nb_max_rounds

    class FedClass(torch.utils.data.Dataset):
        def __init__(self, center=0, train=True):
            if center in absent:
                raise FileNotFoundError("no such hospital")
            self.samples = samples(center, train)

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            return self.samples[index]

    module.FedClass = FedClass
    return FederatedDataset(module)


def text_of(description):
    return "\n".join(" | ".join(row) for _, head, rows in description.tables() for row in (head, *rows))


def test_a_table_of_classes():
    found = describe(FederatedDataset.load("fed_heart_disease"))
    assert found.sizes.tolist() == [[199, 104], [172, 89], [30, 16], [85, 45]]
    # UCI's counts of the sick, of the rows without missing values.
    own = [[fed_heart_disease.FedClass(center=k, train=flag).tensors for flag in (True, False)] for k in range(4)]
    sick = [int(sum(y.sum() for _, y in pair)) for pair in own]
    assert found.group_counts[:, 1].tolist() == sick
    assert found.feature_names == fed_heart_disease.FEATURES
    x = [np.concatenate([part.numpy() for part, _ in pair]).astype(float) for pair in own]
    together = np.concatenate(x)
    expected = (x[2].mean(0) - together.mean(0)) / together.std(0)
    np.testing.assert_allclose(found.differences()[2], expected, atol=1e-6)
    assert "Switzerland | 30 | 16 | 2% | 98%" in text_of(found)
    assert found.images == ()


def test_survival(tmp_path):
    mock_survival(tmp_path, patients_per_center=20)
    found = describe(FederatedDataset.load("fed_tcga_brca"), tmp_path)
    raw = TcgaBrcaRaw(data_path=tmp_path)
    y = raw.tensors[1].numpy()
    assert found.targets[0].kind == "survival"
    assert found.group_names == ("censored", "event")
    assert found.group_counts[:, 1].tolist() == [int(y[raw.centers == k, 0].sum()) for k in range(6)]
    head, row = found.tables()[0][1:]
    assert row[4][head.index("median time")] == f"{np.median(y[raw.centers == 4, 1]):.4g}"


def test_images_with_masks(tmp_path):
    raw = mock(tmp_path / "raw", patients_per_center=5)
    dataset = FederatedDataset.load("fed_ixi")
    found = describe(dataset, raw, most=2)
    assert found.targets[0].kind == "mask"
    # Two of four for training, and the one for test.
    assert [center.num_read for center in found.images] == [3, 3, 3]
    path = dataset.ensure_prepared(raw)
    masks = [dataset.build(1, True, path)[k][1] for k in (0, 2)] + [dataset.build(1, False, path)[0][1]]
    np.testing.assert_allclose(found.targets[1].values, [float(mask[1].mean()) for mask in masks], atol=1e-6)
    assert found.images[0].shapes == ((1, 48, 60, 48),)
    np.testing.assert_allclose(found.images[0].stds, 1, atol=1e-3)
    assert found.features == ()


def test_images_of_classes_and_shapes_that_vary():
    def samples(center, train):
        return [(torch.full((3, 4 + k, 5), float(center)), torch.tensor(k // 2)) for k in range(6 if train else 2)]

    found = describe(dataset_of(samples), most=4)
    assert found.targets[0].kind == "class"
    assert found.group_names == ("class 0", "class 1", "class 2")
    assert len(found.images[0].shapes) == 4
    assert found.images[2].medians.tolist() == [2.0] * 6
    assert "3 x 4 x 5 and 3 more" in text_of(found)


def test_large_samples_are_looked_at_one_by_one():
    import tracemalloc

    shape = (1, 64, 64, 64)
    dataset = dataset_of(lambda *_: range(8))

    class Scans(dataset.fed_class):
        def __getitem__(self, index):
            # numpy's memory is traced, torch's is not.
            return np.full(shape, index, dtype=np.float32), np.zeros(shape, dtype=np.uint8)

    dataset.fed_class = Scans
    tracemalloc.start()
    found = describe(dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.images[0].means.tolist() == [*range(8)] * 2
    # One of the 48 samples, and what its median and its deviation take.
    assert peak < 6 * 4 * 64**3


def test_a_regression_target_and_features_without_names():
    rng = np.random.default_rng(0)

    def samples(center, train):
        return [(torch.tensor([float(center), 7.0]), torch.tensor(rng.normal(center))) for _ in range(40)]

    found = describe(dataset_of(samples))
    assert found.targets[0].kind == "number"
    assert found.feature_names == ("feature 0", "feature 1")
    # A constant feature differs nowhere.
    assert (found.differences()[:, 1] == 0).all()
    assert found.differences()[:, 0] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])


def test_centers_that_are_not_there_are_named(tmp_path):
    found = describe(dataset_of(lambda *_: [(torch.ones(2), torch.tensor(k)) for k in (0, 1)], absent={1}))
    assert found.centers == ("center 0", "center 2")
    assert "no such hospital" in found.absent["center 1"]
    with pytest.raises(DatasetError, match=r"no data of any center; center 0: .*no such hospital"):
        describe(dataset_of(None, absent={0, 1, 2}))


def test_random_augmentation_gives_the_same_each_time_and_leaves_generators_alone():
    dataset = dataset_of(lambda *_: [], absent=())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    class Noisy(torch.utils.data.Dataset):
        def __init__(self, center=0, train=True):
            pass

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.rand(2, 2, 2), torch.tensor(index % 2)

    dataset.fed_class = Noisy
    one, two = describe(dataset), describe(dataset)
    assert (one.images[0].means == two.images[0].means).all()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", ["table", "survival", "images", "artificial"])
def test_the_figure_has_a_panel_for_each_question(tmp_path, kind):
    if kind == "artificial":
        made = make_split(FederatedDataset.load("fed_heart_disease"), 12).save(tmp_path / "split")
        found, titles = describe(FederatedDataset.load(str(made))), ["samples", "samples by their own center"]
        names, counts = found.origins
        assert names == fed_heart_disease.CENTERS
        assert counts.sum(axis=0).tolist() == [303, 261, 46, 130]
    elif kind == "survival":
        mock_survival(tmp_path / "raw", patients_per_center=20)
        found, titles = (
            describe(FederatedDataset.load("fed_tcga_brca"), tmp_path / "raw"),
            ["samples", "share of targets", "time"],
        )
    elif kind == "images":
        mock(tmp_path / "raw", patients_per_center=2)
        found = describe(FederatedDataset.load("fed_ixi"), tmp_path / "raw")
        titles = ["samples", "foreground, fraction of the mask", "median of an input"]
    else:
        found, titles = describe(FederatedDataset.load("fed_heart_disease")), ["samples", "share of targets"]
    figure = found.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    panels = [axis.get_title() for axis in figure.axes]
    assert panels[: len(titles)] == titles
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(found.centers)


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        ([[0.0, 12.0], [1.0, 3.5]], "survival"),
        ([[0.0, 1.0], [1.0, 0.0]], "class"),
        ([[1.0], [0.0]], "class"),
        ([[1.5], [0.0]], "number"),
        ([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], "class"),
    ],
)
def test_kinds_of_targets(targets, kind):
    part = torch.utils.data.TensorDataset(torch.zeros(len(targets), 3), torch.tensor(targets))
    found = read_targets([part, part])
    assert [one.kind for one in found] == [kind, kind]
    assert len(found[0].values) == 2


def test_targets_in_memory_are_taken_without_reading_samples():
    class Images:
        targets = [2, 0, 1]

        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError("a sample was read")

    (found,) = read_targets([Images()])
    assert found.values.tolist() == [2, 0, 1]


def test_foreground_of_one_hot_and_of_class_masks():
    classes = np.zeros((4, 5, 6), dtype=int)
    classes[0, 0, :3], classes[1, 1, 1] = 1, 2
    assert foreground(classes) == pytest.approx(4 / 120)
    assert foreground(np.stack([classes == k for k in range(3)]).astype(float)) == pytest.approx(4 / 120)


def test_quantile_groups_of_few_values():
    codes, names = quantile_groups(np.array([0.0, 0, 0, 0, 1, 5]), 5, "x")
    assert len(names) == codes.max() + 1 == len(set(codes.tolist()))
    assert (np.diff(codes) >= 0).all()


def test_what_is_no_sample_is_refused():
    part = [torch.ones(3)]
    with pytest.raises(DatasetError, match="a sample is Tensor, not a tuple"):
        read_targets([part])
    assert read_features([]) is None
