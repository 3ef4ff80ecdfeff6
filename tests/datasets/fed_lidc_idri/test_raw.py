from __future__ import annotations

import shutil

import pydicom
import pytest

from polyclinic.datasets.fed_lidc_idri.raw import find_scans
from polyclinic.errors import DatasetError


def test_scans_are_found_by_what_their_files_say(raw):
    scans = find_scans(raw)
    assert len(scans) == 8
    assert sorted((scan.center, scan.split) for scan in scans) == [(c, s) for c in range(4) for s in ("test", "train")]
    for scan in scans:
        assert len(scan.files) == 20
        assert scan.uid == pydicom.dcmread(scan.files[3]).SeriesInstanceUID
        assert scan.uid in scan.annotations.read_text("utf-8")
        assert scan.problem == ""
        assert scan.num_bytes[1] == 20


def test_names_do_not_matter_and_other_things_are_passed_over(scan, raw):
    one = scan.parent
    uid = pydicom.dcmread(next(scan.glob("*.dcm"))).SeriesInstanceUID
    (one / "readers.xml").rename(one / "notes.XML")
    for path in list(scan.glob("*.dcm")):
        path.rename(path.with_suffix(".DCM"))
    (one / "chest.xml").write_text("<IdriReadMessage/>")
    (one / "broken.xml").write_text("<Idri")
    (scan / "readme.txt").write_text("hello")
    x_ray = one / "x-ray"
    x_ray.mkdir()
    header = pydicom.dcmread(next(raw.rglob("*.dcm")))
    header.Modality, header.SeriesInstanceUID = "DX", "1.2.3"
    header.save_as(x_ray / "1.dcm")
    (found,) = find_scans(one)
    assert (found.uid, len(found.files), found.problem) == (uid, 20, "")


def test_xml_of_a_series_that_is_absent_is_passed_over_but_not_alone(scan, raw):
    other = raw / "LIDC-XML-only" / "tcia-lidc-xml" / "1" / "9003.xml"
    shutil.copy(other, scan.parent / "other.xml")
    (found,) = find_scans(scan.parent)
    assert found.annotations.name == "readers.xml"
    (scan.parent / "readers.xml").unlink()
    with pytest.raises(DatasetError, match="holds 1 CT series and 1 XML files of other series") as caught:
        find_scans(scan.parent)
    assert "LIDC-XML-only.zip" in caught.value.to_do


def test_a_series_without_xml_is_told(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    next((tmp_path / "raw").rglob("9002.xml")).unlink()
    problems = [scan.problem for scan in find_scans(tmp_path / "raw") if scan.problem]
    assert problems == ["there is no XML file for this series"]


def test_no_xml_at_all(scan):
    (scan.parent / "readers.xml").write_text("<Lidc")
    with pytest.raises(DatasetError, match=r"no XML file of LIDC readers; readers\.xml is no readable XML"):
        find_scans(scan.parent)


def test_a_folder_without_a_scan(tmp_path):
    with pytest.raises(DatasetError, match="holds no CT series") as caught:
        find_scans(tmp_path)
    assert "polyclinic dataset mock fed_lidc_idri" in caught.value.to_do
    (tmp_path / "1.dcm").write_bytes(b"x" * 300)
    with pytest.raises(DatasetError, match=r"holds no CT series.*1\.dcm is not a readable DICOM file"):
        find_scans(tmp_path)
    with pytest.raises(DatasetError, match="there is no folder"):
        find_scans(tmp_path / "absent")


def test_a_damaged_first_slice_does_not_hide_the_series(scan):
    first = sorted(scan.glob("*.dcm"))[0]
    first.write_bytes(first.read_bytes()[:50])
    (found,) = find_scans(scan.parent)
    assert len(found.files) == 20


def test_a_series_in_two_folders_is_refused(scan):
    shutil.copytree(scan, scan.parent / "copy")
    with pytest.raises(DatasetError, match="lies in two folders"):
        find_scans(scan.parent)


def test_a_manufacturer_that_is_no_center_is_told(scan):
    for path in scan.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.Manufacturer, header.SeriesInstanceUID = "Canon", "1.2.3.4"
        header.save_as(path)
    text = (scan.parent / "readers.xml").read_text("utf-8")
    start = text.index("<SeriesInstanceUid>") + len("<SeriesInstanceUid>")
    (scan.parent / "readers.xml").write_text(text[:start] + "1.2.3.4" + text[text.index("</SeriesInstanceUid>") :])
    (found,) = find_scans(scan.parent)
    assert found.center is None
    assert "'Canon', is none of the four centers'" in found.problem
