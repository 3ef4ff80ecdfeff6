from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_kits19 import FedKits19, Kits19Raw, collate_fn, prepare
from polyclinic.datasets.fed_kits19.cases import folds
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import ConfigError, DatasetError
from polyclinic.randomness import seeded

PATCH = (16, 32, 32)
small = {"patch_size": PATCH}


@pytest.fixture(scope="module")
def compatible(raw, tmp_path_factory):
    to = tmp_path_factory.mktemp("kits") / "as-flamby"
    return prepare(raw, to, flamby_compatible=True, show_progress=False)


def test_each_center_has_training_and_test_cases_of_its_own(prepared):
    everyone = set()
    for center in range(6):
        for train, split in ((True, "train"), (False, "test")):
            part = FedKits19(center=center, train=train, data_path=prepared, **small)
            assert len(part) == 1
            assert all(folds()[int(name[5:])] == (center, split) for name in part.images)
            everyone |= set(part.images)
    assert len(everyone) == 12
    assert FedKits19(center="site 57", data_path=prepared).images == FedKits19(center=4, data_path=prepared).images


def test_pooled_is_all_centers_by_rising_number(prepared):
    pooled = FedKits19(pooled=True, data_path=prepared, **small)
    assert len(pooled) == 6
    assert pooled.images == sorted(pooled.images)
    raw = Kits19Raw(data_path=prepared, **small)
    assert len(raw) == 12
    assert [n for n, part in zip(raw.images, raw.train_test, strict=True) if part == "train"] == pooled.images
    assert sorted(raw.centers) == sorted([*range(6)] * 2)


def test_a_training_item_is_a_patch_and_labels(prepared):
    x, y = FedKits19(data_path=prepared, **small)[0]
    assert (x.shape, x.dtype) == ((1, *PATCH), torch.float32)
    assert (y.shape, y.dtype) == ((1, *PATCH), torch.float32)
    assert set(y.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert FedKits19(data_path=prepared).patch_size == (64, 192, 192)


def test_a_test_item_is_the_whole_volume(prepared):
    data = FedKits19(train=False, data_path=prepared, transform=lambda image: image + 5, dtype=torch.float64)
    x, y = data[0]
    stored = Prepared(prepared)
    assert (x.dtype, y.dtype) == (torch.float64, torch.float64)
    np.testing.assert_allclose(x[0], stored.array(data.images[0], "image").astype(float) + 5)
    np.testing.assert_array_equal(y[0], stored.array(data.images[0], "label"))


def test_without_changes_a_patch_is_a_piece_of_the_volume(prepared):
    data = FedKits19(data_path=prepared, augment=False, **small)
    padded = np.pad(np.asarray(Prepared(prepared).array(data.images[0], "image"), dtype=np.float32), 40)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, PATCH)
    with seeded(3):
        for _ in range(3):
            patch = data[0][0][0].numpy()
            filled = tuple(np.argwhere(patch)[0])
            corners = np.argwhere(pieces[(..., *filled)] == patch[filled])
            assert any(np.array_equal(pieces[tuple(corner)], patch) for corner in corners)


def test_half_of_the_patches_have_kidney_or_tumour_in_their_middle_and_each_as_often(prepared):
    data = FedKits19(data_path=prepared, augment=False, patch_size=(3, 3, 3))
    with seeded(0):
        middles = [int(data[0][1][0, 1, 1, 1]) for _ in range(1000)]
    by_chance = (np.asarray(Prepared(prepared).array(data.images[0], "label")) > 0).mean()
    assert middles.count(1) / 1000 == pytest.approx(0.25, abs=0.05 + by_chance / 2)
    assert middles.count(2) / 1000 == pytest.approx(0.25, abs=0.05 + by_chance / 2)


def test_as_flamby_test_items_are_patches_and_every_other_is_forced(compatible):
    data = FedKits19(train=False, data_path=compatible, flamby_compatible=True, patch_size=(3, 3, 3))
    middles = [int(data[0][1][0, 1, 1, 1]) for _ in range(60)]
    assert all(middle in (1, 2) for middle in middles[1::2])
    assert middles[::2].count(0) > 20
    # Test patches are not changed at random, training patches are.
    assert data[0][0].shape == (1, 3, 3, 3)


def test_patches_follow_the_seed(prepared):
    data = FedKits19(pooled=True, data_path=prepared, **small)

    def patches(seed):
        with seeded(seed):
            return torch.stack([data[k][0] for k in range(3)])

    first = patches(1)
    assert torch.equal(first, patches(1))
    assert not torch.equal(first, patches(2))
    # In a case without memory, the number of patches that were drawn before does not matter either.
    data[0]
    assert torch.equal(first, patches(1))


def test_workers_draw_different_patches_and_map_the_arrays_themselves(prepared):
    data = FedKits19(pooled=True, data_path=prepared, **small)
    data[0]
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    with seeded(1):
        expected = data[2][0]
    with seeded(1):
        assert torch.equal(pickle.loads(packed)[2][0], expected)


def test_a_plan_may_ask_for_another_patch(prepared):
    data = FedKits19(data_path=prepared, **small)
    assert data.with_patch_size([8, 8, 8])[0][0].shape == (1, 8, 8, 8)
    assert data[0][0].shape == (1, *PATCH)
    for wrong in ((16, 32), (0, 8, 8)):
        with pytest.raises(ConfigError, match="three sizes"):
            data.with_patch_size(wrong)


def test_volumes_of_different_size_get_zeros_behind_them(prepared):
    data = FedKits19(pooled=True, train=False, data_path=prepared)
    items = [data[k] for k in range(len(data))]
    assert len({image.shape for image, _ in items}) > 1
    images, targets = next(iter(DataLoader(data, batch_size=6, collate_fn=collate_fn)))
    assert images.shape == targets.shape
    for k, (image, target) in enumerate(items):
        z, y, x = image.shape[1:]
        assert torch.equal(images[k, :, :z, :y, :x], image)
        assert torch.equal(targets[k, :, :z, :y, :x], target)
        assert images[k].count_nonzero() == image.count_nonzero()


def test_patches_of_one_size_are_put_together_as_they_are():
    items = [(torch.full((1, 2, 3, 4), float(k)), torch.full((1, 2, 3, 4), float(-k))) for k in range(3)]
    images, targets = collate_fn(items)
    assert images.shape == (3, 1, 2, 3, 4)
    assert images[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
    assert torch.equal(targets, -images)
    images.zero_()
    assert items[2][0].all()


def test_a_case_without_a_tumour_or_kidney_has_random_patches(write_case, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("case_00021", "case_00181"):
        image = rng.integers(-100, 200, (8, 20, 20)).astype(np.int16)
        write_case(tmp_path / "raw" / name, image, np.zeros((8, 20, 20), dtype=np.uint8))
    data = FedKits19(data_path=tmp_path / "raw", **small)
    for _ in range(4):
        assert data[0][1].sum() == 0


def test_what_does_not_exist_is_refused(prepared):
    with pytest.raises(ConfigError, match="center 6 is out of range"):
        FedKits19(center=6, data_path=prepared)
    with pytest.raises(DatasetError, match="needs data"):
        FedKits19()
