"""Has a dataset changed? A digest of its files' names, sizes and times, and one of their contents.

A fingerprint reads ``<number of files>.<content>.<stat>.<settings>``; a kind may append parts.
As long as the stat part is the same nothing is read. If only times differ (a copy, a touch), the contents decide.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_UNREAD = "unread"


def fingerprint(root: Path, files: Sequence[Path], *, settings: str = "", contents: bool = True) -> str:
    """The fingerprint of ``files`` below ``root``.

    Args:
        settings: whatever else decides what the data are; part of the fingerprint.
        contents: False leaves out the contents, for folders that are too large to read for this.
    """
    stat = _stat_digest(root, files)
    content = _content_digest(root, files) if contents else _UNREAD
    return f"{len(files)}.{content}.{stat}.{_digest(settings)}"


def changed_files(root: Path, files: Sequence[Path], before: str, *, settings: str = "") -> str | None:
    """None if the files are as they were, else a sentence without any path in it."""
    count, content, stat, set_before = before.split(".")[:4]
    if set_before != _digest(settings):
        return "The dataset's code or settings are not those that it was registered with."
    if len(files) != int(count):
        return f"There were {count} files when the dataset was registered; now there are {len(files)}."
    try:
        stat_now = _stat_digest(root, files)
        if stat_now == stat:
            return None
        if content != _UNREAD and _remembered_digest(root, tuple(files), stat_now) == content:
            return None
    except FileNotFoundError:
        return "A file of the dataset has vanished."
    except OSError as err:
        return f"A file of the dataset can no longer be read ({type(err).__name__})."
    return "The content of the dataset's files has changed since it was registered."


def files_below(*paths: Path, limit: int) -> tuple[Path, ...]:
    """The files among and below ``paths``, hidden ones left out, in order of name; the first ``limit`` of each.

    The limit bounds what a look at a huge folder costs. A path that does not exist gives itself, so that a
    look at it fails.
    """
    return tuple(file for path in paths for file in itertools.islice(_walk(path), limit))


def _walk(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(root: Path, file: Path) -> str:
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _stat_digest(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{_name(root, file)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _content_digest(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{_name(root, file)}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


# After a touch the contents would be read again at each look; the stat digest says when a memory is stale.
@functools.lru_cache(maxsize=64)
def _remembered_digest(root: Path, files: tuple[Path, ...], stat: str) -> str:  # noqa: ARG001
    return _content_digest(root, files)
