import os

import numpy as np
import pytest
import torch
from PIL import Image

from polyclinic.errors import DatasetChanged, DatasetError
from polyclinic.node.dataset_kinds import get_kind
from polyclinic.node.dataset_kinds.image_files import UnreadableImage, read_image, resized

IMAGES = get_kind("images")


def save(path, size=(6, 8), channels=3, value=None, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if channels == 1 else (*size, channels)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    for name in ("nevus", "melanoma"):
        for i in range(20):
            save(tmp_path / name / f"p{i // 2}_{i}.png", seed=i)
    return tmp_path


def names(given):
    """The files of train and of test."""
    return [{f.relative_to(given.path).as_posix() for f in IMAGES.load(given, train=t).files} for t in (True, False)]


def test_what_is_found_and_loaded(folder):
    given = IMAGES.Params(path=folder)
    found = IMAGES.inspect(given)
    assert found.num_train + found.num_test == 40
    assert (found.classes, found.shape, found.features) == (("melanoma", "nevus"), (3, 6, 8), ())
    train = IMAGES.load(given, train=True)
    x, y = train[len(train) - 1]
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (3, 6, 8), torch.int64, ())
    file = train.files[-1]
    assert found.classes[y] == file.parent.name
    np.testing.assert_allclose(x.numpy(), np.asarray(Image.open(file)).transpose(2, 0, 1) / 255, atol=1e-7)
    assert len(torch.utils.data.default_collate([train[0], train[1]])) == 2
    for side in names(given):
        assert {name.partition("/")[0] for name in side} == {"melanoma", "nevus"}


def test_files_that_are_added_move_no_file(folder):
    given = IMAGES.Params(path=folder)
    train, test = names(given)
    for i in range(30):
        save(folder / "nevus" / f"a{i}.png")
    train_more, test_more = names(given)
    assert train < train_more
    assert test < test_more


def test_all_images_of_a_patient_are_on_one_side(folder):
    train, test = names(IMAGES.Params(path=folder, patient_pattern=r"^(p\d+)_"))
    patients = [{name.partition("/")[2].partition("_")[0] for name in side} for side in (train, test)]
    assert patients[0]
    assert patients[1]
    assert not patients[0] & patients[1]


