from __future__ import annotations

import numpy as np
import pytest

from polyclinic.datasets.fed_camelyon16.made_up import write_slide
from polyclinic.datasets.fed_camelyon16.tiling import (
    corners,
    grid_of,
    open_slide,
    read_tile,
    shows_tissue,
    tiles,
    tissue_mask,
)
from polyclinic.errors import DatasetError

WHITE, PINK = (244, 242, 244), (200, 130, 180)


@pytest.fixture
def picture():
    """Level 0 of a slide, each pixel with a colour that tells its place."""
    y, x = np.mgrid[:512, :640]
    return np.stack([x // 4, y // 4, (x + y) % 256], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mpp", "levels", "expected"),
    [
        (0.25, 3, (1, 224, 448)),
        (0.226, 3, (1, 224, 448)),  # UMC Utrecht
        (0.243, 3, (1, 224, 448)),  # Radboud UMC
        (0.5, 3, (0, 224, 224)),
        (0.25, 1, (0, 448, 448)),  # no level of 0.5: twice the pixels
        (0.125, 2, (1, 448, 896)),
        (None, 3, (1, 224, 448)),
        (None, 1, (0, 224, 224)),
    ],
)
def test_tiles_have_half_a_micrometre_a_pixel(tmp_path, picture, mpp, levels, expected):
    write_slide(tmp_path / "a.tif", picture, mpp, levels)
    with open_slide(tmp_path / "a.tif") as slide:
        grid = grid_of(slide)
        assert (grid.level, grid.side, grid.step) == expected
        assert read_tile(slide, grid, 0, 0).shape == (224, 224, 3)


def test_a_slide_that_is_too_coarse_is_refused(tmp_path, picture):
    write_slide(tmp_path / "a.tif", picture, 1.0)
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(DatasetError, match="finest level has 1 µm a pixel"):
        grid_of(slide)


def test_a_tile_is_the_pixels_at_its_corner(tmp_path, picture):
    write_slide(tmp_path / "a.tif", picture, 0.5)
    with open_slide(tmp_path / "a.tif") as slide:
        tile = read_tile(slide, grid_of(slide), 100, 200)
        np.testing.assert_array_equal(tile, picture[200:424, 100:324])
        outside = read_tile(slide, grid_of(slide), 600, 0)
        assert (outside[:, 40:] == 255).all()


def test_tissue_is_found_and_dirt_and_rim_are_not():
    thumbnail = np.full((300, 400, 3), WHITE, dtype=np.uint8)
    thumbnail[100:200, 150:250] = PINK
    thumbnail[40:45, 40:45] = PINK  # 25 pixels, 45 after dilation
    thumbnail[:8] = 0
    mask = tissue_mask(thumbnail)
    expected = np.zeros_like(mask)
    expected[100:200, 150:250] = True
    # Dilation by one pixel, without the corners.
    assert mask.sum() == 100 * 100 + 4 * 100
    assert (mask >= expected).all()


def test_a_thumbnail_of_one_colour_has_no_tissue():
    assert not tissue_mask(np.full((50, 60, 3), WHITE, dtype=np.uint8)).any()


def test_the_grid_starts_at_each_piece_and_keeps_what_is_mostly_tissue():
    mask = np.zeros((100, 200), dtype=bool)
    mask[10:60, 20:75] = True  # 2 x 2 places of 25, and a rest of 5
    mask[60:85, 150:160] = True  # too narrow
    mask[35:60, 45:50] = False  # of a place of 25 x 25, 20 %: no longer more than 80 %
    found = corners(mask, (10.0, 10.0), 250, (2000, 1000))
    assert found.tolist() == [[200, 100], [450, 100], [200, 350]]


def test_no_tile_goes_beyond_the_slide():
    mask = np.ones((30, 30), dtype=bool)
    assert corners(mask, (10.0, 10.0), 200, (300, 300)).tolist() == [[0, 0]]
    assert corners(mask, (10.0, 10.0), 400, (300, 300)).shape == (0, 2)


def test_what_shows_tissue():
    rng = np.random.default_rng(0)
    cells = np.where(rng.random((224, 224, 1)) < 0.4, 90, 200) * np.ones(3)
    assert shows_tissue(cells.astype(np.uint8))
    assert not shows_tissue(np.full((224, 224, 3), 244, dtype=np.uint8))  # almost white
    assert not shows_tissue(np.full((224, 224, 3), 120, dtype=np.uint8))  # of one colour
    edge = np.full((224, 224, 3), 244, dtype=np.uint8)
    edge[:, : 224 // 2] = PINK
    assert not shows_tissue(edge)
    edge[:, : int(224 * 0.65)] = PINK
    assert shows_tissue(edge)


def test_the_short_ways_of_the_tissue_test_change_nothing():
    from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter
    from skimage.color import rgb2gray
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk

    rng = np.random.default_rng(1)
    answers = set()
    for share in np.linspace(0.05, 0.7, 14):
        noise = gaussian_filter(rng.standard_normal((224, 224)), rng.uniform(0, 6))
        dark = noise < np.quantile(noise, share)
        tile = (np.where(dark[..., None], 80, 200) + rng.integers(0, 20, (224, 224, 3))).astype(np.uint8)
        grey = rgb2gray(tile)
        whole = binary_fill_holes(binary_dilation(grey < threshold_otsu(grey), disk(2))).mean() > 0.6
        assert shows_tissue(tile) == whole
        answers.add(bool(whole))
    assert answers == {True, False}


def test_tiles_of_real_slides(shared):
    for name, level, at_least in (("CMU-1-Small-Region.svs", 0, 20), ("TCGA-CR-7395-01A-01-TS1.svs", 1, 20)):
        with open_slide(shared / "data" / "wsi" / name) as slide:
            grid = grid_of(slide)
            found = list(tiles(slide, grid))
            assert grid.level == level
            assert at_least <= len(found) <= 60
            width, height = slide.dimensions
        places = np.array([corner for corner, _ in found])
        assert (places >= 0).all()
        assert (places + grid.step <= (width, height)).all()
        # Tiles of one grid touch and do not overlap.
        apart = np.abs(places[:, None] - places[None]).max(axis=2)[~np.eye(len(places), dtype=bool)]
        assert apart.min() == grid.step
        # H&E: less green than red and blue.
        colour = np.mean([tile.reshape(-1, 3).mean(axis=0) for _, tile in found], axis=0)
        assert colour[1] < min(colour[0], colour[2])


def test_bad_files_are_refused(tmp_path, shared):
    (tmp_path / "text.tif").write_text("no slide")
    with (
        pytest.raises(DatasetError, match=r"text\.tif is no slide that OpenSlide can read"),
        open_slide(tmp_path / "text.tif"),
    ):
        pass
    content = (shared / "data" / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(content[: len(content) // 2])
    with (
        pytest.raises(DatasetError, match=r"cut\.svs (is damaged|is no slide)"),
        open_slide(tmp_path / "cut.svs") as slide,
    ):
        list(tiles(slide, grid_of(slide)))
