"""What errors of plans say, kept at the node for its data manager alone.

Such a text may quote a patient's values, so it stands in this one file, and in no log, journal or reply: the file
``failures.txt`` in the node's folder, which only the node's user may read. Replies and log name a reference into it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from polyclinic.messages.replies import Failure

FILE = "failures.txt"
# Then it becomes ``failures.txt.1``, in the place of an older one.
_MAX_BYTES = 10_000_000
_MAX_TEXT = 100_000


def note_failure(folder: Path, failure: Failure) -> None:
    """Adds an error to the node's file.

    Args:
        folder: the node's.

    Raises:
        OSError: the disk does not take it.
    """
    path = folder / FILE
    if path.exists() and path.stat().st_size > _MAX_BYTES:
        path.replace(path.with_name(f"{FILE}.1"))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    head = f"== {when} UTC, reference {failure.reference or 'none'}, request {failure.request_id}"
    said = f"{failure.code} at {failure.stage}: {failure.what}\n{failure.traceback}"
    # A plan's text steers no terminal when it is read.
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in said[:_MAX_TEXT])
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write(f"{head}\n{text.rstrip()}\n\n")
