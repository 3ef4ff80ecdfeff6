from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_lidc_idri import FedLidcIdri, LidcIdriRaw, collate_fn
from polyclinic.datasets.fed_lidc_idri.series import CENTERS, published_series
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import ConfigError, DatasetError

SMALL = {"out_shape": (48, 48, 48), "patch_size": 16}


def test_each_center_has_training_and_test_scans_of_its_own(prepared):
    everyone = set()
    for number, name in enumerate(CENTERS):
        for train in (True, False):
            part = FedLidcIdri(center=name, train=train, data_path=prepared, **SMALL)
            assert len(part) == 1
            assert published_series()[part.series[0]] == (number, "train" if train else "test")
            everyone |= set(part.series)
    assert len(everyone) == 8


def test_a_training_item_is_two_patches_and_the_second_shows_a_nodule(prepared):
    data = FedLidcIdri(center=0, data_path=prepared, **SMALL)
    torch.manual_seed(0)
    lesions = 0
    for _ in range(20):
        x, y = data[0]
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((2, 16, 16, 16), torch.float32, (2, 16, 16, 16), torch.uint8)
        assert 0 <= x.min() < x.max() <= 1
        assert set(y.unique().tolist()) <= {0, 1}
        lesions += int(y[1].any())
    # A quarter of a patch away, a nodule's voxel is always in the patch, but where the box cuts the move short.
    assert lesions == 20


