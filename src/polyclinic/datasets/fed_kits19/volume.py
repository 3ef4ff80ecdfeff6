"""Reading a case of KiTS19: its CT and its labels, with axes in one order and direction."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_kits19.cases import IMAGE, LABEL, Case
from polyclinic.errors import DatasetError

# From slice to slice downwards, to the back, to the patient's left: as KiTS19's files are.
AXES = ("I", "P", "L")
LABELS = (0, 1, 2)  # background, kidney, tumour

Spacing = tuple[float, float, float]


def read_case(case: Case) -> tuple[NDArray[np.float32], NDArray[np.uint8], Spacing]:
    """(z, y, x) Hounsfield units, (z, y, x) labels 0, 1, 2, and the spacing in mm.

    Raises:
        DatasetError: a file is missing or cannot be read, or the two do not fit each other.
    """
    for path, name in ((case.image, IMAGE), (case.label, LABEL)):
        if not path.is_file():
            hint = "; a clone of kits19 brings the labels alone" if name == IMAGE else ""
            raise DatasetError(f"it has no {name}{hint}")
    image, spacing = read_volume(case.image, np.float32)
    label, _ = read_volume(case.label, np.float32)
    if image.shape != label.shape:
        raise DatasetError(f"image and label differ in shape: {image.shape} and {label.shape}")
    if not np.isfinite(image).all():
        raise DatasetError("the image has values that are not finite")
    if not np.isin(label, LABELS).all():
        raise DatasetError(f"the label has values other than {', '.join(map(str, LABELS))}")
    return image, label.astype(np.uint8), spacing


def read_volume(path: Path, dtype: type[np.floating[Any]]) -> tuple[NDArray[Any], Spacing]:
    """The voxels of a NIfTI file, scaled as it says, with axes as in `AXES`; and their spacing in mm.

    Raises:
        DatasetError: nibabel is not installed, this is no NIfTI file of three axes, or it does not say how its axes
            lie in the patient.
    """
    try:
        # Here and not above: whoever trains on prepared data does not need it.
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ModuleNotFoundError as err:
        raise DatasetError(
            "reading NIfTI files needs nibabel, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    try:
        file = nibabel.Nifti1Image.from_filename(path)
        if len(file.shape) != 3:
            raise DatasetError(f"{path.name} has {len(file.shape)} axes, expected 3")
        if not int(file.header["sform_code"]) and not int(file.header["qform_code"]):
            raise DatasetError(
                f"{path.name} has no affine (both its sform and its qform code are 0), "
                "so that nobody knows how its axes lie in the patient"
            )
        turn = ornt_transform(io_orientation(file.affine), axcodes2ornt(AXES))  # type: ignore[no-untyped-call]
        file = file.as_reoriented(turn)  # type: ignore[no-untyped-call]
        volume = np.asarray(file.get_fdata(caching="unchanged", dtype=dtype))
    # Nibabel has a family of errors without a common root for headers that make no sense.
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError, WrapStructError, ImageFileError) as err:
        raise DatasetError(f"{path.name} is not a readable NIfTI file: {err}") from err
    z, y, x = (float(step) for step in nibabel.affines.voxel_sizes(file.affine))  # type: ignore[no-untyped-call]
    if not min(z, y, x) > 0:
        raise DatasetError(f"{path.name} has an affine without extent: spacing {z:g} x {y:g} x {x:g} mm")
    return volume, (z, y, x)
