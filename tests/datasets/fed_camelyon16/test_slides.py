from __future__ import annotations

import csv

import pytest

from polyclinic.datasets.fed_camelyon16 import CARD
from polyclinic.datasets.fed_camelyon16.slides import find_slides, published_slides, slide_of
from polyclinic.errors import DatasetError


def rows(path, names=None):
    with path.open(newline="") as opened:
        return list(csv.DictReader(opened, names))


def test_every_slide_is_where_flamby_has_it(shared):
    expected = rows(shared / "reference" / "flamby_splits" / "camelyon16.csv")
    ours = {slide.name: slide for slide in published_slides()}
    assert len(ours) == 399
    assert ours.keys() == {row["slide"] for row in expected}
    for row in expected:
        slide = ours[row["slide"]]
        assert (str(slide.center), slide.split) == (row["center"], row["split"]), row
        assert str(slide.label_for(flamby_compatible=True)) == row["label"], row


def test_labels_of_test_slides_are_those_of_the_organisers(shared):
    reference = rows(
        shared / "data" / "flamby_meta" / "fed_camelyon16" / "reference.csv", ["slide", "label", "kind", "size"]
    )
    assert len(reference) == 129
    for row in reference:
        assert slide_of(row["slide"]).label == int(row["label"] == "Tumor"), row


def test_counts_of_the_card():
    for center, (train, test) in enumerate(CARD.samples):
        of_center = [slide for slide in published_slides() if slide.center == center]
        assert [sum(slide.split == split for slide in of_center) for split in ("train", "test")] == [train, test]
    test_slides = [slide for slide in published_slides() if slide.split == "test"]
    assert sum(slide.label for slide in test_slides) == 49
    assert sum(slide.label_for(flamby_compatible=True) for slide in test_slides) == 48


@pytest.mark.parametrize(
    "name", ["normal_000", "normal_161", "tumor_112", "test_131", "normal_086", "test_049", "tumor_1", "other"]
)
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(DatasetError, match="is not the name of a slide of Camelyon16"):
        slide_of(name)


def test_the_part_follows_from_the_name_whatever_the_path(tmp_path):
    folder = tmp_path / "test_data"
    folder.mkdir()
    for name in ("Normal_001.tif", "tumor_005.svs", "normal_086.tif", "Test_049.tif", "._tumor_001.tif", "notes.txt"):
        (folder / name).touch()
    found = find_slides(folder)
    assert list(found) == ["normal_001", "tumor_005"]
    assert {slide_of(name).split for name in found} == {"train"}


def test_slides_may_lie_in_a_folder_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "test_001.tif").touch()
    assert list(find_slides(tmp_path)) == ["test_001"]


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no folder"):
        find_slides(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"holds no slide: no file like tumor_001\.tif"):
        find_slides(tmp_path)
    (tmp_path / "tumor_001.tif").touch()
    (tmp_path / "Tumor_001.svs").touch()
    with pytest.raises(DatasetError, match="slide tumor_001 has two files"):
        find_slides(tmp_path)
