from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pydicom
import pytest

from polyclinic.datasets.fed_lidc_idri import FedLidcIdri, ensure_prepared, prepare
from polyclinic.datasets.fed_lidc_idri.prepare import hounsfield, hounsfield_as_flamby
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import DatasetError


def test_the_manifest_tells_what_is_there(prepared):
    manifest = json.loads((prepared / "manifest.json").read_text("utf-8"))
    assert manifest["dataset"] == "fed_lidc_idri"
    assert manifest["failed"] == []
    assert manifest["versions"].keys() >= {"pydicom", "scikit-image", "torch", "polyclinic"}
    data = Prepared(prepared)
    assert len(data.items) == 8
    for item in data.items:
        assert item.facts["shape"] == [48, 48, 50]
        assert item.facts["spacing_mm"] == [1.0, 1.0, 2.5]
        assert item.facts["num_readers"] == 4
        image = data.array(item.id, "image")
        assert (image.shape, image.dtype, int(image.min())) == ((48, 48, 50), np.int16, item.facts["lowest"])


def test_nodules_have_their_place_size_and_readers(prepared):
    data = Prepared(prepared)
    item = data.items[0].id
    image, voxels, readers = (data.array(item, name) for name in ("image", "voxels", "readers"))
    assert voxels.dtype == np.int16
    assert readers.dtype == np.uint8
    votes = np.zeros(image.shape, dtype=np.uint8)
    votes[tuple(voxels.T)] = readers
    np.testing.assert_array_equal(np.argwhere(votes), voxels)
    # Slice k of 2.5 mm has its middle at 2.5 k + 0.75 in voxels of 1 mm.
    assert votes[13, 14, round(2.5 * 6 + 0.75)] == 0b1111
    assert votes[13, 34, round(2.5 * 14 + 0.75)] == 0b0111
    # A sphere of 5 mm, drawn by four readers 15 % larger or smaller: its volume, within what slices allow.
    whole = votes[:24, :24, :30] > 0
    assert 0.5 < whole.sum() / (4 / 3 * np.pi * 5.0**3) < 2.2
    assert image[13, 14, 16] > -100
    assert image[24, 24, 5] < -700


def test_hounsfield_units():
    tags_right = np.array([[[-3024.0, -1000.0, 40.0]]], dtype=np.float32)
    assert hounsfield(tags_right).tolist() == [[[-1024, -1000, 40]]]
    with pytest.raises(DatasetError, match="its lowest value is 0 HU, so there is no air in it"):
        hounsfield(np.array([[[0.0, 1064.0]]], dtype=np.float32))


def test_the_repair_of_flamby():
    def repaired(*values):
        return hounsfield_as_flamby(np.array(values, dtype=np.float32)).tolist()

    assert repaired(-3024.0, -1000.0, 40.0) == [-1024, -1000, 40]
    assert repaired(0.0, 24.0, 1064.0) == [-1024, -1000, 40]
    # Off by 2048: taken down twice.
    assert repaired(1024.0, 1048.0, 2088.0) == [-1024, -1000, 40]
    # Below -1 but bright on average: taken down once and clipped.
    assert repaired(-2.0, 100.0, 1000.0) == [-1024, -924, -24]


def test_flamby_keeps_more_of_outlines_and_the_union_of_readers(prepared, prepared_as_flamby):
    ours = FedLidcIdri(center=0, data_path=prepared, sampler="none", out_shape=(48, 48, 50))[0][1]
    theirs = FedLidcIdri(
        center=0, data_path=prepared_as_flamby, sampler="none", out_shape=(48, 48, 50), flamby_compatible=True
    )[0][1]
    assert theirs[0, 34, 14, 16] == 1  # the cavity is filled
    assert ours[0, 34, 14, 16] == 0
    assert ours[0, 13, 34, 36] == 1  # the flat nodule is lost
    assert theirs[0, 13, 34, 36] == 0
    assert theirs[0, :24, :24].sum() > ours[0, :24, :24].sum()


def test_the_two_ways_are_not_mixed(raw, prepared):
    with pytest.raises(DatasetError, match="prepared in another way"):
        prepare(raw, prepared, flamby_compatible=True, show_progress=False)
    with pytest.raises(DatasetError, match="prepared in another way"):
        FedLidcIdri(data_path=prepared, flamby_compatible=True)