def whole_box(prepared, uid, shape, *, flamby_compatible=False):
    """Image and target of the box, made at once: an independent, slow way."""
    data = Prepared(prepared)
    image = torch.from_numpy(np.array(data.array(uid, "image"), dtype=np.float32))
    readers = data.array(uid, "readers")
    votes = np.array([bin(int(bits)).count("1") for bits in readers])
    target = torch.zeros(image.shape, dtype=torch.int64)
    chosen = data.array(uid, "voxels")[votes >= (1 if flamby_compatible else 2)]
    target[tuple(torch.from_numpy(np.array(chosen, dtype=np.int64)).T)] = 1
    for axis, wanted in enumerate(shape):
        have = image.shape[axis]
        if have > wanted:
            start = (have - wanted) // 2
            image, target = image.narrow(axis, start, wanted), target.narrow(axis, start, wanted)
    missing = [wanted - have for wanted, have in zip(shape, image.shape, strict=True)]
    pads = [part for m in reversed(missing) for part in (-(-m // 2), m // 2)]
    image = F.pad(image, pads, value=float(data.array(uid, "image").min()))
    return (image.clamp(-1024, 600) + 1024) / 1624, F.pad(target, pads)


@pytest.mark.parametrize("shape", [(48, 48, 48), (96, 96, 96), (64, 32, 48)])
@pytest.mark.parametrize("compatible", [False, True])
def test_the_test_patches_are_the_whole_box(prepared, prepared_as_flamby, shape, compatible):
    folder = prepared_as_flamby if compatible else prepared
    data = FedLidcIdri(
        center=1, train=False, data_path=folder, out_shape=shape, patch_size=16, flamby_compatible=compatible
    )
    x, y = data[0]
    image, target = whole_box(folder, data.series[0], shape, flamby_compatible=compatible)
    steps = [range(0, size, 16) for size in shape]
    corners = [(i, j, k) for i in steps[0] for j in steps[1] for k in steps[2]]
    assert len(x) == len(y) == len(corners)
    for number, (i, j, k) in enumerate(corners):
        there = (slice(i, i + 16), slice(j, j + 16), slice(k, k + 16))
        torch.testing.assert_close(x[number], image[there], rtol=0, atol=1e-6)
        assert torch.equal(y[number].long(), target[there])
    assert y.dtype == (torch.int64 if compatible else torch.uint8)
    assert target.sum() > 500


def test_training_patches_are_cut_from_the_same_box(prepared):
    data = FedLidcIdri(center=2, data_path=prepared, out_shape=(64, 64, 64), patch_size=32)
    image, target = whole_box(prepared, data.series[0], (64, 64, 64))
    torch.manual_seed(1)
    x, y = data[0]
    torch.manual_seed(1)
    corners = data.sampler.corners(target.nonzero())
    for number, (i, j, k) in enumerate(corners):
        there = (slice(i, i + 32), slice(j, j + 32), slice(k, k + 32))
        torch.testing.assert_close(x[number], image[there], rtol=0, atol=1e-6)
        assert torch.equal(y[number].long(), target[there])


def test_the_whole_box_as_one_patch(prepared):
    data = FedLidcIdri(center=0, data_path=prepared, out_shape=(50, 40, 60), sampler="none")
    x, y = data[0]
    image, target = whole_box(prepared, data.series[0], (50, 40, 60))
    torch.testing.assert_close(x[0], image, rtol=0, atol=1e-6)
    assert torch.equal(y[0].long(), target)


def test_intensities_beyond_the_window_are_cut_off(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "prepared")
    uid = FedLidcIdri(center=0, data_path=folder, **SMALL).series[0]
    (path,) = folder.glob(f"items/{uid}/image.npy")
    image = np.lib.format.open_memmap(path, mode="r+")
    image[20, 20, 18:26] = (-32768, -1025, -1024, -212, 599, 600, 601, 32767)
    image.flush()
    data = FedLidcIdri(center=0, data_path=folder, out_shape=image.shape, sampler="none")
    row = data[0][0][0, 20, 20, 18:26]
    torch.testing.assert_close(row, torch.tensor([0, 0, 0, 0.5, 1623 / 1624, 1, 1, 1]), rtol=0, atol=0)


def test_the_published_sizes(prepared):
    assert FedLidcIdri(data_path=prepared)[0][0].shape == (2, 128, 128, 128)
    x, y = FedLidcIdri(train=False, data_path=prepared)[0]
    assert (x.shape, y.shape) == ((27, 128, 128, 128), (27, 128, 128, 128))


def test_pooled_is_all_centers_by_uid(prepared):
    pooled = FedLidcIdri(pooled=True, data_path=prepared, **SMALL)
    assert len(pooled) == 4
    assert pooled.series == sorted(pooled.series)
    raw = LidcIdriRaw(data_path=prepared, **SMALL)
    assert [s for s, part in zip(raw.series, raw.sets, strict=True) if part == "train"] == pooled.series
    assert np.bincount(raw.centers).tolist() == [2, 2, 2, 2]


def test_batches_have_a_channel_and_all_patches(prepared):
    test = FedLidcIdri(pooled=True, train=False, data_path=prepared, **SMALL)
    batches = list(DataLoader(test, batch_size=3, collate_fn=collate_fn))
    assert [x.shape for x, _ in batches] == [(81, 1, 16, 16, 16), (27, 1, 16, 16, 16)]
    assert torch.equal(batches[1][0][:, 0], test[3][0])
    assert torch.equal(batches[0][1][27:54, 0], test[1][1])


def test_the_transform_is_for_the_image_alone_and_the_dtype_too(prepared):
    x, y = FedLidcIdri(
        train=False, data_path=prepared, transform=lambda image: 1 - image, dtype=torch.float64, **SMALL
    )[0]
    plain = FedLidcIdri(train=False, data_path=prepared, **SMALL)[0]
    assert (x.dtype, y.dtype) == (torch.float64, torch.uint8)
    torch.testing.assert_close(x.float(), 1 - plain[0])
    assert torch.equal(y, plain[1])


def test_samples_may_be_changed_without_changing_the_data(prepared):
    data = FedLidcIdri(train=False, data_path=prepared, **SMALL)
    expected = data[0][0].clone()
    data[0][0].zero_()
    assert torch.equal(data[0][0], expected)


def test_a_worker_maps_the_arrays_itself(prepared):
    data = FedLidcIdri(train=False, data_path=prepared, **SMALL)
    x = data[0][0]
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    assert torch.equal(pickle.loads(packed)[0][0], x)


def test_settings_may_come_as_json(prepared):
    data = FedLidcIdri(data_path=prepared, out_shape=[48, 48, 48], patch_size=16, n_patches=4)
    assert data[0][0].shape == (4, 16, 16, 16)


def test_what_does_not_exist_is_refused(prepared):
    with pytest.raises(ConfigError, match="center 4 is out of range"):
        FedLidcIdri(center=4, data_path=prepared)
    with pytest.raises(ConfigError, match="there is no sampler 'slow'"):
        FedLidcIdri(sampler="slow", data_path=prepared)
    with pytest.raises(DatasetError, match="fed_lidc_idri needs data"):
        FedLidcIdri()
