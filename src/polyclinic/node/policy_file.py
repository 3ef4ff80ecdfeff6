"""The file of a node's policy: who may write it, when it has changed, and how it is replaced."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from polyclinic.errors import PolicyInvalid

POLICY_FILE = "policy.toml"

_MAX_BYTES = 1 << 20
# A file system's clock may be as coarse as this: a file that is younger may change again without looking changed.
_COARSEST_SECONDS = 2.0
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

Look = tuple[int, ...]


def read_policy(folder: Path) -> bytes | None:
    """The file's content; None if there is none.

    Raises:
        PolicyInvalid: it cannot be read, or others than its owner may change it.
    """
    require_own(folder, folder.stat())
    path = folder / POLICY_FILE
    try:
        # Not blocked by a pipe in its place.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as file:
            found = os.fstat(number)
            require_own(path, found)
            content = file.read(_MAX_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
    except FileNotFoundError:
        return None
    except OSError as err:
        raise PolicyInvalid(
            f"{POLICY_FILE} cannot be read: {err.strerror}", to_do="let the user that the node runs as read it"
        ) from None
    if not stat.S_ISREG(found.st_mode) or len(content) > _MAX_BYTES:
        raise PolicyInvalid(f"{POLICY_FILE} is no file, or has more than {_MAX_BYTES} bytes", to_do="look what it is")
    return content


def require_own(path: Path, found: os.stat_result) -> None:
    """Raises PolicyInvalid if others than the user of this process, or root, may change what is at the path."""
    if os.name != "posix":
        return
    what = "the node's folder" if stat.S_ISDIR(found.st_mode) else POLICY_FILE
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise PolicyInvalid(
            f"{what} may be written by others than its owner (mode {stat.S_IMODE(found.st_mode):03o})",
            to_do=f"chmod go-w {path}",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise PolicyInvalid(f"{what} belongs to another user", to_do=f"chown it to the node's user: {path}")


def write_policy(folder: Path, content: bytes) -> None:
    """Replaces the file, so that there is always a whole one; only its owner can read or write it.

    Raises:
        OSError: the disk does not take it.
    """
    partial = folder / f"{POLICY_FILE}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / POLICY_FILE)
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def look_at(folder: Path) -> Look | None:
    """What differs whenever file or folder have changed; None if that cannot be told, so that the file must be read."""
    try:
        of_folder, of_file = folder.stat(), (folder / POLICY_FILE).stat()
    except OSError:
        return None
    if time.time() - max(of_file.st_mtime, of_file.st_ctime) < _COARSEST_SECONDS:
        return None
    return (
        of_folder.st_mode, of_folder.st_uid,
        of_file.st_mode, of_file.st_uid, of_file.st_ino, of_file.st_size, of_file.st_mtime_ns, of_file.st_ctime_ns,
    )  # fmt: skip
