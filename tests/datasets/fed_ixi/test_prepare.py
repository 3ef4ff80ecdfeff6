from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from polyclinic.datasets.fed_ixi import FedIXITiny, ensure_prepared, prepare
from polyclinic.datasets.fed_ixi import prepare as prepare_function
from polyclinic.datasets.fed_ixi.prepare import prepare_image, prepare_label
from polyclinic.datasets.fed_ixi.raw import read_volume
from polyclinic.datasets.fed_ixi.subjects import open_raw
from polyclinic.datasets.prepared import read_manifest
from polyclinic.errors import DatasetError

quiet = {"show_progress": False}


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("images.npy", "labels.npy")}


def one_volume(rng):
    # Blobs, so that many new voxels are partly brain.
    coarse = rng.random((8, 6, 6)) > 0.5
    return np.kron(coarse, np.ones((11, 8, 10)))[:83, :44, :55]


def test_images_and_labels_are_those_of_monai(raw):
    from monai.transforms import AsDiscrete, NormalizeIntensity, Resize

    found = open_raw(raw)
    subject = found.subjects[0]
    image, label = (read_volume(found.read(name), name) for name in (subject.image, subject.label))
    resize = Resize((48, 60, 48))
    expected = NormalizeIntensity()(resize(image[None]))
    np.testing.assert_allclose(prepare_image(image), np.asarray(expected), atol=1e-5)
    expected = Resize((48, 60, 48), mode="nearest-exact")(label[None])[0]
    assert (prepare_label(label) == np.asarray(expected)).all()
    one_hot = np.asarray(AsDiscrete(to_onehot=2)(resize(label[None])))
    assert (prepare_label(label, flamby_compatible=True) == one_hot[1]).all()


def test_a_label_keeps_the_brains_volume_and_the_compatible_one_is_eroded(raw):
    found = open_raw(raw)
    for subject in found.subjects[:5]:
        label = read_volume(found.read(subject.label), subject.label)
        assert prepare_label(label).mean() == pytest.approx(label.mean(), rel=0.02)
        assert prepare_label(label, flamby_compatible=True).mean() < 0.9 * label.mean()


def test_real_labels_keep_the_brains_volume(shared):
    found = open_raw(shared / "data" / "ixi_hh_4mm")
    volumes = [read_volume(found.read(s.label), s.label) for s in found.subjects[::6]]
    kept = np.mean([prepare_label(volume).mean() / volume.mean() for volume in volumes])
    eroded = np.mean([prepare_label(volume, flamby_compatible=True).mean() / volume.mean() for volume in volumes])
    assert kept == pytest.approx(1, abs=0.02)
    assert eroded < 0.95


def test_a_voxel_is_brain_where_its_middle_is_and_as_flamby_where_all_of_it_is():
    # The first axis shrinks from 144 to 48: new voxels are three old ones wide, with the second in the middle.
    volume = np.zeros((144, 60, 48))
    volume[0:9, 0, 0] = [0, 1, 0, 1, 1, 1, 1, 0, 1]
    assert prepare_label(volume)[:4, 0, 0].tolist() == [1, 1, 0, 0]
    assert prepare_label(volume, flamby_compatible=True)[:4, 0, 0].tolist() == [0, 1, 0, 0]


def test_an_image_is_standardised_and_a_constant_one_becomes_zero():
    rng = np.random.default_rng(0)
    image = prepare_image(one_volume(rng) * 700 + rng.normal(100, 5, (83, 44, 55)))
    assert (image.shape, image.dtype) == ((1, 48, 60, 48), np.float32)
    assert abs(image.mean(dtype=np.float64)) < 1e-5
    assert image.std(dtype=np.float64) == pytest.approx(1, abs=1e-4)
    assert (prepare_image(np.full((83, 44, 55), 7.0)) == 0).all()


def test_the_prepared_folder_says_what_it_is(raw, prepared):
    manifest = read_manifest(prepared)
    assert {f"{name}.npy": array["sha256"] for name, array in manifest["stacked"].items()} == digests(prepared)
    assert [item["id"] for item in manifest["items"]] == [s.id for s in open_raw(raw).subjects]
    assert {"torch", "numpy", "nibabel", "polyclinic", "python"} == set(manifest["versions"])
    assert manifest["failed"] == []
    assert {path.name for path in prepared.iterdir()} <= {"images.npy", "labels.npy", "manifest.json", ".lock"}
    assert str(raw) not in json.dumps(manifest)


def test_a_zip_gives_the_same_arrays_as_its_folder(raw, prepared, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "data"), "zip", raw)
    assert digests(prepare(packed, tmp_path / "out", workers=2, **quiet)) == digests(prepared)


def test_what_is_finished_is_not_done_again_unless_it_is_damaged(raw, tmp_path):
    out = prepare(raw, tmp_path / "out", **quiet)
    before = (out / "images.npy").stat().st_ino
    prepare(raw, out, **quiet)
    assert (out / "images.npy").stat().st_ino == before
    good = digests(out)
    with (out / "images.npy").open("r+b") as damaged:
        damaged.seek(5000)
        damaged.write(b"xxxx")
    prepare(raw, out, **quiet)
    assert digests(out) == good


