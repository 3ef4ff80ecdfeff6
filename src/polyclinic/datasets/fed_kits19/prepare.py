"""KiTS19: from the NIfTI files as published to arrays that are mapped at training.

Each CT is brought to 2.82 x 1.42 x 1.42 mm (z, y, x), clipped and standardised, and stored with its labels and with
some places in kidney and tumour:

- ``image`` (z, y, x) float16; half precision errs by at most 0.1 HU
- ``label`` (z, y, x) uint8: 0 background, 1 kidney, 2 tumour
- ``places`` (n, 3) int16: voxels of kidney, then voxels of tumour, as many of each as "places" in the facts says
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_kits19.cases import HOW_TO_GET_IT, Case, find_cases
from polyclinic.datasets.fed_kits19.plan import PLAN, Intensity
from polyclinic.datasets.fed_kits19.resample import (
    new_shape,
    normalise,
    resample_image,
    resample_label,
    separate_axis,
)
from polyclinic.datasets.fed_kits19.volume import read_case
from polyclinic.datasets.preparation import Item, Preparation, ensure, run_preparation
from polyclinic.datasets.prepared import MANIFEST, read_manifest, require_same_parameters
from polyclinic.datasets.prepared_files import write_text
from polyclinic.errors import ConfigError, DatasetError

DATASET = "fed_kits19"
IMAGE, LABEL, PLACES = "image", "label", "places"
Statistics = Literal["plan", "own"]
_LIBRARIES = ("numpy", "scipy", "nibabel", "scikit-image")
_BYTES_A_CASE = 30_000_000
_EVERY = 10  # foreground voxels, of which one is looked at for the statistics
_MOST_PLACES, _LEAST_SHARE = 10_000, 0.01


def prepare(
    source: str | Path,
    to: str | Path,
    *,
    flamby_compatible: bool = False,
    statistics: Statistics = "plan",
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares raw KiTS19 data, or goes on with a preparation that was interrupted.

    Args:
        source: a folder with case folders at any depth; cases that are not of Fed-KiTS19 are passed over.
        to: the folder for the arrays; 30 MB a case.
        flamby_compatible: intensity statistics over all cases that are there, test cases included, as in FLamby.
        statistics: "plan" for the intensities frozen in the plan, the same at all hospitals; "own" for those of
            the training cases that are there.
        workers: cases at a time, each of which takes up to 3 GB of memory; by default, one for each core.

    Returns:
        ``to``. Cases that cannot be read are left out and listed under "failed" in the manifest.

    Raises:
        DatasetError: no case can be read, or ``to`` holds data that were prepared in another way.
    """
    kind = _kind(flamby_compatible, statistics)
    return run_preparation(
        _preparation(Path(source), Path(to), kind, workers), to, workers=workers, show_progress=show_progress
    )


