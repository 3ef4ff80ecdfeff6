"""Checks of a torch dataset that someone else's code made: lengths, samples, finite numbers.

A sample is a tuple whose last entry is the target. A dataset is read whole while it is small; of a large one
rows at even distances are read, and a note says how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyclinic.errors import DatasetError, PolyclinicError

if TYPE_CHECKING:
    import torch

_MOST_NUMBERS = 20_000_000  # read at registration, per part: some seconds
_FEWEST_ROWS = 8


@dataclass(frozen=True)
class Part:
    """What is known of one part, train or test."""

    num_rows: int
    shape: tuple[int, ...]  # of one sample's first input
    target: str
    num_checked: int


def check_part(dataset: Any, name: str) -> Part:
    """Reads rows of ``dataset`` and checks them.

    Args:
        name: "train" or "test", for the errors' text.

    Raises:
        DatasetError: no length, no rows, no tuples, or nan or infinite numbers.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DatasetError(
            f"the {name} part is no dataset: {type(dataset).__name__} lacks __len__ or __getitem__",
            to_do="return torch.utils.data.Dataset objects of map style",
        )
    num_rows = len(dataset)
    if num_rows == 0:
        raise DatasetError(f"the {name} part has no rows", to_do="check where the data are read from")
    first = _tensors(_row(dataset, 0, name), name)
    affordable = max(_FEWEST_ROWS, _MOST_NUMBERS // max(1, sum(tensor.numel() for tensor in first)))
    num_checked = min(num_rows, affordable)
    bad: dict[int, int] = {}
    for k in range(num_checked):
        for place, tensor in enumerate(_tensors(_row(dataset, k * num_rows // num_checked, name), name)):
            bad[place] = bad.get(place, 0) + (not bool(tensor.isfinite().all()))
    for place, count in bad.items():
        if count:
            what = "target" if place == len(first) - 1 else f"input {place + 1}"
            raise DatasetError(
                f"nan or infinite values in the {what} of {count} of {num_checked} rows that were looked at "
                f"in the {name} part",
                to_do="correct these rows, or leave them out",
            )
    target = first[-1]
    dtype = str(target.dtype).removeprefix("torch.")
    return Part(num_rows, tuple(first[0].shape), f"{dtype} {tuple(target.shape)}", num_checked)


def part_notes(parts: dict[str, Part]) -> list[str]:
    """Says where not all rows were looked at."""
    return [
        f"{part.num_checked} of {part.num_rows} rows of the {name} part were searched for nan and infinite values."
        for name, part in parts.items()
        if part.num_checked < part.num_rows
    ]


def _row(dataset: Any, index: int, name: str) -> Any:
    try:
        return dataset[index]
    except PolyclinicError:
        raise
    # Anyone's code; its text may quote a patient's values, so only its kind is told and the cause is chained.
    except Exception as err:
        raise DatasetError(
            f"row {index} of the {name} part cannot be read ({type(err).__name__})",
            to_do=f"run the dataset's own code on this row: dataset[{index}]",
        ) from err


def _tensors(row: Any, name: str) -> list[torch.Tensor]:
    import torch

    if not isinstance(row, (tuple, list)) or len(row) < 2:
        raise DatasetError(
            f"a row of the {name} part is {type(row).__name__}, not a tuple (input, …, target)",
            to_do="return a tuple of at least two entries, the target last",
        )
    try:
        return [torch.as_tensor(entry) for entry in row]
    except (TypeError, ValueError, RuntimeError) as err:
        raise DatasetError(
            f"a row of the {name} part holds {', '.join(type(entry).__name__ for entry in row)}",
            to_do="return tensors, arrays or numbers",
        ) from err