def test_subjects_that_join_later_are_added(raw, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(raw, some)
    moved = open_raw(some).subjects[2]
    shutil.move(some / "IXI_sample" / moved.id, tmp_path / moved.id)
    out = ensure_prepared(some, **quiet)
    assert out == tmp_path / "some-prepared"
    assert len(read_manifest(out)["items"]) == 14
    shutil.move(tmp_path / moved.id, some / "IXI_sample" / moved.id)
    assert ensure_prepared(some, **quiet) == out
    assert len(read_manifest(out)["items"]) == 15


def test_two_ways_of_preparing_do_not_mix(raw, prepared):
    with pytest.raises(DatasetError, match=r"prepared in another way \(label: 'nearest'") as caught:
        prepare(raw, prepared, flamby_compatible=True, **quiet)
    assert "choose another folder" in str(caught.value)
    with pytest.raises(DatasetError, match="in another way"):
        ensure_prepared(prepared, flamby_compatible=True)


def test_each_way_has_a_folder_of_its_own_beside_the_raw_data(raw, tmp_path):
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    one, two = (ensure_prepared(mine, flamby_compatible=flag, **quiet) for flag in (False, True))
    assert (one.name, two.name) == ("raw-prepared", "raw-prepared-as-flamby")
    assert np.load(two / "labels.npy").sum() < np.load(one / "labels.npy").sum()
    assert ensure_prepared(one) == one
    assert ensure_prepared(two, flamby_compatible=True) == two


def test_raw_data_in_a_place_that_cannot_be_written_are_prepared_in_the_cache(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the owner of the tests may be root
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    shutil.copytree(raw, tmp_path / "raw")
    assert ensure_prepared(tmp_path / "raw", **quiet).parent == tmp_path / "polyclinic"
    assert not (tmp_path / "raw-prepared").exists()


def broken(raw, to):
    """A copy of the raw data in which six subjects cannot be used, and which ones."""
    import gzip

    import nibabel

    shutil.copytree(raw, to)
    subjects = open_raw(to).subjects
    (to / subjects[0].image).write_bytes(b"this is no gzip")
    (to / subjects[1].label).unlink()
    whole = (to / subjects[2].image).read_bytes()
    (to / subjects[2].image).write_bytes(whole[: len(whole) // 2])
    odd = nibabel.Nifti1Image(np.full((83, 44, 55), 2, dtype=np.uint8), np.eye(4)).to_bytes()
    (to / subjects[3].label).write_bytes(gzip.compress(odd))
    other = nibabel.Nifti1Image(np.ones((83, 44, 54), dtype=np.uint8), np.eye(4)).to_bytes()
    (to / subjects[4].label).write_bytes(gzip.compress(other))
    holes = nibabel.Nifti1Image(np.full((83, 44, 55), np.nan, dtype=np.float32), np.eye(4)).to_bytes()
    (to / subjects[5].image).write_bytes(gzip.compress(holes))
    return {
        subjects[0].id: "is not a readable NIfTI file",
        subjects[1].id: "it has no label file",
        subjects[2].id: "is not a readable NIfTI file",
        subjects[3].id: "the label has values other than 0 and 1",
        subjects[4].id: "image and label differ in shape: (83, 44, 55) and (83, 44, 54)",
        subjects[5].id: "the image has values that are not finite",
    }


def test_subjects_that_cannot_be_read_are_listed_and_do_not_stop_the_others(raw, tmp_path):
    expected = broken(raw, tmp_path / "raw")
    out = prepare(tmp_path / "raw", tmp_path / "out", **quiet)
    manifest = read_manifest(out)
    assert len(manifest["items"]) == 9
    failed = {entry["id"]: entry["why"] for entry in manifest["failed"]}
    assert failed.keys() == expected.keys()
    for subject, why in expected.items():
        assert why in failed[subject]
    # Mended files are taken in by the same command.
    for subject in open_raw(raw).subjects[:6]:
        for name in (subject.image, subject.label):
            shutil.copy(raw / name, tmp_path / "raw" / name)
    prepare(tmp_path / "raw", out, **quiet)
    assert len(read_manifest(out)["items"]) == 15
    assert read_manifest(out)["failed"] == []


def test_without_any_readable_subject_it_is_an_error_with_the_first_reason(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    for label in (tmp_path / "raw").rglob("*_label.nii.gz"):
        label.unlink()
    with pytest.raises(DatasetError, match=r"none of the 15 items of fed_ixi .*; IXI\S+: it has no label"):
        prepare_function(tmp_path / "raw", tmp_path / "out", **quiet)


@pytest.mark.parametrize("content", ["", "[1", '{"dataset": "fed_other"}'])
def test_a_manifest_that_is_not_ours_is_refused(prepared, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DatasetError, match=r"manifest\.json (cannot be read|is not of prepared fed_ixi data)"):
        FedIXITiny(data_path=tmp_path)


def test_no_path_says_how_to_get_the_data():
    with pytest.raises(DatasetError, match="needs data, which do not ship") as caught:
        ensure_prepared(None)
    assert "polyclinic dataset mock fed_ixi" in str(caught.value)
