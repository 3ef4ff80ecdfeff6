from __future__ import annotations

import numpy as np
import pytest

from polyclinic.datasets.fed_camelyon16 import prepare
from polyclinic.datasets.fed_camelyon16.encoders import load_encoder
from polyclinic.datasets.fed_camelyon16.tile_corners import read_corners
from polyclinic.datasets.fed_camelyon16.tiling import open_slide
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import DatasetError

TABLE = """slide_name,coords_x,coords_y
tumor_001.tif,100,448
normal_001,0,0
tumor_001.tif,7,3
"""


def ready(source, to, **options):
    return prepare(source, to, weights="random", show_progress=False, workers=1, **options)


def test_tiles_are_read_at_level_1_at_the_corners_of_the_table(slides, tiny_encoder, tmp_path):
    (tmp_path / "tiles.csv").write_text(TABLE)
    folder = Prepared(ready(slides, tmp_path / "to", tiles=tmp_path / "tiles.csv"), dataset="fed_camelyon16")
    assert [item.id for item in folder.items] == ["normal_001", "tumor_001"]
    assert folder.failed == dict.fromkeys(
        ["normal_101", "test_001", "test_002", "test_003", "test_012", "tumor_071"],
        "the table of tiles has none of this slide",
    )
    assert folder.array("tumor_001", "corners").tolist() == [[100, 448], [7, 3]]
    with open_slide(slides / "tumor_001.tif") as slide:
        tiles = [slide.read_region(corner, 1, (224, 224)).convert("RGB") for corner in ((100, 448), (7, 3))]
    expected = load_encoder("resnet50", "random")(np.stack([np.asarray(tile) for tile in tiles]))
    np.testing.assert_allclose(folder.array("tumor_001", "features"), expected, rtol=1e-5, atol=1e-5)
    assert len(folder.array("tumor_001", "tumour_fraction")) == 2
    # Other tiles are another parameter set.
    with pytest.raises(DatasetError, match="tiles"):
        ready(slides, tmp_path / "to")


def test_a_tile_outside_of_the_slide_is_told(slides, tiny_encoder, tmp_path):
    (tmp_path / "tiles.csv").write_text("slide_name,coords_x,coords_y\ntumor_001,9999999,0\n")
    with pytest.raises(DatasetError, match="none of the 8 items"):
        ready(slides, tmp_path / "to", tiles=tmp_path / "tiles.csv")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("slide_name,x,y\na,1,2\n", "coords_x"),
        ("slide_name,coords_x,coords_y\na,1,\n", "whole pixels"),
        ("slide_name,coords_x,coords_y\na,1.5,2\n", "whole pixels"),
        ("slide_name,coords_x,coords_y\na,-1,2\n", "whole pixels"),
        ("slide_name,coords_x,coords_y\n,1,2\n", "name is missing"),
        ("slide_name,coords_x,coords_y\na,one,2\n", "could not convert"),
        ("", "No columns"),
        (None, "No such file"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, text, why):
    if text is not None:
        (tmp_path / "tiles.csv").write_text(text)
    with pytest.raises(DatasetError, match=rf"is no table of tiles: .*{why}"):
        read_corners(tmp_path / "tiles.csv")
