"""Missing cells and scale, by numbers of the training rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError


def fill_missing(
    x: NDArray[np.float64],
    names: Sequence[str],
    train: NDArray[np.bool_],
    missing: Mapping[str, int],
    *,
    rule: str,
) -> tuple[NDArray[np.float64], list[str]]:
    """x (n, p) without nan, and notes.

    One-hot columns are filled like any other: by the share of each category with "mean".

    Args:
        missing: missing cells by column, for the error's text.
        rule: "mean" or "median" of the column's training rows; "error" and "drop" allow no nan here.

    Raises:
        DatasetError: there are missing cells and the rule is "error".
    """
    holes = np.isnan(x)
    if rule == "error" and missing:
        listed = ", ".join(f"{name!r} ({count})" for name, count in missing.items())
        raise DatasetError(
            f"missing cells in column {listed}",
            to_do="fill them in, or choose --missing mean, median or drop",
        )
    if not holes.any():
        return x, []
    notes = [f"Missing cells were filled with the {rule} of this node's training rows."]
    filled = x.copy()
    for j in np.flatnonzero(holes.any(axis=0)).tolist():
        known = x[train & ~holes[:, j], j]
        if len(known) == 0:
            notes.append(f"No training row has a value of {names[j]!r}: 0 stands for what is missing.")
        middle = np.median if rule == "median" else np.mean
        filled[holes[:, j], j] = middle(known) if len(known) else 0.0
    return filled, notes


def standardise(
    x: NDArray[np.float64], names: Sequence[str], train: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], list[str]]:
    """(x - mean) / std by the training rows' mean and population std; a constant column becomes 0."""
    mean, std = x[train].mean(axis=0), x[train].std(axis=0)
    # The spread of equal numbers is not exactly 0: their mean is rounded.
    constant = np.ptp(x[train], axis=0) == 0
    scaled = (x - mean) / np.where(constant, 1.0, std)
    scaled[:, constant] = 0.0
    listed = ", ".join(repr(names[j]) for j in np.flatnonzero(constant).tolist())
    return scaled, [f"The same value in every training row, so 0 after scaling: {listed}."] if listed else []
