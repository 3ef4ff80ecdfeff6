from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from polyclinic.datasets.fed_kits19 import FedKits19, ensure_prepared, prepare
from polyclinic.datasets.fed_kits19.cases import find_cases
from polyclinic.datasets.fed_kits19.plan import PLAN, Intensity
from polyclinic.datasets.fed_kits19.prepare import class_places, intensity_of, prepare_case
from polyclinic.datasets.fed_kits19.resample import new_shape, normalise, resample_image, separate_axis
from polyclinic.datasets.fed_kits19.volume import read_case
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import ConfigError, DatasetError

quiet = {"show_progress": False}
FIRST_TRAIN, FIRST_TEST = "case_00021", "case_00181"  # of center 0


def digests(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return {item["id"]: {k: a["sha256"] for k, a in item["arrays"].items()} for item in manifest["items"]}


def without(raw, to, *names):
    shutil.copytree(raw, to)
    for name in names:
        shutil.rmtree(to / "data" / name)
    return to


def brighten(folder, amount):
    path = folder / "imaging.nii.gz"
    file = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image((np.asarray(file.dataobj) + amount).astype(np.int16), file.affine), path)


def test_what_is_prepared_is_the_described_volume(raw, prepared):
    data = Prepared(prepared, dataset="fed_kits19")
    assert len(data.items) == 12
    assert data.failed == {}
    for case, item in zip(find_cases(raw), data.items, strict=True):
        image, label, spacing = read_case(case)
        assert item.facts["spacing"] == list(spacing)
        assert (item.facts["center"], item.facts["split"]) == (case.center, case.split)
        shape = new_shape(image.shape, spacing, (2.82, 1.42, 1.42))
        small, places = data.array(item.id, "image"), data.array(item.id, "places")
        assert (small.shape, small.dtype) == (shape, np.float16)
        expected = normalise(resample_image(image, shape, separate_axis(spacing, PLAN.spacing)), PLAN.intensity)
        # Half precision: 0.1 HU.
        assert np.abs(small - expected).max() * 76.9 < 0.1
        kept = data.array(item.id, "label")
        assert (kept.shape, kept.dtype) == (shape, np.uint8)
        assert (kept > 0).mean() == pytest.approx((label > 0).mean(), rel=0.15)
        kidney = item.facts["places"][0]
        assert set(kept[tuple(places[:kidney].T)]) == {1}
        assert set(kept[tuple(places[kidney:].T)]) == {2}
        assert len(places) == sum(item.facts["places"])


def test_places_are_chosen_by_nnunets_rule():
    label = np.zeros((40, 110, 110), dtype=np.uint8)
    label[:30, :100, :100] = 1
    label[35, 5:8, 5:8] = 2
    kidney, tumour = class_places(label)
    assert len(kidney) == 10_000
    assert len(np.unique(kidney, axis=0)) == 10_000
    assert sorted(map(tuple, tumour.tolist())) == [(35, y, x) for y in range(5, 8) for x in range(5, 8)]
    rng = np.random.RandomState(1234)
    voxels = np.argwhere(label == 1)
    np.testing.assert_array_equal(kidney, voxels[rng.choice(300_000, 10_000, replace=False)])
    assert [len(part) for part in class_places(np.zeros((4, 4, 4), dtype=np.uint8))] == [0, 0]
    # One per cent, where that is more than 10,000.
    assert len(class_places(np.ones((110, 100, 100), dtype=np.uint8))[0]) == 11_000


def test_statistics_are_those_of_every_tenth_foreground_voxel(raw):
    cases = [case for case in find_cases(raw) if case.split == "train"][:2]
    values = []
    for case in cases:
        image, label, _ = read_case(case)
        values += image[label > 0].tolist()[::10]
    found = intensity_of(cases)
    expected = (*np.percentile(values, (0.5, 99.5)), np.mean(values), np.std(values))
    np.testing.assert_allclose((found.low, found.high, found.mean, found.sd), expected, rtol=1e-6)


