from __future__ import annotations

import numpy as np
import pytest

from polyclinic.datasets.fed_lidc_idri.annotations import (
    Outline,
    Reading,
    nodule_mask,
    nodule_mask_as_flamby,
    read_annotations,
    series_uid_of,
)
from polyclinic.datasets.fed_lidc_idri.dicom import Series, read_series
from polyclinic.errors import DatasetError

SERIES = Series("1.2.3", np.zeros((20, 24, 5), dtype=np.float32), (1.0, 1.0, 2.0), 2.0 * np.arange(5), tuple("abcde"))


def square(low, high, *, y_low=None, z=1, inclusion=True, height=None, slice_uid=None):
    """The pixels of a square's border, in order: columns low to high, rows y_low to y_low + high - low."""
    y_low = low if y_low is None else y_low
    n = high - low
    ring = [(k, 0) for k in range(n)] + [(n, k) for k in range(n)] + [(n - k, n) for k in range(n)]
    ring += [(0, n - k) for k in range(n)]
    points = np.array([(low + x, y_low + y) for x, y in [*ring, (0, 0)]])
    return Outline(2.0 * z if height is None else height, slice_uid or "", inclusion, points)


def block(x, y, z):
    """A mask with these half-open ranges."""
    mask = np.zeros(SERIES.volume.shape, dtype=bool)
    mask[slice(*x), slice(*y), slice(*z)] = True
    return mask


def test_a_nodule_is_what_lies_strictly_inside_of_its_outlines():
    mask = nodule_mask([[square(3, 8), square(4, 8, y_low=10, z=2)]], SERIES)
    np.testing.assert_array_equal(mask, block((4, 8), (4, 8), (1, 2)) | block((5, 8), (11, 14), (2, 3)))


def test_an_exclusion_and_its_border_are_cut_out_of_its_own_nodule_only():
    own = [square(2, 12), square(5, 8, inclusion=False)]
    mask = nodule_mask([own], SERIES)
    np.testing.assert_array_equal(mask, block((3, 12), (3, 12), (1, 2)) & ~block((5, 9), (5, 9), (1, 2)))
    np.testing.assert_array_equal(nodule_mask([own[::-1]], SERIES), mask)
    other = [square(6, 10)]
    np.testing.assert_array_equal(nodule_mask([own, other], SERIES), mask | block((7, 10), (7, 10), (1, 2)))


def test_overlapping_nodules_and_those_on_one_slice_are_kept():
    left, right = [square(2, 8)], [square(6, 12)]
    np.testing.assert_array_equal(
        nodule_mask([left, right], SERIES), block((3, 8), (3, 8), (1, 2)) | block((7, 12), (7, 12), (1, 2))
    )


def test_an_outline_that_encloses_nothing_stands_for_itself():
    line = Outline(2.0, "", True, np.array([[3, 4], [4, 4], [5, 4]]))
    np.testing.assert_array_equal(nodule_mask([[line]], SERIES), block((3, 6), (4, 5), (1, 2)))


def test_a_nodule_below_3_mm_is_no_part_of_the_mask():
    assert not nodule_mask([[Outline(2.0, "", True, np.array([[3, 4]]))]], SERIES).any()


def test_an_outline_goes_to_the_slice_it_names_else_to_the_nearest():
    named = square(3, 8, height=2.0, slice_uid="d")
    assert np.flatnonzero(nodule_mask([[named]], SERIES).any((0, 1))).tolist() == [3]
    near = square(3, 8, height=6.9, slice_uid="of another archive")
    assert np.flatnonzero(nodule_mask([[near]], SERIES).any((0, 1))).tolist() == [3]
    with pytest.raises(DatasetError, match="an outline at 10 mm lies on no slice; they go from 0 to 8 mm"):
        nodule_mask([[square(3, 8, height=10.0)]], SERIES)


def test_an_outline_outside_of_the_image_is_refused():
    with pytest.raises(DatasetError, match=r"outside of an image of \[20, 24\]"):
        nodule_mask([[square(15, 20)]], SERIES)


def test_the_masks_of_flamby():
    def mask(*nodules, other=()):
        return nodule_mask_as_flamby(Reading(nodules, other), SERIES)

    two = [square(3, 8), square(3, 8, z=2)]
    # From the smallest row and column on, and up to one below the largest.
    expected = block((3, 8), (3, 8), (1, 3))
    np.testing.assert_array_equal(mask(two), expected)
    # The exclusion is filled as if it were a part; one outline alone is lost; so is where two nodules overlap.
    np.testing.assert_array_equal(mask([*two, square(4, 6, inclusion=False)]), expected)
    assert not mask([square(3, 8)]).any()
    moved = [square(5, 10), square(5, 10, z=2)]
    np.testing.assert_array_equal(mask(two, moved), expected ^ block((5, 10), (5, 10), (1, 3)))
    # A place that is no nodule is written with x and y exchanged.
    place = Outline(2.0, "", True, np.array([[7, 4]]))
    np.testing.assert_array_equal(mask(two, other=[place]), expected & ~block((4, 5), (7, 8), (1, 2)))
    # Exchanged, it may lie outside of the image: then the reader's session ends with what there is.
    outside = Outline(2.0, "", True, np.array([[4, 21]]))
    np.testing.assert_array_equal(mask(two, other=[outside, place]), expected)


