from __future__ import annotations

import csv
import shutil
import zipfile

import numpy as np
import pytest

from polyclinic.datasets.fed_ixi import CARD, CENTERS
from polyclinic.datasets.fed_ixi.subjects import open_raw, published_folds, split_of
from polyclinic.errors import DatasetError


def test_every_subject_is_where_flamby_has_it(shared):
    with (shared / "reference" / "flamby_splits" / "ixi.csv").open() as opened:
        theirs = {(CENTERS[int(row["center"])], int(row["ixi_id"])): row["split"] for row in csv.DictReader(opened)}
    assert published_folds() == theirs


def test_counts_are_the_published_ones():
    folds = published_folds()
    assert len(folds) == 566
    for hospital, counts in zip(CENTERS, CARD.samples, strict=True):
        of_hospital = [fold for (at, _), fold in folds.items() if at == hospital]
        assert (of_hospital.count("train"), of_hospital.count("test")) == counts


def test_the_random_generator_of_numpy_is_left_alone():
    np.random.seed(4)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    published_folds.cache_clear()
    published_folds()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_a_published_subject_keeps_its_fold_and_others_get_one_by_their_id():
    assert split_of("IXI002-Guys-0828", 2, "Guys") == "test"
    assert split_of("IXI013-HH-1212", 13, "HH") == "train"
    # 900 is no number of the study; and 2 is none of Hammersmith.
    folds = [split_of(f"IXI900-Guys-{code:04d}", 900, "Guys") for code in range(5000)]
    assert 0.78 < folds.count("train") / 5000 < 0.82
    assert split_of("IXI002-HH-0001", 2, "HH") == split_of("IXI002-HH-0001", 2, "HH")


def test_subjects_are_found_at_any_depth_by_rising_number(raw):
    for path in (raw, raw / "IXI_sample", raw.parent):
        subjects = open_raw(path).subjects
        assert len(subjects) == 15
        assert [s.number for s in subjects] == sorted(s.number for s in subjects)
        assert all(s.image.endswith("_image.nii.gz") and s.label.endswith("_label.nii.gz") for s in subjects)


def test_a_zip_is_read_as_it_is_and_found_in_its_folder(raw, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "7kd5wj7v7p-3"), "zip", raw)
    folder = open_raw(raw)
    for path in (tmp_path / packed, tmp_path):
        zipped = open_raw(path)
        assert [s.id for s in zipped.subjects] == [s.id for s in folder.subjects]
        assert zipped.read(zipped.subjects[3].image) == folder.read(folder.subjects[3].image)


def test_torchio_layout_is_found(shared):
    subjects = open_raw(shared / "data" / "ixi_hh_4mm").subjects
    assert len(subjects) == 60
    assert {s.hospital for s in subjects} == {"HH"}
    with (shared / "data" / "ixi_hh_4mm" / "subjects.csv").open() as opened:
        theirs = {row["subject"]: row["flamby_split"] for row in csv.DictReader(opened) if row["flamby_split"]}
    assert theirs
    assert {s.id: s.split for s in subjects if s.id in theirs} == theirs


def test_other_files_and_other_modalities_are_no_subjects(tmp_path):
    names = ["T2/IXI002-Guys-0828_image.nii.gz", "T1/._IXI002-Guys-0828_image.nii.gz", "T1/IXI002-Guys-0828.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DatasetError, match="holds no subject"):
        open_raw(tmp_path)


def test_a_subject_in_two_places_is_refused(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "one")
    shutil.copytree(raw, tmp_path / "two")
    with pytest.raises(DatasetError, match=r"subject IXI\S+ has two files: one/.* and two/"):
        open_raw(tmp_path)


def test_a_path_without_data_says_how_to_get_them(tmp_path):
    (tmp_path / "notes.txt").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "nothing")
    for path in (tmp_path / "nowhere", tmp_path / "notes.txt", tmp_path / "other.zip"):
        with pytest.raises(DatasetError) as caught:
            open_raw(path)
        assert "polyclinic dataset download fed_ixi" in str(caught.value)
