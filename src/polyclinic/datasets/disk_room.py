"""Whether a disk has room for what is going to be written, known before anything is."""

from __future__ import annotations

import shutil
from pathlib import Path

from polyclinic.errors import DatasetError


def require_room(folder: Path, num_bytes: float, doing: str, error: type[DatasetError] = DatasetError) -> None:
    """Compares with what is free.

    Args:
        folder: what is written to; it need not exist yet.
        doing: what takes so much, for the error's text.
        error: the class of the error.

    Raises:
        DatasetError: the disk has less room; or the class that was given.
    """
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    if num_bytes > (free := shutil.disk_usage(there).free):
        raise error(
            f"{doing} takes about {_gigabytes(num_bytes)} in {folder}, where {_gigabytes(free)} are free",
            to_do="make room, or choose a folder on another disk; nothing was begun",
        )


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
