"""Finding the scans in a folder of raw data: CT series with their annotations, whatever the folders are called.

A folder with DICOM files is one series, known by the SeriesInstanceUID in its files. XML files may lie anywhere and
name the series that they are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from polyclinic.datasets.fed_lidc_idri.annotations import series_uid_of
from polyclinic.datasets.fed_lidc_idri.dicom import Header, read_header
from polyclinic.datasets.fed_lidc_idri.series import center_and_split
from polyclinic.errors import DatasetError

HOW_TO_GET_IT = (
    "get the data with  polyclinic dataset download fed_lidc_idri --to DIR --accept-license , or try made-up ones: "
    "polyclinic dataset mock fed_lidc_idri --to DIR"
)


@dataclass(frozen=True)
class Scan:
    """One CT series and its XML file; ``problem`` says why it cannot be used, if it cannot."""

    uid: str
    center: int | None
    split: str
    files: tuple[Path, ...]
    annotations: Path | None
    num_bytes: tuple[int, int, int]  # of all slices, how many slices, of the annotations
    patient: str = ""  # PatientID, to see who is in both folds; it goes into no file
    problem: str = ""


def find_scans(folder: Path) -> tuple[Scan, ...]:
    """The CT series below a folder, by their UID.

    Raises:
        DatasetError: nothing there, no CT series in it, no XML file for any, or a series in two folders.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}", to_do=HOW_TO_GET_IT)
    series, xml_files, unreadable = _look_through(folder)
    if not series:
        reason = f"; {unreadable[0]}" if unreadable else ""
        raise DatasetError(
            f"{folder} holds no CT series: no folder with DICOM files (.dcm) of modality CT{reason}",
            to_do=HOW_TO_GET_IT,
        )
    annotations, damaged = _annotations(xml_files)
    if not annotations.keys() & series.keys():
        found = f"{len(annotations)} XML files of other series" if annotations else "no XML file of LIDC readers"
        raise DatasetError(
            f"{folder} holds {len(series)} CT series and {found}" + (f"; {damaged[0]}" if damaged else ""),
            to_do="put the annotations (LIDC-XML-only.zip, unzipped) below the same folder",
        )
    return tuple(_scan(header, files, annotations.get(uid)) for uid, (files, header) in sorted(series.items()))


def _look_through(folder: Path) -> tuple[dict[str, tuple[tuple[Path, ...], Header]], list[Path], list[str]]:
    """CT series (UID -> files and header), XML files, and why folders' first files could not be read."""
    series: dict[str, tuple[tuple[Path, ...], Header]] = {}
    xml_files: list[Path] = []
    unreadable: list[str] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        files = tuple(Path(root, name) for name in sorted(names) if name.lower().endswith(".dcm"))
        xml_files += [Path(root, name) for name in sorted(names) if name.lower().endswith(".xml")]
        header = None
        # A damaged first file is told when the series is read; its neighbour knows what series it is.
        for path in files:
            try:
                header = read_header(path)
                break
            except DatasetError as err:
                if "not installed" in err.what:
                    raise
                unreadable.append(err.what)
        if header is None or header.modality != "CT":
            continue
        uid = header.series_uid
        if uid in series:
            raise DatasetError(
                f"series {uid} lies in two folders: {series[uid][0][0].parent} and {root}",
                to_do="give the folder that holds one copy of the data",
            )
        series[uid] = files, header
    return series, xml_files, unreadable


def _annotations(files: list[Path]) -> tuple[dict[str, Path], list[str]]:
    """SeriesInstanceUID -> its first XML file, and what was wrong with others."""
    found: dict[str, Path] = {}
    damaged: list[str] = []
    for path in files:
        try:
            uid = series_uid_of(path)
        except DatasetError as err:
            damaged.append(err.what)
            continue
        if uid:
            # The archive has some files twice; they are the same.
            found.setdefault(uid, path)
    return found, damaged


def patients_in_both_folds(scans: Iterable[Scan]) -> int:
    """How many patients have scans in training and in test."""
    folds: dict[str, set[str]] = {}
    for scan in scans:
        if scan.patient:
            folds.setdefault(scan.patient, set()).add(scan.split)
    return sum(len(of_patient) > 1 for of_patient in folds.values())


def _scan(header: Header, files: tuple[Path, ...], annotations: Path | None) -> Scan:
    center, split = center_and_split(header.series_uid, header.manufacturer, header.patient)
    problem = ""
    if annotations is None:
        problem = "there is no XML file for this series"
    elif center is None:
        problem = f"its manufacturer, {header.manufacturer!r}, is none of the four centers', and it is not published"
    sizes = (
        sum(path.stat().st_size for path in files),
        len(files),
        annotations.stat().st_size if annotations else 0,
    )
    return Scan(header.series_uid, center, split, files, annotations, sizes, header.patient, problem)