def test_by_default_intensities_are_the_plans_and_no_case_changes_anothers_arrays(raw, prepared, tmp_path):
    parameters = json.loads((prepared / "manifest.json").read_text())["parameters"]
    assert parameters["intensity"] == {"low": -79.0, "high": 304.0, "mean": 101.0, "sd": 76.9}
    one = without(raw, tmp_path / "raw", *[case.name for case in find_cases(raw) if case.name != FIRST_TRAIN])
    alone = digests(prepare(one, tmp_path / "out", **quiet))
    assert alone == {FIRST_TRAIN: digests(prepared)[FIRST_TRAIN]}


def test_own_statistics_see_training_cases_only_and_compatible_ones_all(raw, tmp_path):
    keep = {FIRST_TRAIN, FIRST_TEST}
    data = without(raw, tmp_path / "raw", *[case.name for case in find_cases(raw) if case.name not in keep])

    def intensity(name, **options):
        folder = prepare(data, tmp_path / name, **options, **quiet)
        assert ensure_prepared(folder, **options) == folder
        return Intensity(**json.loads((folder / "manifest.json").read_text())["parameters"]["intensity"])

    train = [case for case in find_cases(data) if case.split == "train"]
    own, everybody = intensity("own", statistics="own"), intensity("all", flamby_compatible=True)
    assert own == intensity_of(train) != everybody == intensity_of(find_cases(data))
    brighten(data / "data" / FIRST_TEST, 200)
    assert intensity("own2", statistics="own") == own
    assert intensity("all2", flamby_compatible=True).mean > everybody.mean + 10
    with pytest.raises(ConfigError, match="'plan' or 'own'"):
        prepare(data, tmp_path / "x", statistics="mine")


def test_two_ways_are_not_mixed(raw, prepared):
    for other in ({"flamby_compatible": True}, {"statistics": "own"}):
        with pytest.raises(DatasetError, match=r"in another way \(statistics"):
            ensure_prepared(prepared, **other)
    with pytest.raises(DatasetError, match="in another way"):
        prepare(raw, prepared, flamby_compatible=True, **quiet)


def test_statistics_are_measured_once(raw, tmp_path, monkeypatch):
    module = sys.modules["polyclinic.datasets.fed_kits19.prepare"]
    folder = ensure_prepared(raw, to=tmp_path / "out", flamby_compatible=True, **quiet)
    monkeypatch.setattr(module, "intensity_of", None)
    assert ensure_prepared(raw, to=tmp_path / "out", flamby_compatible=True, **quiet) == folder


def test_a_bad_case_is_listed_and_the_others_are_prepared(raw, tmp_path):
    data = without(raw, tmp_path / "raw")
    (data / "data" / FIRST_TRAIN / "segmentation.nii.gz").unlink()
    folder = prepare(data, tmp_path / "out", **quiet)
    there = Prepared(folder, dataset="fed_kits19")
    assert len(there.items) == 11
    assert there.failed == {FIRST_TRAIN: "it has no segmentation.nii.gz"}
    with pytest.raises(DatasetError, match="holds no train case of site 7"):
        FedKits19(center=0, data_path=folder)
    # A case that is mended is made when the command is repeated.
    shutil.copy(raw / "data" / FIRST_TRAIN / "segmentation.nii.gz", data / "data" / FIRST_TRAIN)
    prepare(data, tmp_path / "out", **quiet)
    assert Prepared(folder).failed == {}


def test_a_clone_without_images_says_so(raw, tmp_path):
    data = without(raw, tmp_path / "raw")
    for path in data.rglob("imaging.nii.gz"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"none of the 12 items .* a clone of kits19 brings the labels alone"):
        prepare(data, tmp_path / "out", **quiet)
    with pytest.raises(DatasetError, match="intensities of 6 cases cannot be measured"):
        prepare(data, tmp_path / "own", statistics="own", **quiet)


