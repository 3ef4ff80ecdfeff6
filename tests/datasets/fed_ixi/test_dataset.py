from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_ixi import FedIXITiny, IXITinyRaw
from polyclinic.datasets.fed_ixi.subjects import published_folds
from polyclinic.errors import ConfigError, DatasetError


def test_each_center_has_training_and_test_subjects_of_its_own(prepared):
    everyone = set()
    for center in ("Guys", "HH", "IOP"):
        for train, wanted in ((True, 4), (False, 1)):
            part = FedIXITiny(center=center, train=train, data_path=prepared)
            assert len(part) == wanted
            folds = published_folds()
            assert all(folds[center, int(s[3:6])] == ("train" if train else "test") for s in part.subjects)
            everyone |= set(part.subjects)
    assert len(everyone) == 15


def test_a_sample_is_a_standardised_image_and_a_one_hot_mask(prepared):
    x, y = FedIXITiny(center=0, data_path=prepared)[0]
    assert (x.shape, x.dtype) == ((1, 48, 60, 48), torch.float32)
    assert (y.shape, y.dtype) == ((2, 48, 60, 48), torch.float32)
    assert (y.sum(0) == 1).all()
    assert 0.05 < y[1].mean() < 0.4
    assert x[0][y[1] == 1].mean() > x[0][y[1] == 0].mean()


def test_pooled_is_all_centers_by_rising_number(prepared):
    pooled = FedIXITiny(pooled=True, data_path=prepared)
    assert len(pooled) == 12
    assert pooled.subjects == sorted(pooled.subjects)
    raw = IXITinyRaw(data_path=prepared)
    assert [s for s, part in zip(raw.subjects, raw.sets, strict=True) if part == "train"] == pooled.subjects
    assert np.bincount(raw.centers).tolist() == [5, 5, 5]
    torch.testing.assert_close(raw[raw.subjects.index(pooled.subjects[3])], pooled[3])


def test_raw_data_are_prepared_on_the_way(raw, prepared, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    packed = shutil.make_archive(str(tmp_path / "zipped"), "zip", raw)
    expected = FedIXITiny(center=1, data_path=prepared)[0]
    for path in (tmp_path / "raw", packed):
        torch.testing.assert_close(FedIXITiny(center=1, data_path=path)[0], expected)


def test_the_transform_is_for_the_image_alone_and_the_dtype_for_both(prepared):
    x, y = FedIXITiny(data_path=prepared, transform=lambda image: image + 5, dtype=torch.float64)[0]
    plain = FedIXITiny(data_path=prepared)[0]
    assert (x.dtype, y.dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(x.float(), plain[0] + 5)
    torch.testing.assert_close(y.float(), plain[1])


def test_samples_may_be_changed_without_changing_the_data(prepared):
    data = FedIXITiny(data_path=prepared)
    expected = data[0][0].clone()
    data[0][0].zero_()
    torch.testing.assert_close(data[0][0], expected)


def test_a_worker_maps_the_arrays_itself(prepared):
    data = FedIXITiny(data_path=prepared)
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    torch.testing.assert_close(pickle.loads(packed)[1], data[1])
    batches = list(DataLoader(data, batch_size=3))
    assert [len(x) for x, _ in batches] == [3, 1]


def test_the_small_real_data_load(shared, tmp_path):
    from polyclinic.datasets.fed_ixi import ensure_prepared

    folder = ensure_prepared(shared / "data" / "ixi_hh_4mm", to=tmp_path, show_progress=False)
    train, test = (FedIXITiny(center="HH", train=flag, data_path=folder) for flag in (True, False))
    assert (len(train), len(test)) == (48, 12)
    with pytest.raises(DatasetError, match="holds no train subject of IOP"):
        FedIXITiny(center="IOP", data_path=folder)


def test_a_center_that_does_not_exist_is_refused(prepared):
    with pytest.raises(ConfigError, match="center 3 is out of range"):
        FedIXITiny(center=3, data_path=prepared)


def test_arrays_that_do_not_fit_their_manifest_are_refused(prepared, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    np.save(copy / "images.npy", np.zeros((2, 1, 48, 60, 48), dtype=np.float32))
    with pytest.raises(DatasetError, match="does not fit its manifest"):
        FedIXITiny(pooled=True, data_path=copy)
    (copy / "images.npy").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="cannot be read"):
        FedIXITiny(pooled=True, data_path=copy)
