from __future__ import annotations

import csv
from collections import Counter

from polyclinic.datasets.fed_lidc_idri import CARD, CENTERS, NUM_CLIENTS, get_nb_max_rounds
from polyclinic.datasets.fed_lidc_idri.series import center_and_split, published_series

# GE scans without all of their slices: six for training, three for test.
UNUSABLE = {(0, "train"): 6, (0, "test"): 3}


def test_center_and_fold_of_each_series_equal_the_published_ones(shared):
    with (shared / "reference" / "flamby_splits" / "lidc_idri.csv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    expected = {row["series_uid"]: (int(row["center"]), row["split"]) for row in rows}
    assert len(rows) == len(expected) == 1018
    assert published_series() == expected
    assert list(published_series()) == [row["series_uid"] for row in rows]


def test_the_counts_are_those_of_the_card():
    counts = Counter(published_series().values())
    assert counts == {
        (0, "train"): 536, (0, "test"): 134, (1, "train"): 59, (1, "test"): 15,
        (2, "train"): 164, (2, "test"): 41, (3, "train"): 55, (3, "test"): 14,
    }  # fmt: skip
    usable = counts - Counter(UNUSABLE)
    assert CARD.samples == tuple((usable[k, "train"], usable[k, "test"]) for k in range(NUM_CLIENTS))
    assert tuple(map(sum, zip(*CARD.samples, strict=True))) == (808, 201)


def test_a_series_that_is_not_published_goes_by_its_manufacturer():
    names = ("GE MEDICAL SYSTEMS", "Philips", "Siemens Healthineers", "TOSHIBA")
    assert [center_and_split("1.2.3", name, "")[0] for name in names] == list(range(len(CENTERS)))
    assert center_and_split("1.2.3", "Canon", "")[0] is None
    assert center_and_split("1.2.3", "", "")[0] is None
    splits = [center_and_split(f"1.2.{k}", "Philips", f"patient {k}")[1] for k in range(2000)]
    assert 0.17 < splits.count("test") / 2000 < 0.23
    # All scans of a patient are in one fold.
    assert splits == [center_and_split(f"1.3.{k}", "SIEMENS", f"patient {k}")[1] for k in range(2000)]
    unnamed = [center_and_split(f"1.2.{k}", "Philips", "")[1] for k in range(200)]
    assert 0 < unnamed.count("test") < 200


def test_the_table_decides_for_a_published_series():
    uid, (center, split) = next(iter(published_series().items()))
    assert center_and_split(uid, "TOSHIBA", "somebody") == (center, split) == (0, "train")


def test_rounds():
    assert get_nb_max_rounds(100) == 201
    assert get_nb_max_rounds(100, flamby_compatible=False) == 202
