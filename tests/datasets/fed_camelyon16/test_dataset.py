from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_camelyon16 import Camelyon16Raw, FedCamelyon16, collate_fn
from polyclinic.datasets.fed_camelyon16.slides import slide_of
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import ConfigError, DatasetError


def test_each_center_has_slides_of_its_own_of_either_label(prepared):
    seen = set()
    for center in ("RUMC", "umcu"):
        for train in (True, False):
            part = FedCamelyon16(center=center, train=train, data_path=prepared)
            assert part.slides == sorted(part.slides)
            assert sorted(part.labels) == [0, 1]
            for name, label in zip(part.slides, part.labels, strict=True):
                slide = slide_of(name)
                assert slide.split == ("train" if train else "test")
                assert (slide.center, slide.label) == (["RUMC", "umcu"].index(center), label)
            seen |= set(part.slides)
    assert len(seen) == 8


def test_a_sample_is_features_label_and_the_same_permutation_each_time(prepared):
    data = FedCamelyon16(center=0, data_path=prepared)
    x, y, order = data[1]
    assert (x.dtype, y.dtype, y.shape, y.tolist()) == (torch.float32, torch.float32, (1,), [1.0])
    np.testing.assert_array_equal(x.numpy(), Prepared(prepared).array("tumor_001", "features"))
    np.testing.assert_array_equal(order, np.random.default_rng(42).permutation(len(x)))


def test_pooled_and_raw(prepared):
    pooled = [FedCamelyon16(pooled=True, train=train, data_path=prepared) for train in (True, False)]
    assert [len(part) for part in pooled] == [4, 4]
    raw = Camelyon16Raw(data_path=prepared)
    assert [s for s, part in zip(raw.slides, raw.sets, strict=True) if part == "train"] == pooled[0].slides
    assert sorted(raw.centers) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_compatible_order_is_flambys_and_leaves_pythons_generator_alone(prepared):
    state = random.getstate()
    ours = Camelyon16Raw(data_path=prepared, flamby_compatible=True).slides
    assert random.getstate() == state
    expected = sorted(ours)
    random.seed(0)
    random.shuffle(expected)
    random.setstate(state)
    assert ours == expected


def test_compatible_labels(prepared, monkeypatch):
    # The mock has no test_114, so a slide takes its place.
    monkeypatch.setattr("polyclinic.datasets.fed_camelyon16.slides._NORMAL_IN_FLAMBY", "test_001")
    for compatible, expected in ((False, 1), (True, 0)):
        data = FedCamelyon16(center=1, train=False, data_path=prepared, flamby_compatible=compatible)
        assert data.labels[data.slides.index("test_001")] == expected


def test_transform_dtype_and_batches(prepared):
    data = FedCamelyon16(pooled=True, data_path=prepared, transform=lambda x: x + 1, dtype=torch.float64)
    plain = FedCamelyon16(pooled=True, data_path=prepared)
    assert (data[0][0].dtype, data[0][1].dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(data[0][0].float(), plain[0][0] + 1)
    (x, y), *rest = DataLoader(plain, batch_size=3, collate_fn=collate_fn)
    assert x.shape == (3, max(len(plain[k][0]) for k in range(3)), 2048)
    assert (y.shape, len(rest)) == ((3, 1), 1)


def test_a_worker_maps_the_arrays_itself(prepared):
    data = FedCamelyon16(pooled=True, data_path=prepared)
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    torch.testing.assert_close(pickle.loads(packed)[1][0], data[1][0])


def test_tumour_shares(prepared):
    data = FedCamelyon16(center=0, data_path=prepared)
    assert data.tumour_fraction(data.slides.index("normal_001")) is None
    share = data.tumour_fraction(data.slides.index("tumor_001"))
    assert len(share) == len(data[data.slides.index("tumor_001")][0])


def test_what_is_not_there_is_refused(prepared, tmp_path):
    with pytest.raises(ConfigError, match="center 2 is out of range"):
        FedCamelyon16(center=2, data_path=prepared)
    with pytest.raises(DatasetError, match="fed_camelyon16 needs data"):
        FedCamelyon16()
    with pytest.raises(DatasetError, match="there is no "):
        FedCamelyon16(data_path=tmp_path / "nothing")