def ensure_prepared(
    data_path: str | Path | None,
    *,
    to: str | Path | None = None,
    flamby_compatible: bool = False,
    statistics: Statistics = "plan",
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """The prepared folder for a path to raw or prepared data; raw data are prepared, once.

    Args:
        data_path: a prepared folder, which is returned as it is, or raw data.
        to: where to prepare raw data; by default beside them, in ``<name>-prepared``, or in the user's cache folder
            when nothing can be written there.

    Raises:
        DatasetError: there are no data, or they were prepared in another way.
    """
    kind = _kind(flamby_compatible, statistics)
    suffix = {"plan": "", "own": "-own-statistics", "all": "-as-flamby"}[kind]
    if data_path is not None and (Path(data_path) / MANIFEST).is_file():
        there = read_manifest(Path(data_path), DATASET)["parameters"]
        # Those of a hospital's own cases are known from nowhere else.
        intensity = PLAN.intensity if kind == "plan" else Intensity(**there["intensity"])
        require_same_parameters(there, _parameters(kind, intensity), Path(data_path))
        return Path(data_path)

    def make(raw: Path) -> Preparation:
        cache = Path(to) if to is not None else raw.resolve().with_name(f"{raw.resolve().name}-prepared{suffix}")
        return _preparation(raw, cache, kind, workers)

    return ensure(
        data_path,
        make,
        dataset=DATASET,
        parameters=_parameters(kind, PLAN.intensity),
        how_to_get_it=HOW_TO_GET_IT,
        suffix=suffix,
        to=to,
        workers=workers,
        show_progress=show_progress,
    )


def prepare_case(case: Case, intensity: Intensity) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """One case's arrays, see the module's text; and its own spacing and size, and the number of places a class.

    Raises:
        DatasetError: its files cannot be read or do not fit each other.
    """
    image, label, spacing = read_case(case)
    axis = separate_axis(spacing, PLAN.spacing)
    shape = new_shape(image.shape, spacing, PLAN.spacing)
    small = resample_label(label, shape, axis)
    places = class_places(small)
    arrays: dict[str, NDArray[Any]] = {
        IMAGE: normalise(resample_image(image, shape, axis), intensity).astype(np.float16),
        LABEL: small,
        PLACES: np.concatenate(places).astype(np.int16),
    }
    facts = {"spacing": list(spacing), "shape": list(image.shape), "places": [len(part) for part in places]}
    return arrays, facts


def class_places(label: NDArray[np.uint8]) -> list[NDArray[np.intp]]:
    """(n, 3) voxels of kidney and of tumour: all of them, or 10,000, or 1 % where that is more.

    By nnU-Net's rule, with its generator.
    """
    rng = np.random.RandomState(1234)
    found = []
    for value in (1, 2):
        voxels = np.argwhere(label == value)
        if len(voxels):
            count = max(min(_MOST_PLACES, len(voxels)), int(np.ceil(_LEAST_SHARE * len(voxels))))
            voxels = voxels[rng.choice(len(voxels), count, replace=False)]
        found.append(voxels)
    return found


def intensity_of(cases: Sequence[Case], workers: int | None = None) -> Intensity:
    """Percentiles 0.5 and 99.5, mean and standard deviation over every 10th voxel of kidney and tumour.

    Cases that cannot be read are passed over; preparing them lists them.

    Raises:
        DatasetError: no case has any kidney.
    """

    def foreground(case: Case) -> NDArray[np.float32]:
        try:
            image, label, _ = read_case(case)
        except DatasetError:
            return np.empty(0, dtype=np.float32)
        return image[label > 0][::_EVERY]

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        values = np.concatenate([np.empty(0, dtype=np.float32), *pool.map(foreground, cases)]).astype(np.float64)
    if not len(values) or values.std() == 0:
        raise DatasetError(
            f"the intensities of {len(cases)} cases cannot be measured: none can be read and has a kidney",
            to_do='mend the files, or use the plan\'s intensities (statistics="plan")',
        )
    low, high = np.percentile(values, (0.5, 99.5))
    return Intensity(float(low), float(high), float(values.mean()), float(values.std()))


def _kind(flamby_compatible: bool, statistics: str) -> str:
    if statistics not in ("plan", "own"):
        raise ConfigError(f"statistics must be 'plan' or 'own', not {statistics!r}", to_do="choose one of the two")
    return "all" if flamby_compatible else statistics


def _preparation(source: Path, to: Path, kind: str, workers: int | None) -> Preparation:
    cases = {case.name: case for case in find_cases(source)}
    intensity = PLAN.intensity if kind == "plan" else _measured(tuple(cases.values()), to, kind, workers)
    return Preparation(
        dataset=DATASET,
        parameters=_parameters(kind, intensity),
        items=[
            Item(name, case.num_bytes, {"number": case.number, "center": case.center, "split": case.split})
            for name, case in cases.items()
        ],
        work=lambda item: prepare_case(cases[item.id], intensity),
        libraries=_LIBRARIES,
        bytes_an_item=_BYTES_A_CASE,
        label="Preparing KiTS19",
    )


def _measured(cases: Sequence[Case], to: Path, kind: str, workers: int | None) -> Intensity:
    """The statistics of these files, kept in the prepared folder so that they are measured once."""
    chosen = [case for case in cases if kind == "all" or case.split == "train"]
    files = [[case.name, *case.num_bytes] for case in chosen]
    kept = to / "intensity.json"
    if kept.is_file():
        content = json.loads(kept.read_text("utf-8"))
        if content["files"] == files:
            return Intensity(**content["intensity"])
    intensity = intensity_of(chosen, workers)
    if os.access(to.parent if not to.exists() else to, os.W_OK):
        to.mkdir(parents=True, exist_ok=True)
        write_text(kept, json.dumps({"files": files, "intensity": asdict(intensity)}) + "\n")
    return intensity


def _parameters(kind: str, intensity: Intensity) -> dict[str, Any]:
    names = {"plan": "the plan's", "own": "of the training cases", "all": "of all cases"}
    return {
        "format": 1,
        "spacing": list(PLAN.spacing),
        "image": "cubic, float16",
        "statistics": names[kind],
        "intensity": asdict(intensity),
    }