def test_train_and_test_folders_are_the_split(tmp_path):
    for side, count in (("train", 5), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                save(tmp_path / side / name / f"{side[:2]}_{i}.png")
    given = IMAGES.Params(path=tmp_path)
    found = IMAGES.inspect(given)
    assert (found.num_train, found.num_test, found.classes) == (10, 4, ("a", "b"))
    assert all(name.startswith("test/") for name in names(given)[1])
    assert IMAGES.inspect(IMAGES.Params(path=tmp_path, patient_pattern="^(.*)_")).num_test == 4
    with pytest.raises(DatasetError, match="2 patients have images in both train and test"):
        IMAGES.inspect(IMAGES.Params(path=tmp_path, patient_pattern=r"_(\d)"))


def test_sizes_must_agree_or_be_chosen(folder):
    save(folder / "nevus" / "large.png", size=(12, 16))
    with pytest.raises(DatasetError, match=r"2 sizes; the most common, 6x8 .* has 40 of 41") as caught:
        IMAGES.inspect(IMAGES.Params(path=folder))
    assert "--size 6x8" in caught.value.to_do
    given = IMAGES.Params(path=folder, size="4x5")
    assert IMAGES.inspect(given).shape == (3, 4, 5)
    assert {x.shape for train in (True, False) for x, _ in IMAGES.load(given, train=train)} == {(3, 4, 5)}


def test_channels_are_the_first_images_or_chosen(folder):
    assert IMAGES.load(IMAGES.Params(path=folder, channels=1), train=True)[0][0].shape == (1, 6, 8)
    save(folder / "melanoma" / "a.png", channels=1)  # the first by name
    assert IMAGES.inspect(IMAGES.Params(path=folder)).shape == (1, 6, 8)
    grey = IMAGES.load(IMAGES.Params(path=folder, channels=3), train=True)
    x, _ = grey[[file.name for file in grey.files].index("a.png")]
    assert torch.equal(x[0], x[2])


def test_colour_becomes_grey_as_pillow_does_it(tmp_path):
    from polyclinic.node.dataset_kinds.image_files import with_channels

    save(tmp_path / "c.png")
    ours = with_channels(read_image(tmp_path / "c.png"), 1)[:, :, 0]
    np.testing.assert_allclose(ours * 255, np.asarray(Image.open(tmp_path / "c.png").convert("L")), atol=1)


def test_declared_classes_fix_the_index(folder):
    given = IMAGES.Params(path=folder, classes="nevus,melanoma,other")
    found = IMAGES.inspect(given)
    assert found.classes == ("nevus", "melanoma", "other")
    assert "There is no image of the class 'other'." in found.notes
    train = IMAGES.load(given, train=True)
    assert all(found.classes[y] == f.parent.name for f, y in zip(train.files, train.labels, strict=True))
    with pytest.raises(DatasetError, match=r"'melanoma' .* is not among the declared classes"):
        IMAGES.inspect(IMAGES.Params(path=folder, classes="nevus,mela"))


def test_pixels_of_every_depth_are_in_zero_to_one(tmp_path):
    deep = np.array([[0, 65535], [257, 1000]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    np.save(tmp_path / "deep.npy", deep)
    for name in ("deep.png", "deep.tif", "deep.npy"):
        np.testing.assert_allclose(read_image(tmp_path / name)[:, :, 0], deep / 65535, rtol=1e-6)
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert read_image(tmp_path / "bit.png").ravel().tolist() == [0, 1]
    Image.fromarray(np.array([[[9, 9, 9, 0]]], dtype=np.uint8)).save(tmp_path / "rgba.png")
    assert read_image(tmp_path / "rgba.png").shape == (1, 1, 3)
    np.save(tmp_path / "f.npy", np.array([[0.5, 1.0]]))
    assert read_image(tmp_path / "f.npy").ravel().tolist() == [0.5, 1]


def test_an_orientation_mark_is_obeyed(tmp_path):
    image = Image.new("RGB", (8, 6))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (8, 6, 3)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((2, 2), np.nan), "nan or infinite"),
        (np.full((2, 2), 2.0), r"outside \[0, 1\]"),
        (np.zeros((2, 2), dtype=np.int64), "neither of 8 or 16 bits"),
        (np.zeros((2, 2, 4), dtype=np.uint8), "not of shape"),
        (np.array([None]), "ValueError"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, pixels, reason):
    np.save(tmp_path / "x.npy", pixels)
    with pytest.raises(UnreadableImage, match=reason):
        read_image(tmp_path / "x.npy")


def test_resizing_keeps_a_flat_image_and_the_mean():
    flat = np.full((9, 7, 3), 0.3, dtype=np.float32)
    np.testing.assert_allclose(resized(flat, (4, 5)), 0.3, rtol=1e-6)
    noisy = np.random.default_rng(0).random((64, 64, 1), dtype=np.float32)
    assert abs(resized(noisy, (8, 8)).mean() - noisy.mean()) < 0.02
    assert resized(noisy, (8, 8)).std() < 0.1  # averages, does not pick


def test_broken_images_are_counted_and_three_are_named(folder):
    for i in range(5):
        (folder / "nevus" / f"x{i}.jpg").write_bytes(b"no image")
    pages = [Image.new("L", (8, 6))] * 2
    pages[0].save(folder / "nevus" / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DatasetError, match=r"6 of 46 images cannot be used: pages.tif \(several pages .* 3 more"):
        IMAGES.inspect(IMAGES.Params(path=folder))


def test_folders_that_hold_no_dataset(tmp_path):
    def refused(what, **given):
        with pytest.raises(DatasetError, match=what) as caught:
            IMAGES.inspect(IMAGES.Params(**{"path": tmp_path} | given))
        assert caught.value.to_do

    refused("there is no folder", path=tmp_path / "none")
    refused("has no folders in it")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    refused("too few images in .*: 0 in all")
    save(tmp_path / "a" / "p1_0.png")
    save(tmp_path / "a" / "p1_1.png")
    refused("all 2 images .* are of one class")
    one_class = IMAGES.inspect(IMAGES.Params(path=tmp_path, allow_one_class=True))
    assert (one_class.num_train, one_class.num_test) == (1, 1)
    assert any("1 files were left out" in note for note in one_class.notes)
    refused("all 2 images are of one patient", allow_one_class=True, patient_pattern="^(p1)")
    refused("no patient in the names of 2 of 2", allow_one_class=True, patient_pattern="^(q)")


def test_changed_and_vanished(folder):
    given = IMAGES.Params(path=folder)
    found = IMAGES.inspect(given)
    first = folder / "nevus" / "p0_0.png"
    os.utime(first)
    assert IMAGES.changed(given, found.fingerprint) is None
    save(first, seed=99)
    assert "changed" in IMAGES.changed(given, found.fingerprint)
    first.unlink()
    assert IMAGES.changed(given, found.fingerprint).startswith("There were 40 files")
    assert set(IMAGES.paths(given)) == {folder, folder / "nevus", folder / "melanoma"}
    folder.rename(folder.with_name("elsewhere"))
    assert "vanished" in IMAGES.changed(given, found.fingerprint)
    assert IMAGES.paths(given) == (folder,)


def test_an_image_that_vanishes_later_is_told_by_number(folder):
    train = IMAGES.load(IMAGES.Params(path=folder), train=True)
    train.files[3].unlink()
    with pytest.raises(DatasetChanged, match=f"image 3 of {len(train)} can no longer be read: vanished") as caught:
        train[3]
    assert train.files[3].name not in str(caught.value)
