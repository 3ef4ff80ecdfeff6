"""Raw data: where images and tables are found, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest

from polyclinic.datasets.fed_isic2019 import CENTERS, FedIsic2019, Isic2019Raw, mock, prepare
from polyclinic.datasets.fed_isic2019.published import published
from polyclinic.datasets.fed_isic2019.raw import open_raw
from polyclinic.errors import ConfigError, DatasetError

small = {"shorter_side": 36, "show_progress": False}
TRUTH, METADATA, HAM = "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv", "HAM10000_metadata"
IMAGES = "ISIC_2019_Training_Input"


@pytest.fixture
def mine(raw, tmp_path):
    """A copy of the raw data that may be changed."""
    return shutil.copytree(raw, tmp_path / "raw")


def edit(path, change):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


def failed(folder):
    return {entry["id"]: entry["why"] for entry in json.loads((folder / "manifest.json").read_text())["failed"]}


def an_image(folder, center=0):
    return next(p for p in sorted((folder / IMAGES).iterdir()) if published()[p.stem].center == center)


def test_a_zip_gives_the_same_as_its_folder(raw, prepared, tmp_path):
    there = tmp_path / "as_downloaded"
    there.mkdir()
    packed = shutil.make_archive(str(there / IMAGES), "zip", raw, IMAGES)
    for name in (TRUTH, METADATA):
        shutil.copy(raw / name, there)
    expected = Isic2019Raw(data_path=prepared, shorter_side=36)
    for number, source in enumerate((there, packed)):
        folder = prepare(source, tmp_path / str(number), workers=2, **small)
        got = Isic2019Raw(data_path=folder, shorter_side=36)
        assert got.images == expected.images
        assert all((a == b).all() and y == z for (a, y), (b, z) in zip(got, expected, strict=True))
        assert failed(folder) == {}


def test_a_flat_folder_and_a_single_center_will_do(raw, tmp_path):
    for path in (raw / IMAGES).iterdir():
        if published()[path.stem].center == 4:
            (tmp_path / "flat").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "flat")
    shutil.copy(raw / TRUTH, tmp_path / "flat")
    folder = prepare(tmp_path / "flat", tmp_path / "out", **small)
    # The other centers' rows in the table are no failure: their images are somebody else's.
    assert failed(folder) == {}
    assert len(FedIsic2019(center="MSK", data_path=folder, shorter_side=36)) == 4
    with pytest.raises(DatasetError, match="holds no train image of BCN"):
        FedIsic2019(center="BCN", data_path=folder, shorter_side=36)


def test_ham10000_alone_needs_its_own_table_only(raw, mine, tmp_path):
    for path in (mine / IMAGES).iterdir():
        if not CENTERS[published()[path.stem].center].startswith("HAM"):
            path.unlink()
    (mine / METADATA).unlink()
    truth = Isic2019Raw(data_path=prepare(mine, tmp_path / "with_truth", **small), shorter_side=36)
    (mine / TRUTH).unlink()
    folder = prepare(mine, tmp_path / "without", **small)
    ham = Isic2019Raw(data_path=folder, shorter_side=36)
    expected = dict(zip(truth.images, truth.targets.tolist(), strict=True))
    assert dict(zip(ham.images, ham.targets.tolist(), strict=True)) == {
        name: target for name, target in expected.items() if target not in (3, 7)
    }
    missing = failed(folder)
    assert set(missing) == {name for name, target in expected.items() if target in (3, 7)}
    assert missing
    assert all("'akiec', which may be AK or SCC" in why for why in missing.values())


def test_one_bad_image_does_not_stop_the_others(mine, tmp_path):
    images = sorted((mine / IMAGES).iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-200])
    images[1].write_bytes(b"<html>404</html>")
    images[2].unlink()
    edit(mine / TRUTH, lambda rows: [row for row in rows if row[0] != images[3].stem])
    shutil.copy(images[4], mine / IMAGES / "ISIC_9999999.jpg")
    folder = prepare(mine, tmp_path / "out", **small)
    assert failed(folder) == {
        images[0].stem: "its JPEG file is damaged: it is cut off",
        images[1].stem: "its JPEG file is damaged: it is no readable image",
        images[2].stem: f"a table names it, but there is no file {images[2].name}",
        images[3].stem: "no table has a row with its diagnosis",
        "ISIC_9999999": "it is not among the 23,247 images of Fed-ISIC2019",
    }
    assert len(Isic2019Raw(data_path=folder, shorter_side=36)) == 30 - 4


def test_what_was_mended_is_prepared_when_the_command_is_repeated(raw, mine, tmp_path):
    path = an_image(mine)
    content = path.read_bytes()
    path.write_bytes(content[:300])
    folder = prepare(mine, tmp_path / "out", **small)
    assert list(failed(folder)) == [path.stem]
    path.write_bytes(content)
    assert failed(prepare(mine, folder, **small)) == {}


def test_images_that_flamby_drops_are_dropped_without_a_word(mine, tmp_path):
    shutil.copy(an_image(mine), mine / IMAGES / "ISIC_0000001.jpg")
    edit(mine / METADATA, lambda rows: [*rows, ["ISIC_0000001", "", "", "", ""]])
    edit(mine / TRUTH, lambda rows: [*rows, ["ISIC_0000001", "0.0", "1.0", *["0.0"] * 7]])
    folder = prepare(mine, tmp_path / "out", **small)
    assert failed(folder) == {}
    assert "ISIC_0000001" not in Isic2019Raw(data_path=folder, shorter_side=36).images


def test_an_image_of_another_center_than_the_tables_say_is_left_out(mine, tmp_path):
    path = an_image(mine, center=0)
    edit(mine / METADATA, lambda rows: [[*r[:3], "MSK4000001", r[4]] if r[0] == path.stem else r for r in rows])
    folder = prepare(mine, tmp_path / "out", **small)
    (why,) = failed(folder).values()
    assert "say that it is of MSK, the list of Fed-ISIC2019 that it is of BCN" in why


def test_a_black_image_is_prepared(mine, tmp_path):
    from PIL import Image

    path = an_image(mine)
    Image.fromarray(np.zeros((36, 48, 3), dtype=np.uint8)).save(path)
    for compatible in (False, True):
        folder = prepare(mine, tmp_path / f"out{compatible}", flamby_compatible=compatible, **small)
        data = Isic2019Raw(data_path=folder, shorter_side=36, flamby_compatible=compatible)
        assert (data[data.images.index(path.stem)][0] == 0).all()


def test_an_image_that_is_there_twice_is_refused(mine):
    path = an_image(mine)
    (mine / "copy").mkdir()
    shutil.copy(path, mine / "copy")
    with pytest.raises(DatasetError, match=f"image {path.stem} is there twice.*copy"):
        open_raw(mine)


def test_an_image_with_two_diagnoses_is_refused(mine):
    edit(mine / TRUTH, lambda rows: [*rows, [rows[1][0], *rows[1][2:], rows[1][1]]])
    with pytest.raises(DatasetError, match=r"names image ISIC_.* again, with another diagnosis"):
        open_raw(mine)


@pytest.mark.parametrize(
    ("row", "number"), [(["0.0"] * 9, 0), (["1.0", "1.0", *["0.0"] * 7], 2), (["yes", *["0.0"] * 8], 0)]
)
def test_a_row_without_exactly_one_diagnosis_is_refused(mine, row, number):
    edit(mine / TRUTH, lambda rows: [rows[0], [rows[1][0], *row], *rows[2:]])
    with pytest.raises(DatasetError, match=f"gives {number} diagnoses for image ISIC_"):
        open_raw(mine)


def test_a_table_that_is_no_text_is_refused(mine):
    (mine / TRUTH).write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(DatasetError, match="cannot be read as a table"):
        open_raw(mine)


def test_hidden_shadows_of_files_are_left_alone(mine):
    path = an_image(mine)
    (path.parent / f"._{path.name}").write_bytes(b"shadow")
    (mine / f"._{TRUTH}").write_bytes(b"\xff\xfe shadow")
    assert len(open_raw(mine).files) == 30


def test_tables_of_others_are_left_alone(mine):
    (mine / "notes.csv").write_text("a,b\n1,2\n")
    assert len(open_raw(mine).targets) == 30


def test_no_tables_no_images_or_a_broken_zip_is_said_so(mine, tmp_path):
    for name in (TRUTH, HAM):
        (mine / name).unlink()
    with pytest.raises(DatasetError, match=r"holds no table of diagnoses.*\n.*ISIC_2019_Training_GroundTruth\.csv"):
        open_raw(mine)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        open_raw(tmp_path / "empty")
    (tmp_path / "empty" / "images.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DatasetError, match=r"images\.zip is not a whole zip"):
        open_raw(tmp_path / "empty")


def test_damage_in_a_zip_leaves_one_image_out(raw, tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for image in sorted((raw / IMAGES).iterdir()):
            archive.write(image, f"{IMAGES}/{image.name}")
        middle = archive.infolist()[7]
    content = bytearray(path.read_bytes())
    content[middle.header_offset + 300] ^= 0xFF
    path.write_bytes(content)
    shutil.copy(raw / TRUTH, tmp_path)
    folder = prepare(path, tmp_path / "out", **small)
    (why,) = failed(folder).values()
    assert "images.zip" in why
    assert "cannot be read" in why


def test_real_images_have_their_true_centers_folds_and_classes(shared, tmp_path):
    source = shared / "data" / "ham10000_jpg"
    (tmp_path / "raw").mkdir()
    for path in (source / "small_128x96").iterdir():
        shutil.copy(path, tmp_path / "raw")
    shutil.copy(source / "metadata.csv", tmp_path / "raw" / "HAM10000_metadata")
    folder = prepare(tmp_path / "raw", tmp_path / "out", **small)
    data = Isic2019Raw(data_path=folder, shorter_side=36)
    with (source / "metadata.csv").open() as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    known = {name: row for name, row in rows.items() if row["dx"] != "akiec"}
    assert set(data.images) == set(known)
    for name, center, fold, target in zip(data.images, data.centers, data.sets, data.targets, strict=True):
        row = rows[name]
        assert (row["flamby_center"], row["flamby_fold"], row["flamby_target"]) == (str(center), fold, str(target))
    assert set(failed(folder)) == set(rows) - set(known)


def test_made_up_data_are_the_same_for_the_same_seed(raw, tmp_path):
    again = mock(tmp_path / "again", 5, size=(48, 36))
    for path in raw.rglob("*"):
        if path.is_file():
            assert (again / path.relative_to(raw)).read_bytes() == path.read_bytes()
    other = mock(tmp_path / "other", 5, seed=1, size=(48, 36))
    assert (other / TRUTH).read_bytes() != (raw / TRUTH).read_bytes()


def test_made_up_tables_have_the_publishers_columns_and_no_persons(raw):
    columns = {
        TRUTH: "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK",
        METADATA: "image,age_approx,anatom_site_general,lesion_id,sex",
        HAM: "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset",
    }
    for name, expected in columns.items():
        assert (raw / name).read_text().splitlines()[0] == expected
    with (raw / METADATA).open() as file:
        assert {(row["age_approx"], row["sex"]) for row in csv.DictReader(file)} == {("", "")}


@pytest.mark.parametrize("number", [1, 440])
def test_a_number_of_made_up_patients_that_cannot_be_is_refused(number, tmp_path):
    with pytest.raises(ConfigError, match=f"cannot make {number} patients per center"):
        mock(tmp_path, number)