KILLED = """
import os, signal, sys
from polyclinic.datasets.fed_kits19 import prepare as function
module = sys.modules["polyclinic.datasets.fed_kits19.prepare"]
real, done = module.prepare_case, []
def prepare_case(*args):
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(args)
    return real(*args)
module.prepare_case = prepare_case
function(sys.argv[1], sys.argv[2], workers=1, show_progress=False)
"""


def test_a_preparation_that_was_killed_goes_on_where_it_was(raw, prepared, tmp_path, monkeypatch):
    out = tmp_path / "out"
    process = subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    module = sys.modules["polyclinic.datasets.fed_kits19.prepare"]
    real, again = module.prepare_case, []
    monkeypatch.setattr(module, "prepare_case", lambda case, *rest: again.append(case) or real(case, *rest))
    prepare(raw, out, **quiet)
    assert 9 <= len(again) <= 10
    assert digests(out) == digests(prepared)


def test_raw_data_are_prepared_on_the_way(raw, prepared, tmp_path):
    keep = {FIRST_TRAIN, FIRST_TEST}
    data = without(raw, tmp_path / "raw", *[case.name for case in find_cases(raw) if case.name not in keep])
    assert FedKits19(data_path=data).images == [FIRST_TRAIN]
    assert ensure_prepared(data, **quiet) == tmp_path / "raw-prepared"
    assert digests(tmp_path / "raw-prepared")[FIRST_TEST] == digests(prepared)[FIRST_TEST]


def test_without_data_it_says_how_to_get_them():
    with pytest.raises(DatasetError, match="needs data") as caught:
        ensure_prepared(None)
    assert "polyclinic dataset download fed_kits19" in str(caught.value)


def test_a_real_ct_is_prepared(shared, tmp_path):
    """Not of KiTS19, whose images are not at hand: a CT of 3 mm with its kidneys, put in a case's place."""
    folder = tmp_path / FIRST_TRAIN
    folder.mkdir()
    shutil.copyfile(shared / "data" / "ct_totalseg" / "imaging.nii.gz", folder / "imaging.nii.gz")
    shutil.copyfile(shared / "data" / "ct_totalseg" / "kidneys.nii.gz", folder / "segmentation.nii.gz")
    (case,) = find_cases(tmp_path)
    arrays, facts = prepare_case(case, PLAN.intensity)
    assert facts["spacing"] == [3.0, 3.0, 3.0]
    assert arrays["image"].shape == new_shape((30, 101, 122), (3, 3, 3), PLAN.spacing) == (32, 213, 258)
    # The volume of the kidneys, in ml, and their intensity in a CT: soft tissue, above water, far below bone.
    image, label, _ = read_case(case)
    before, after = label.sum() * 27e-3, arrays["label"].sum() * np.prod(PLAN.spacing) / 1000
    assert after == pytest.approx(before, rel=0.02)
    hounsfield = arrays["image"][arrays["label"] == 1].astype(float).mean() * 76.9 + 101
    assert hounsfield == pytest.approx(np.clip(image[label == 1], -79, 304).mean(), abs=10)
    assert facts["places"][1] == 0  # no tumour


@pytest.mark.parametrize("name", ["case_00038", "case_00039", "case_00051"])
def test_real_labels_keep_the_volume_of_kidney_and_tumour(shared, name):
    from polyclinic.datasets.fed_kits19.resample import resample_label
    from polyclinic.datasets.fed_kits19.volume import read_volume

    path = shared / "data" / "kits19" / "segmentation" / name / "segmentation.nii.gz"
    label, spacing = read_volume(path, np.float32)
    label = label.astype(np.uint8)
    occupied = np.flatnonzero((label > 0).any(axis=(1, 2)))
    label = label[occupied[0] : occupied[-1] + 1, 128:384]  # kidneys; the rest of the body would take long
    shape = new_shape(label.shape, spacing, PLAN.spacing)
    small = resample_label(label, shape, separate_axis(spacing, PLAN.spacing))
    true_voxel = np.prod(np.array(label.shape) / shape)
    for value in (1, 2):
        assert (small == value).sum() * true_voxel == pytest.approx((label == value).sum(), rel=0.04)