XML = """<?xml version="1.0"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>
<SeriesInstanceUid>1.2.3</SeriesInstanceUid></ResponseHeader>{}</LidcReadMessage>"""


def test_files_of_another_kind_and_damaged_ones(tmp_path):
    path = tmp_path / "158.xml"
    path.write_text(XML.format(""))
    assert series_uid_of(path) == "1.2.3"
    with pytest.raises(DatasetError, match=r"158\.xml holds no readings"):
        read_annotations(path)
    path.write_text(XML.format("<readingSession/>" * 9))
    with pytest.raises(DatasetError, match="holds 9 readings, expected 1 to 8"):
        read_annotations(path)
    # Damage behind the header is found when the scan is prepared.
    path.write_text(XML.format("")[:-5])
    assert series_uid_of(path) == "1.2.3"
    with pytest.raises(DatasetError, match=r"158\.xml is no readable XML"):
        read_annotations(path)
    path.write_text("<IdriReadMessage><ResponseHeader/></IdriReadMessage>")
    assert series_uid_of(path) == ""
    path.write_text(XML.format("")[:100])
    with pytest.raises(DatasetError, match=r"158\.xml is no readable XML"):
        series_uid_of(path)
    roi = "<roi><imageZposition>{}</imageZposition>{}</roi>"
    roi = f"<readingSession><unblindedReadNodule>{roi}</unblindedReadNodule></readingSession>"
    path.write_text(XML.format(roi.format("low", "")))
    with pytest.raises(DatasetError, match="a coordinate that is no number"):
        read_annotations(path)
    path.write_text(XML.format(roi.format("1.5", "")))
    with pytest.raises(DatasetError, match="an outline has no points"):
        read_annotations(path)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("patient", ["LIDC-IDRI-0002", "LIDC-IDRI-0004", "LIDC-IDRI-0005"])
def test_readers_masks_of_real_slices_agree_with_another_program(shared, patient):
    from skimage.io import imread

    folder = next((shared / "data" / "lidc_dicom" / patient).glob("1.*"))
    readings = read_annotations(folder / "annotation.xml")
    compared = 0
    for path in sorted(folder.glob("*.dcm")):
        # Slice by slice, since only some slices of each scan lie there.
        series = as_one_slice(path)
        for number, reading in enumerate(readings, start=1):
            file = folder / "masks" / f"{path.stem}_id{number}.png"
            if not file.exists():
                continue
            theirs = imread(file) > 0
            # That program counts pixels from 1, so its masks lie one pixel too far up and left.
            theirs = np.roll(theirs, (1, 1), axis=(0, 1)).T
            ours = nodule_mask(on_slice(reading, series), series)[:, :, 0]
            if theirs.any() or ours.any():
                assert dice(ours, theirs) >= 0.99, (file.name, ours.sum(), theirs.sum())
                compared += 1
    assert compared >= 15


def test_contrast_in_real_images_says_that_pixels_count_from_0(shared):
    """Inside against just outside, over all outlines: best where the outline is, not a pixel up and left."""
    from scipy.ndimage import binary_dilation

    contrast = dict.fromkeys([(0, 0), (-1, -1)], 0.0)
    for patient in ("LIDC-IDRI-0004", "LIDC-IDRI-0005"):
        folder = next((shared / "data" / "lidc_dicom" / patient).glob("1.*"))
        readings = read_annotations(folder / "annotation.xml")
        for path in sorted(folder.glob("*.dcm")):
            series = as_one_slice(path)
            image = series.volume[:, :, 0].clip(-1000, 200)
            for reading in readings:
                mask = nodule_mask(on_slice(reading, series), series)[:, :, 0]
                for shift in contrast if mask.any() else ():
                    moved = np.roll(mask, shift, axis=(0, 1))
                    ring = binary_dilation(moved, iterations=2) & ~moved
                    contrast[shift] += image[moved].mean() - image[ring].mean()
    assert contrast[0, 0] > 1.2 * contrast[-1, -1]


def as_one_slice(path):
    import pydicom

    header = pydicom.dcmread(path)
    volume = header.pixel_array.T[:, :, None].astype(np.float32) * header.RescaleSlope + header.RescaleIntercept
    height = float(header.ImagePositionPatient[2])
    return Series("", volume, (1.0, 1.0, 1.0), np.array([height]), (str(header.SOPInstanceUID),))


def on_slice(reading, series):
    return [[outline for outline in nodule if outline.slice_uid in series.slice_uids] for nodule in reading.nodules]


def test_the_made_up_scan_has_its_nodules_where_the_readers_say(scan):
    series = read_series(sorted(scan.glob("*.dcm")))
    readings = read_annotations(scan.parent / "readers.xml")
    assert len(readings) == 4
    for number, reading in enumerate(readings):
        mask = nodule_mask(reading.nodules, series)
        assert mask[13, 14, 6]  # the plain nodule
        assert not mask[34, 14, 6]  # the cavity
        assert mask[34 + 5, 14, 6]
        assert mask[13, 34, 14] == (number < 3)  # one reader misses the flat one
        assert mask[34, 34, 13]  # where two overlap
        assert not mask[24, 6, 3]  # below 3 mm
        as_flamby = nodule_mask_as_flamby(reading, series)
        assert as_flamby[34, 14, 6]
        assert not as_flamby[13, 34, 14]
        assert not as_flamby[34, 34, 13]
