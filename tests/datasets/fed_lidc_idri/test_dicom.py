from __future__ import annotations

import numpy as np
import pydicom
import pytest

from polyclinic.datasets.fed_lidc_idri.dicom import read_header, read_series
from polyclinic.errors import DatasetError


def files_of(folder):
    return sorted(folder.glob("*.dcm"))


def change(path, **tags):
    header = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    header.save_as(path)


def test_slices_are_stacked_by_position_whatever_their_names(scan):
    series = read_series(files_of(scan))
    assert series.volume.shape == (48, 48, 20)
    assert series.spacing == (1.0, 1.0, 2.5)
    np.testing.assert_allclose(series.heights, -100 + 2.5 * np.arange(20))
    # The made-up nodule on a single slice lies at column 13, row 34, slice 14.
    bright = series.volume[13, 34] > -400
    assert np.flatnonzero(bright).tolist() == [14]
    assert series.slice_uids[14].endswith(".2.15")


def test_axes_are_column_row_slice_and_values_hounsfield_units(scan):
    path = files_of(scan)[3]
    header = pydicom.dcmread(path)
    stored = np.zeros((48, 48), dtype=np.uint16)
    stored[5, 30] = 1500  # row 5, column 30
    header.PixelData = stored.tobytes()
    header.RescaleSlope, header.RescaleIntercept = 2, -1000
    header.save_as(path)
    series = read_series(files_of(scan))
    z = series.slice_uids.index(header.SOPInstanceUID)
    assert series.volume[30, 5, z] == 2000
    assert series.volume[5, 30, z] == -1000


def test_pixel_spacing_is_row_distance_then_column_distance(scan):
    for path in files_of(scan):
        change(path, PixelSpacing=[0.5, 0.8])
    assert read_series(files_of(scan)).spacing == (0.8, 0.5, 2.5)


def test_a_patient_who_lies_on_the_belly_is_stacked_upwards_too(scan):
    for path in files_of(scan):
        change(path, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    np.testing.assert_allclose(read_series(files_of(scan)).heights, -100 + 2.5 * np.arange(20))


def test_a_missing_slice_is_named_by_its_neighbours(scan):
    files = files_of(scan)
    by_height = sorted(files, key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    by_height[7].unlink()
    with pytest.raises(DatasetError, match=r"missing or unevenly spaced: 5 mm between .*, 2\.5 mm elsewhere") as caught:
        read_series(files_of(scan))
    assert by_height[6].name in caught.value.what
    assert by_height[8].name in caught.value.what


def test_rounded_positions_are_no_missing_slice(scan):
    for k, path in enumerate(files_of(scan)):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        change(path, ImagePositionPatient=[x, y, z + 0.05 * (k % 2)])
    assert read_series(files_of(scan)).spacing[2] == pytest.approx(2.5, abs=0.01)


def test_a_duplicate_slice_is_refused(scan):
    first = files_of(scan)[0]
    (scan / "copy.dcm").write_bytes(first.read_bytes())
    with pytest.raises(DatasetError, match="duplicate slices") as caught:
        read_series(files_of(scan))
    assert first.name in caught.value.what
    assert "copy.dcm" in caught.value.what


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "different orientations"),
        ({"SeriesInstanceUID": "1.2.3"}, "belong to different series"),
        ({"PixelSpacing": [0.7, 0.7]}, "differ in size or pixel spacing"),
        ({"RescaleSlope": None}, "lacks RescaleSlope"),
        ({"ImagePositionPatient": None}, "lacks ImagePositionPatient"),
    ],
)
def test_a_slice_that_does_not_belong_is_refused(scan, tags, message):
    path = files_of(scan)[4]
    change(path, **tags)
    with pytest.raises(DatasetError, match=message) as caught:
        read_series(files_of(scan))
    assert path.name in caught.value.what


def test_flamby_takes_a_slice_without_rescale_tags_as_it_is(scan):
    for path in files_of(scan):
        change(path, RescaleSlope=None, RescaleIntercept=None)
    assert read_series(files_of(scan), flamby_compatible=True).volume.min() >= 0


@pytest.mark.parametrize("kept", [0, 100, 300, 900, 3000])
def test_a_truncated_file_is_refused(scan, kept):
    path = files_of(scan)[2]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=path.name):
        read_series(files_of(scan))


def test_a_file_of_another_kind_is_refused(scan):
    path = files_of(scan)[2]
    path.write_bytes(b"no DICOM at all" * 100)
    with pytest.raises(DatasetError, match="not a readable DICOM file"):
        read_header(path)


def test_a_single_slice_is_no_series(scan):
    with pytest.raises(DatasetError, match="a series of 1 slice"):
        read_series(files_of(scan)[:1])


def test_real_slices(shared):
    folder = next((shared / "data" / "lidc_dicom" / "LIDC-IDRI-0005").glob("1.*"))
    # Only some slices of each scan lie there, in two blocks.
    files = sorted(folder.glob("*.dcm"))[-5:]
    series = read_series(files)
    assert series.volume.shape == (512, 512, 5)
    assert -1024 <= series.volume.min() < -900
    assert series.volume.max() > 200
    assert 0.5 < series.spacing[0] < 1
