from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from polyclinic.datasets.fed_camelyon16.annotations import (
    Annotations,
    find_annotations,
    read_annotations,
    tumour_fraction,
)
from polyclinic.errors import DatasetError

XML = """<?xml version="1.0"?>
<ASAP_Annotations><Annotations>
 <Annotation Name="a" Type="Polygon" PartOfGroup="_0"><Coordinates>
  <Coordinate Order="1" X="100.5" Y="0" /><Coordinate Order="0" X="0" Y="0" /><Coordinate Order="2" X="100.5" Y="80" />
 </Coordinates></Annotation>
 <Annotation Name="b" Type="Polygon" PartOfGroup="_2"><Coordinates>
  <Coordinate Order="0" X="1" Y="1" /><Coordinate Order="1" X="2" Y="1" /><Coordinate Order="2" X="2" Y="2" />
 </Coordinates></Annotation>
 <Annotation Name="stroke" Type="Polygon" PartOfGroup="Tumor"><Coordinates>
  <Coordinate Order="0" X="1" Y="1" /></Coordinates></Annotation>
</Annotations></ASAP_Annotations>
"""


def square(left, top, side):
    return np.array([[left, top], [left + side, top], [left + side, top + side], [left, top + side]], dtype=float)


def test_xml_of_asap(tmp_path):
    path = tmp_path / "tumor_001.xml"
    path.write_text(XML)
    read = read_annotations(path)
    assert [polygon.tolist() for polygon in read.tumour] == [[[0, 0], [100.5, 0], [100.5, 80]]]
    assert [polygon.tolist() for polygon in read.holes] == [[[1, 1], [2, 1], [2, 2]]]


def test_shares_of_tiles_and_a_hole():
    drawn = Annotations(tumour=(square(100, 100, 300),), holes=(square(200, 200, 100),))
    corners = np.array([[0, 0], [100, 100], [200, 200], [250, 100], [350, 350], [1000, 1000]])
    shares = tumour_fraction(drawn, corners, 100)
    # The last but one lies half in along both axes.
    np.testing.assert_allclose(shares, [0, 1, 0, 1, 0.25, 0])
    assert shares.dtype == np.float32


def test_shares_add_up_to_the_area_of_real_outlines(shared):
    folder = shared / "data" / "camelyon16_annotations"
    found = find_annotations(folder)
    assert list(found) == ["tumor_010", "tumor_073", "tumor_081"]
    for path in found.values():
        drawn = read_annotations(path)
        content = json.loads(path.read_text())
        assert (len(drawn.tumour), len(drawn.holes)) == (len(content["positive"]), len(content["negative"]))
        drawn = Annotations(drawn.tumour[:1], ())
        x, y = drawn.tumour[0].T
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        low, high = drawn.tumour[0].min(0), drawn.tumour[0].max(0)
        step = max(int((high - low).max() // 12), 1)
        corners = np.stack(
            np.meshgrid(*(np.arange(a - step, b + step, step) for a, b in zip(low, high, strict=True))), -1
        )
        shares = tumour_fraction(drawn, corners.reshape(-1, 2).astype(np.int64), step)
        assert shares.sum() * step**2 == pytest.approx(area, rel=0.03)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", "<ASAP_Annotations><Annot"),
        ("a.xml", "<html></html>"),
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", '{"positive": []}'),
        ("a.json", '{"positive": [{"vertices": [[1, 2], [3]]}], "negative": []}'),
        ("a.json", '{"positive": [{"vertices": [[1, 2, 3]]}], "negative": []}'),
    ],
)
def test_another_form_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=f"{name} is no file of annotations"):
        read_annotations(tmp_path / name)


def test_a_folder_that_is_absent_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no folder"):
        find_annotations(tmp_path / "annotations")


def test_names_are_found_whatever_their_case(shared, tmp_path):
    shutil.copy(shared / "data" / "camelyon16_annotations" / "Tumor_081.json", tmp_path / "TUMOR_081.JSON")
    assert list(find_annotations(tmp_path)) == ["tumor_081"]
