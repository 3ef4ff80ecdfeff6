from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_isic2019 import CENTERS, CenterCrop, FedIsic2019, Isic2019Raw, prepare
from polyclinic.datasets.fed_isic2019.published import published
from polyclinic.errors import ConfigError, DatasetError

SIDE = 36
small = {"shorter_side": SIDE}


def test_each_center_has_training_and_test_images_of_its_own(prepared):
    everyone = set()
    for number, center in enumerate(CENTERS):
        for train, wanted in ((True, 4), (False, 1)):
            part = FedIsic2019(center=center, train=train, data_path=prepared, **small)
            assert len(part) == wanted
            assert {published()[name].center for name in part.images} == {number}
            assert {published()[name].split for name in part.images} == {"train" if train else "test"}
            everyone |= set(part.images)
    assert len(everyone) == 30


def test_a_sample_is_an_image_and_a_class_number(prepared):
    for train in (True, False):
        x, y = FedIsic2019(center=2, train=train, data_path=prepared, **small)[0]
        assert (x.shape, x.dtype) == ((3, 32, 32), torch.float32)
        assert (y.shape, y.dtype) == ((), torch.int64)


def test_the_class_is_that_of_the_table(raw, prepared):
    import csv

    with (raw / "ISIC_2019_Training_GroundTruth.csv").open() as file:
        truth = {row.pop("image"): list(row.values()).index("1.0") for row in csv.DictReader(file)}
    everything = Isic2019Raw(data_path=prepared, **small)
    assert dict(zip(everything.images, everything.targets.tolist(), strict=True)) == truth
    assert [int(y) for _, y in everything] == everything.targets.tolist()


def test_pooled_is_all_centers_in_flambys_order(prepared):
    pooled = FedIsic2019(pooled=True, data_path=prepared, **small)
    assert len(pooled) == 24
    assert pooled.images == sorted(pooled.images, key=lambda name: published()[name].row)
    everything = Isic2019Raw(data_path=prepared, **small)
    assert [n for n, part in zip(everything.images, everything.sets, strict=True) if part == "train"] == pooled.images
    assert np.bincount(everything.centers).tolist() == [5] * 6
    x, _ = everything[0]
    assert x.shape == (36, 48, 3)
    assert 0 <= x.min() < x.max() <= 255


def test_training_images_differ_at_each_access_and_follow_the_seed(prepared):
    data = FedIsic2019(data_path=prepared, **small)
    torch.manual_seed(5)
    one, two = data[0][0], data[0][0]
    assert (one != two).any()
    torch.manual_seed(5)
    assert (data[0][0] == one).all()
    test = FedIsic2019(train=False, data_path=prepared, **small)
    assert (test[0][0] == test[0][0]).all()


def test_a_transform_replaces_the_augmentation(prepared):
    def whole(image):
        assert (image.shape, image.dtype) == ((36, 48, 3), torch.uint8)
        return image.permute(2, 0, 1) / 255

    x, _ = FedIsic2019(data_path=prepared, transform=whole, dtype=torch.float64, **small)[0]
    assert (x.shape, x.dtype) == ((3, 36, 48), torch.float64)


def test_samples_may_be_changed_without_changing_the_data(prepared):
    data = FedIsic2019(data_path=prepared, transform=lambda image: image, **small)
    expected = data[0][0].clone()
    data[0][0].zero_()
    assert (data[0][0] == expected).all()


def test_a_worker_maps_the_files_itself(prepared):
    data = FedIsic2019(data_path=prepared, train=False, pooled=True, **small)
    packed = pickle.dumps(data)
    assert len(packed) < 5000
    assert (pickle.loads(packed)[1][0] == data[1][0]).all()
    assert [tuple(x.shape) for x, _ in DataLoader(data, batch_size=4)] == [(4, 3, 32, 32), (2, 3, 32, 32)]


def test_as_flamby_the_number_of_holes_is_fixed_when_the_dataset_is_made(raw, tmp_path):
    folder = prepare(raw, tmp_path / "out", flamby_compatible=True, show_progress=False, **small)
    numbers = set()
    for _ in range(40):
        data = FedIsic2019(data_path=folder, flamby_compatible=True, **small)
        numbers.add(data.transform.num_holes)
    assert numbers <= set(range(1, 9))
    assert len(numbers) > 3
    assert FedIsic2019(data_path=folder, train=False, flamby_compatible=True, **small).transform == CenterCrop(32)
    with pytest.raises(DatasetError, match="prepared in another way"):
        FedIsic2019(data_path=folder, **small)


def test_by_default_the_number_of_holes_is_drawn_for_each_image(prepared):
    assert FedIsic2019(data_path=prepared, **small).transform.num_holes is None


def test_data_of_another_size_are_refused(prepared):
    with pytest.raises(DatasetError, match="shorter_side: 36, not 224"):
        FedIsic2019(data_path=prepared)
    with pytest.raises(ConfigError, match="shorter_side is 0 pixels"):
        FedIsic2019(data_path=prepared, shorter_side=0)


def test_a_center_that_does_not_exist_is_refused(prepared):
    with pytest.raises(ConfigError, match="center 6 is out of range"):
        FedIsic2019(center=6, data_path=prepared, **small)


def test_without_data_it_is_said_how_to_get_them(tmp_path):
    with pytest.raises(DatasetError, match="polyclinic dataset download fed_isic2019"):
        FedIsic2019()
    with pytest.raises(DatasetError, match="there is no"):
        FedIsic2019(data_path=tmp_path / "absent")


def test_a_damaged_array_is_named(raw, tmp_path):
    folder = prepare(raw, tmp_path / "out", show_progress=False, **small)
    data = FedIsic2019(data_path=folder, **small)
    (folder / "items" / data.images[0] / "image.npy").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=f"{data.images[0]}.*cannot be read"):
        data[0]
