"""Made-up CT series with the XML of four readers, in the layout that the archive's downloads have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_lidc_idri.series import CENTERS, published_series
from polyclinic.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    from pydicom import Dataset

_MANUFACTURERS = ("GE MEDICAL SYSTEMS", "Philips", "SIEMENS", "TOSHIBA")
_SIDE, _SLICES = 48, 20  # pixels, slices
_SPACING, _DISTANCE = 1.0, 2.5  # mm
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_READERS = 4

# Of each scan: a nodule that all readers see, one with a cavity, one on a single slice, and two that overlap.
_NODULES = (("whole", 5.0), ("cavity", 6.0), ("flat", 3.0), ("left", 4.0), ("right", 4.0))


def mock(to: str | Path, patients_per_center: int = 5, seed: int = 0) -> Path:
    """Writes made-up scans: bright spheres in dark lungs, outlined by four readers who differ a little.

    The series' UIDs are published ones, chosen so that a fifth of each center, at least one, are test scans. Pixels
    are made up. A scan takes 0.1 MB.

    Args:
        patients_per_center: from 2 to 69, as many as Toshiba has.
        seed: the same seed writes the same bytes.
    """
    if not 2 <= patients_per_center <= 69:
        raise ConfigError(
            f"cannot make {patients_per_center} patients per center", to_do="ask for 2 to 69, as many as TOSHIBA has"
        )
    num_test = max(1, round(0.2 * patients_per_center))
    rng = np.random.default_rng(seed)
    folder = Path(to) / "LIDC-IDRI"
    number = 9000
    for center in range(len(CENTERS)):
        for split, wanted in (("train", patients_per_center - num_test), ("test", num_test)):
            uids = [uid for uid, place in published_series().items() if place == (center, split)]
            for uid in uids[:wanted]:
                number += 1
                patient = f"MOCK-{number}"
                _write_scan(folder / patient / uid, uid, patient, center, rng)
                annotations = Path(to) / "LIDC-XML-only" / "tcia-lidc-xml" / str(center) / f"{number}.xml"
                annotations.parent.mkdir(parents=True, exist_ok=True)
                annotations.write_text(_xml(uid, rng), encoding="utf-8")
    return Path(to)


def _middles() -> dict[str, NDArray[np.float64]]:
    """Name -> middle of each nodule, (column, row, slice)."""
    return {
        "whole": np.array([13.0, 14.0, 6.0]),
        "cavity": np.array([34.0, 14.0, 6.0]),
        "flat": np.array([13.0, 34.0, 14.0]),
        "left": np.array([32.0, 34.0, 13.0]),
        "right": np.array([36.0, 34.0, 13.0]),
    }


def _write_scan(folder: Path, uid: str, patient: str, center: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    x, y, z = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE), np.arange(_SLICES), indexing="ij")
    chest = np.hypot(x - _SIDE / 2, y - _SIDE / 2)
    units = np.where(chest < 22, -850.0, np.where(chest < 23.5, 40.0, -1000.0))
    for name, radius in _NODULES:
        middle = _middles()[name]
        reach = np.hypot((x - middle[0]) * _SPACING, (y - middle[1]) * _SPACING)
        away = np.sqrt(reach**2 + ((z - middle[2]) * _DISTANCE) ** 2)
        inside = away < radius if name != "flat" else (reach < radius) & (z == middle[2])
        units[inside] = 30.0
        if name == "cavity":
            units[reach < 3.5] = -900.0  # as far as the outline of the cavity goes
    units += rng.normal(0, 15, units.shape)
    for k in range(_SLICES):
        stored = np.clip(np.rint(units[:, :, k].T) + 1024, 0, 4095).astype(np.uint16)
        header = _slice_header(uid, patient, center, k)
        header.PixelData = stored.tobytes()
        # Names in another order than the slices, as downloads have them.
        header.save_as(folder / f"1-{(7 * k) % _SLICES + 1:03d}.dcm", enforce_file_format=True)


def _slice_header(uid: str, patient: str, center: int, k: int) -> Dataset:
    try:
        from pydicom import Dataset
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian
    except ModuleNotFoundError as err:
        raise DatasetError(
            "writing DICOM files needs pydicom, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": _CT_IMAGE_STORAGE,
        "SOPInstanceUID": _slice_uid(uid, k),
        "Modality": "CT",
        "Manufacturer": _MANUFACTURERS[center],
        "PatientName": "",
        "PatientID": patient,
        "StudyInstanceUID": f"{uid[:-8]}.1",
        "SeriesInstanceUID": uid,
        "InstanceNumber": k + 1,
        "SliceThickness": _DISTANCE,
        "ImagePositionPatient": [-24.0, -24.0, -100.0 + _DISTANCE * k],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [_SPACING, _SPACING],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": _SIDE,
        "Columns": _SIDE,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
    }
    for name, value in values.items():
        setattr(header, name, value)
    return header


def _slice_uid(uid: str, k: int) -> str:
    return f"{uid[:-8]}.2.{k + 1}"


def _xml(uid: str, rng: np.random.Generator) -> str:
    """What four readers say: the last one misses the flat nodule, and each draws a little larger or smaller."""
    sessions = []
    for reader in range(_READERS):
        growth = rng.uniform(0.85, 1.15)
        nodules = []
        for number, (name, radius) in enumerate(_NODULES):
            if name == "flat" and reader == _READERS - 1:
                continue
            rois = _rois(uid, name, radius * growth)
            nodules.append(f"<unblindedReadNodule><noduleID>Nodule {number}</noduleID>{rois}</unblindedReadNodule>")
        # A nodule of less than 3 mm: one point.
        small = _roi(uid, 3, [(24, 6)], inclusion=True)
        nodules.append(f"<unblindedReadNodule><noduleID>small</noduleID>{small}</unblindedReadNodule>")
        place = "<imageZposition>-95.0</imageZposition><locus><xCoord>24</xCoord><yCoord>40</yCoord></locus>"
        nodules.append(f"<nonNodule><nonNoduleID>{reader}</nonNoduleID>{place}</nonNodule>")
        sessions.append(
            f"<readingSession><annotationVersion>3.12</annotationVersion>{''.join(nodules)}</readingSession>"
        )
    header = f"<ResponseHeader><SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<LidcReadMessage xmlns="http://www.nih.gov">{header}{"".join(sessions)}</LidcReadMessage>\n'
    )


def _rois(uid: str, name: str, radius: float) -> str:
    middle = _middles()[name]
    rois = []
    for k in range(_SLICES):
        height = abs(k - middle[2]) * _DISTANCE
        if height >= radius or (name == "flat" and height > 0):
            continue
        rois.append(_roi(uid, k, _circle(middle, float(np.sqrt(radius**2 - height**2))), inclusion=True))
        if name == "cavity":
            rois.append(_roi(uid, k, _circle(middle, 2.5), inclusion=False))
    return "".join(rois)


def _circle(middle: NDArray[np.float64], radius: float) -> list[tuple[int, int]]:
    """The pixels just outside of a disk, each once, then the first one again."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    points = [
        (round(float(middle[0] + (radius + 1) * np.cos(a))), round(float(middle[1] + (radius + 1) * np.sin(a))))
        for a in angles
    ]
    distinct = list(dict.fromkeys(points))
    return [*distinct, distinct[0]]


def _roi(uid: str, k: int, points: list[tuple[int, int]], *, inclusion: bool) -> str:
    edge = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (
        f"<roi><imageZposition>{-100.0 + _DISTANCE * k}</imageZposition>"
        f"<imageSOP_UID>{_slice_uid(uid, k)}</imageSOP_UID><inclusion>{str(inclusion).upper()}</inclusion>{edge}</roi>"
    )