def test_scans_that_fail_are_listed_and_the_others_go_on(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    folders = sorted(path.parent for path in (tmp_path / "raw").rglob("1-001.dcm"))
    (folders[0] / "1-005.dcm").unlink()
    truncated = folders[1] / "1-003.dcm"
    truncated.write_bytes(truncated.read_bytes()[:2000])
    (folders[2] / "again.dcm").write_bytes((folders[2] / "1-001.dcm").read_bytes())
    next((tmp_path / "raw").rglob("9004.xml")).unlink()
    folder = prepare(tmp_path / "raw", tmp_path / "prepared", show_progress=False)
    failed = Prepared(folder).failed
    assert len(failed) == 4
    assert "slices are missing" in failed[folders[0].name]
    assert "1-003.dcm" in failed[folders[1].name]
    assert "duplicate slices" in failed[folders[2].name]
    assert "no XML file" in failed[folders[3].name]
    assert len(FedLidcIdri(center=3, data_path=folder)) == 1
    with pytest.raises(DatasetError, match="holds no train scan of GE"):
        FedLidcIdri(center=0, data_path=folder)
    # Mended, only what failed is done again.
    shutil.copy(next(raw.rglob("9004.xml")), tmp_path / "raw" / "9004.xml")
    kept = {path: path.stat().st_mtime_ns for path in (folder / "items").rglob("*.npy")}
    prepare(tmp_path / "raw", folder, show_progress=False)
    assert len(Prepared(folder).failed) == 3
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())


def test_a_preparation_that_was_killed_goes_on(raw, prepared, tmp_path, monkeypatch):
    import polyclinic.datasets.fed_lidc_idri.annotations as annotations_module  # noqa: F401

    module = sys.modules[prepare.__module__]
    real, done = module.read_series, []

    def killed_at_the_fourth(*args, **options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args)
        return real(*args, **options)

    monkeypatch.setattr(module, "read_series", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "p", workers=1, show_progress=False)
    assert not (tmp_path / "p" / "manifest.json").exists()
    again = []
    monkeypatch.setattr(module, "read_series", lambda *args, **options: again.append(args) or real(*args, **options))
    folder = prepare(raw, tmp_path / "p", workers=1, show_progress=False)
    assert len(again) == 5
    whole, resumed = Prepared(prepared), Prepared(folder)
    for item in whole.items:
        for name in ("image", "voxels", "readers"):
            np.testing.assert_array_equal(whole.array(item.id, name), resumed.array(item.id, name))


def test_patients_in_both_folds_are_counted(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    for folder in ("MOCK-9001", "MOCK-9002"):  # one for training, one for test
        for path in (tmp_path / "raw").rglob(f"{folder}/*/*.dcm"):
            header = pydicom.dcmread(path)
            header.PatientID = "P1"
            header.save_as(path)
    with pytest.warns(UserWarning, match="patients with scans in both training and test: 1"):
        folder = prepare(tmp_path / "raw", tmp_path / "p", show_progress=False)
    assert "P1" not in (folder / "manifest.json").read_text("utf-8")


def test_raw_data_are_prepared_beside_themselves_once(raw, prepared, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    folder = ensure_prepared(tmp_path / "raw", show_progress=False)
    assert folder == tmp_path / "raw-prepared"
    assert ensure_prepared(tmp_path / "raw") == folder
    assert ensure_prepared(folder) == folder
    with pytest.raises(DatasetError, match="needs data"):
        ensure_prepared(None)


def test_real_slices_are_prepared(shared, tmp_path):
    """Two scans of which a block of slices lies there; a third, with a gap between two blocks, is left out."""
    folder = prepare(shared / "data" / "lidc_dicom", tmp_path / "p", show_progress=False)
    data = Prepared(folder)
    assert ["slices are missing" in why for why in data.failed.values()] == [True]
    assert [(item.facts["center"], item.facts["split"]) for item in data.items] == [(0, "train"), (0, "test")]
    solid, glassy = (data.array(item.id, "voxels") for item in data.items)
    # 5 slices of 1.25 mm with some 30 pixels of 0.82 mm, and 12 with some 700 of 0.68 mm: volumes in cubic mm.
    assert 60 < len(solid) < 300
    assert 3500 < len(glassy) < 7500
    image = data.array(data.items[0].id, "image")
    x, y, z = solid.mean(axis=0).round().astype(int)
    assert image[x, y, z] > -300
    assert np.median(image[x - 12 : x + 12, y - 12 : y + 12, z]) < -700
    train = FedLidcIdri(data_path=folder, out_shape=(384, 384, 48), patch_size=32)
    assert (train[0][1][1] == 1).any()
