"""Downloads that resume, retry and are verified.

A file grows as ``<name>.part`` beside its final place and gets its name only when its digest is right, so a file
with the final name is complete. A broken connection continues with an HTTP Range request (RFC 9110, section 14),
guarded by If-Range, so that a file that changed on the server is fetched again from its start.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from filelock import FileLock, Timeout

from polyclinic.datasets.disk_room import require_room
from polyclinic.datasets.federated_dataset import Card
from polyclinic.datasets.licenses import terms
from polyclinic.errors import ConfigError, DownloadError

_BLOCK = 1 << 18  # bytes read at a time
# Asking again can help for these alone: too many requests, and trouble at the server.
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}

Advance = Callable[[int, int | None], None]  # (bytes so far, bytes in all if known)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file to fetch.

    Args:
        url: where it is.
        name: what it is called here.
        sha256, md5: hexadecimal digests; the file is checked against those given.
        by_hand: what a person can do when the address does not answer any more.
    """

    url: str
    name: str
    sha256: str | None = None
    md5: str | None = None
    by_hand: str = ""


def require_license(card: Card, accepted: bool) -> None:
    """Lets a download pass only when its licence was accepted; nothing is ever asked on standard input.

    Raises:
        ConfigError: it was not; the message shows the licence and its address.
    """
    if not accepted:
        raise ConfigError(
            f"{card.title} is under this licence: {card.license}\n  In short: {terms(card.license)}.\n"
            f"  The licence: {card.license_url}\n  Cite: {card.citation}",
            to_do="read it; if you accept it, repeat with --accept-license (in Python: accept_license=True)",
        )


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    attempts: int = 5,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
    show_progress: bool = True,
) -> Path:
    """Downloads one file into a folder, or finds it there already.

    Args:
        attempts: failures in a row, without a byte in between, before giving up.
        backoff_s: seconds before the second attempt; doubled for each further one.
        timeout_s: seconds without a byte after which a connection counts as broken.

    Raises:
        DownloadError: the server refuses, the connection stays broken, the disk has no room, or the bytes are wrong.
    """
    final = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.name}.lock", timeout=0):
            if final.exists():
                _verify(file, final)
                return final
            part = folder / f"{file.name}.part"
            with _progress(file.name, show_progress) as advance:
                fresh = not part.exists()
                _complete(file, part, attempts, backoff_s, timeout_s, advance)
                try:
                    _verify(file, part)
                except DownloadError:
                    part.unlink()
                    if fresh:
                        raise
                    # What lay here from an earlier program may be at fault; the server gets one more chance.
                    _complete(file, part, attempts, backoff_s, timeout_s, advance)
                    _verify(file, part)
            part.replace(final)
            _validator(part).unlink(missing_ok=True)
    except Timeout as err:
        raise DownloadError(
            f"another program is downloading {file.name} to {folder}", to_do="wait until it has finished"
        ) from err
    except OSError as err:
        raise DownloadError(
            f"{file.name} cannot be written to {folder}: {err.strerror or err}",
            to_do="make room or choose another folder; what has arrived is kept and will be continued",
        ) from err
    return final


def _complete(
    file: RemoteFile, part: Path, attempts: int, backoff_s: float, timeout_s: float, advance: Advance
) -> None:
    """Continues the part file until it is whole."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(file, part, timeout_s, advance)
            return
        except urllib.error.HTTPError as err:
            reason = f"the server answers {err.code} {err.reason}"
            err.close()
            if err.code == 416:
                part.unlink(missing_ok=True)  # longer than the file on the server: it is another file by now
            elif err.code not in _WORTH_RETRYING:
                raise _gave_up(file, reason) from None
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as err:
            reason = f"the connection failed: {getattr(err, 'reason', None) or err or type(err).__name__}"
        after = part.stat().st_size if part.exists() else 0
        failures = 1 if after > before else failures + 1
        if failures >= attempts:
            raise _gave_up(file, f"{reason} ({failures} attempts)")
        time.sleep(backoff_s * 2 ** (failures - 1))


def _continue(file: RemoteFile, part: Path, timeout_s: float, advance: Advance) -> None:
    """One connection: appends what the server sends; ConnectionError if it ends too early, DownloadError if the disk
    has no room for what the server says it is going to send."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "polyclinic"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _validator(part).exists():
            request.add_header("If-Range", _validator(part).read_text(encoding="ascii"))
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        resumed = answer.status == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server sent another part than the one asked for")
        have = have if resumed else 0
        total = _total(answer.headers, have)
        if total is not None:
            require_room(part.parent, total - have, f"downloading {file.name}", DownloadError)
        etag = answer.headers.get("ETag", "")
        # A weak validator may not guard a range; without a guard the digest alone decides in the end.
        if etag.startswith('"') and etag.isascii():
            _validator(part).write_text(etag, encoding="ascii")
        with part.open("ab" if resumed else "wb") as out:
            while block := answer.read(_BLOCK):
                out.write(block)
                have += len(block)
                advance(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have} of {total} bytes")


def _total(headers: Message, have: int) -> int | None:
    length = headers.get("Content-Length", "")
    return have + int(length) if length.isdecimal() else None


def _validator(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _verify(file: RemoteFile, path: Path) -> None:
    """DownloadError if a digest is given and the file has another."""
    # MD5 finds damage, not malice; it is all that some publishers give.
    for algorithm, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected is None:
            continue
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, algorithm)
        if found.hexdigest() != expected.lower():
            raise DownloadError(
                f"{path} is not the expected file: its {algorithm} is {found.hexdigest()}, expected {expected}",
                to_do=f"remove it and download again. {file.by_hand}".strip(),
            )


def _gave_up(file: RemoteFile, reason: str) -> DownloadError:
    return DownloadError(
        f"{file.url} cannot be downloaded: {reason}",
        to_do=f"try again later; what has arrived is kept and will be continued. {file.by_hand}".strip(),
    )


class _progress:  # noqa: N801
    """A bar on the screen while a file comes in."""

    def __init__(self, name: str, shown: bool) -> None:
        # Here and not above: importing rich draws from Python's global random generator.
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), disable=not shown
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Advance:
        self._bar.start()
        return lambda done, total: self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
