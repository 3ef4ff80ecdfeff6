from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest

from polyclinic.datasets.fed_isic2019 import CARD, CENTERS
from polyclinic.datasets.fed_isic2019.loss import TRAIN_CLASS_COUNTS
from polyclinic.datasets.fed_isic2019.published import center_of, published


@pytest.fixture(scope="module")
def reference(shared):
    with (shared / "reference" / "flamby_splits" / "isic2019.csv").open() as file:
        return list(csv.DictReader(file))


def test_names_order_centers_and_folds_are_flambys_image_by_image(reference):
    ours = [(name, str(entry.center), entry.split) for name, entry in published().items()]
    assert ours == [(row["image"], row["center"], row["split"]) for row in reference]
    assert [entry.row for entry in published().values()] == list(range(23_247))


def test_the_folds_are_scikit_learns_for_this_order():
    from sklearn.model_selection import train_test_split

    centers = [entry.center for entry in published().values()]
    _, test = train_test_split(np.arange(len(centers)), test_size=0.2, stratify=centers, random_state=13)
    assert sorted(test) == [entry.row for entry in published().values() if entry.split == "test"]


def test_counts_are_those_of_the_card():
    counts = Counter((entry.center, entry.split) for entry in published().values())
    assert tuple((counts[c, "train"], counts[c, "test"]) for c in range(len(CENTERS))) == CARD.samples
    assert sum(counts.values()) == 23_247
    assert sum(name.endswith("_downsampled") for name in published()) == 816


def test_the_list_holds_no_diagnoses():
    assert {"row", "center", "split"} == set(vars(next(iter(published().values()))))


def test_the_losss_class_counts_are_those_of_the_training_images(reference):
    counts = Counter(int(row["target"]) for row in reference if row["split"] == "train")
    assert tuple(counts[c] for c in range(8)) == TRAIN_CLASS_COUNTS


def test_centers_of_ham10000_are_those_of_its_own_table(shared):
    with (shared / "data" / "flamby_meta" / "fed_isic2019" / "HAM10000_metadata").open() as file:
        rows = list(csv.DictReader(file))
    told = {row["image_id"]: center_of(row["lesion_id"], row["dataset"]) for row in rows}
    assert len(told) == 10_015
    assert {name: entry.center for name, entry in published().items() if name in told} == told


def test_flambys_split_is_by_image_so_that_lesions_are_in_both_folds(shared):
    with (shared / "data" / "flamby_meta" / "fed_isic2019" / "HAM10000_metadata").open() as file:
        lesions = {row["image_id"]: row["lesion_id"] for row in csv.DictReader(file)}
    splits = {name: entry.split for name, entry in published().items() if name in lesions}
    trained = {lesions[name] for name, split in splits.items() if split == "train"}
    tests = [name for name, split in splits.items() if split == "test"]
    # The numbers that the pages give as a caution.
    assert (len(tests), sum(lesions[name] in trained for name in tests)) == (2003, 760)


@pytest.mark.parametrize(
    ("lesion", "source", "center"),
    [
        ("BCN_0000123", None, "BCN"),
        ("MSK4_0012345", None, "MSK"),
        ("MSK1_0012345", None, None),
        ("HAM_0000118", "rosendahl", "HAM_rosendahl"),
        ("HAM_0000118", None, None),
        ("HAM_0000118", "elsewhere", None),
        ("", "rosendahl", None),
    ],
)
def test_a_center_by_lesion_and_source(lesion, source, center):
    assert center_of(lesion, source) == (None if center is None else CENTERS.index(center))
