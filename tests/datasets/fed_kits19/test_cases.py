from __future__ import annotations

import csv
import shutil

import pytest

from polyclinic.datasets.fed_kits19 import CARD, CENTERS
from polyclinic.datasets.fed_kits19.cases import find_cases, folds, sites
from polyclinic.errors import DatasetError


def test_every_case_is_where_flamby_has_it(shared):
    with (shared / "reference" / "flamby_splits" / "kits19.csv").open() as opened:
        theirs = {int(row["case"][5:]): (int(row["center"]), row["split"]) for row in csv.DictReader(opened)}
    assert len(theirs) == 96
    assert folds() == theirs


def test_every_case_has_the_publishers_site(shared):
    with (shared / "reference" / "flamby_splits" / "kits19_sites.csv").open() as opened:
        theirs = {int(row["case"][5:]): int(row["site"]) for row in csv.DictReader(opened)}
    assert dict(enumerate(sites())) == theirs
    assert len(set(sites())) == 89


def test_counts_are_the_published_ones():
    for center, counts in enumerate(CARD.samples):
        of_center = [fold for at, fold in folds().values() if at == center]
        assert (of_center.count("train"), of_center.count("test")) == counts
    assert CENTERS == ("site 7", "site 13", "site 14", "site 55", "site 57", "site 67")
    # The reference's appendix D, center 4.
    assert [n for n, place in folds().items() if place == (4, "test")] == [153, 177, 184, 209]


def test_cases_are_found_at_any_depth_by_rising_number(raw):
    for path in (raw, raw / "data", raw.parent):
        found = find_cases(path)
        assert len(found) == 12
        assert [case.number for case in found] == sorted(case.number for case in found)
        assert all(case.image.is_file() and case.label.is_file() for case in found)
        assert sorted({case.center for case in found}) == list(range(6))
        assert [case.split for case in found].count("test") == 6


def test_cases_of_other_hospitals_are_passed_over(raw, tmp_path):
    for number in (4, 250):
        (tmp_path / f"case_{number:05d}").mkdir()
    with pytest.raises(DatasetError, match="its 2 cases are of other hospitals") as caught:
        find_cases(tmp_path)
    assert "polyclinic dataset download fed_kits19" in str(caught.value)
    shutil.copytree(raw / "data", tmp_path / "data")
    assert len(find_cases(tmp_path)) == 12


def test_a_case_in_two_places_is_refused(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "case_00003").mkdir(parents=True)
    with pytest.raises(DatasetError, match="case_00003 is there twice"):
        find_cases(tmp_path)


def test_a_path_without_cases_says_how_to_get_them(tmp_path):
    (tmp_path / "case_3").mkdir()
    for path, what in ((tmp_path, "holds no case"), (tmp_path / "nowhere", "there is no folder")):
        with pytest.raises(DatasetError, match=what) as caught:
            find_cases(path)
        assert "polyclinic dataset mock fed_kits19" in str(caught.value)
