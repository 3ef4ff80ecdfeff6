"""Where the LIDC-IDRI data come from: The Cancer Imaging Archive (TCIA), one zip a CT series, and one of XML files."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from polyclinic.datasets.disk_room import require_room
from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_lidc_idri.series import published_series
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import DownloadError

CARD = Card(
    name="fed_lidc_idri",
    title="Fed-LIDC-IDRI",
    task="lung nodule segmentation in CT (3-D)",
    license="CC BY 3.0",
    license_url="https://creativecommons.org/licenses/by/3.0/",
    citation=(
        "S. G. Armato III et al., Data From LIDC-IDRI, The Cancer Imaging Archive 2015, "
        "doi 10.7937/K9/TCIA.2015.LO9QL9SX; and Med. Phys. 2011, 38:915"
    ),
    source_url="https://www.cancerimagingarchive.net/collection/lidc-idri/",
    download_size="130 GB",
    needs_data=True,
    samples=((530, 131), (59, 15), (164, 41), (55, 14)),
    extra="imaging",
)

# In the order in which they are tried. {uid} is a SeriesInstanceUID. The zips come with the MD5 of each file.
ADDRESSES: dict[str, tuple[str, ...]] = {
    "series list": (
        "https://nbia.cancerimagingarchive.net/nbia-api/services/v4/getSeries"
        "?Collection=LIDC-IDRI&Modality=CT&format=json",
        "https://services.cancerimagingarchive.net/nbia-api/services/v1/getSeries"
        "?Collection=LIDC-IDRI&Modality=CT&format=json",
    ),
    "series": (
        "https://nbia.cancerimagingarchive.net/nbia-api/services/v4/getImageWithMD5Hash?SeriesInstanceUID={uid}",
        "https://services.cancerimagingarchive.net/nbia-api/services/v1/getImageWithMD5Hash?SeriesInstanceUID={uid}",
    ),
    "annotations": (
        "https://www.cancerimagingarchive.net/wp-content/uploads/LIDC-XML-only.zip",
        "https://wiki.cancerimagingarchive.net/download/attachments/1966254/LIDC-XML-only.zip?api=v2",
    ),
}
# Reported by others in 2026; the archive gives none, and may pack the same files anew. So it is no more than a hint.
_REPORTED_SHA256 = "644557a3aa305602609c718b0cae33a93be762e8901a80bcd9df735b0ec6ab90"
_BY_HAND = (
    f"By hand: open {CARD.source_url} , get the CT series with the NBIA Data Retriever and the annotations "
    "(LIDC-XML-only.zip), and put both below one folder."
)
_BYTES_A_SLICE = 512 * 512 * 2
_AT_A_TIME = 4  # connections; more make the archive slower, not faster


def download(
    to: str | Path,
    *,
    accept_license: bool = False,
    series: Sequence[str] | None = None,
    workers: int = _AT_A_TIME,
    show_progress: bool = True,
    **options: Any,
) -> Path:
    """All CT series, each in a folder named by its UID, and the XML files; returns ``to``.

    A series that is there already is not fetched again, so the same call goes on after an interruption.

    Args:
        series: SeriesInstanceUIDs of those wanted; default: all 1018.
        workers: series at a time.
        options: of `fetch`.

    Raises:
        ConfigError: the licence is not accepted.
        DownloadError: a file cannot be had from any address, or is damaged. Other series are fetched first.
    """
    require_license(CARD, accept_license)
    folder = Path(to)
    wanted = list(published_series()) if series is None else list(series)
    _annotations(folder, show_progress=show_progress, **options)
    num_slices = _list_of_series(folder, **options)
    unknown = [uid for uid in wanted if uid not in num_slices]
    if unknown:
        raise DownloadError(
            f"the archive's list of LIDC-IDRI lacks {len(unknown)} series, the first is {unknown[0]}",
            to_do=f"look at {CARD.source_url} for news of the collection",
        )
    todo = [uid for uid in wanted if not (folder / "LIDC-IDRI" / uid).is_dir()]
    # The archive tells no sizes, but it lists slices. Files are as large as their pixels, with a little around them.
    num_bytes = sum(num_slices[uid] for uid in todo) * _BYTES_A_SLICE
    require_room(folder, num_bytes, f"downloading {len(todo)} series", DownloadError)
    failed = _fetch_all(todo, folder, num_slices, workers, show_progress, options)
    if failed:
        uid, err = next(iter(failed.items()))
        raise DownloadError(
            f"{len(failed)} of {len(wanted)} series could not be downloaded; {uid}: {err.what}",
            to_do=f"repeat the command, which fetches only what is missing. {err.to_do}",
        )
    return folder


def _fetch_all(
    uids: Sequence[str],
    folder: Path,
    num_slices: Mapping[str, int],
    workers: int,
    show_progress: bool,
    options: Mapping[str, Any],
) -> dict[str, DownloadError]:
    """Fetches the series; returns those that failed."""
    # Here and not above: importing rich draws from Python's global random generator.
    from rich.progress import Progress

    failed: dict[str, DownloadError] = {}
    with Progress(disable=not show_progress or not uids) as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("LIDC-IDRI, CT series", total=len(uids))
        jobs = {pool.submit(_series, uid, folder, num_slices[uid], **options): uid for uid in uids}
        try:
            for job in as_completed(jobs):
                if isinstance(err := job.exception(), DownloadError):
                    failed[jobs[job]] = err
                elif err is not None:
                    raise err
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _series(uid: str, folder: Path, num_slices: int, **options: Any) -> None:
    """One series: its zip, verified, unpacked into a folder that is either whole or not there."""
    path = _fetch("series", f"{uid}.zip", folder, uid=uid, show_progress=False, **options)
    place = folder / "LIDC-IDRI" / uid
    unfinished = place.with_name(f"{uid}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_series(archive, path, num_slices)
            archive.extractall(unfinished)
    except (zipfile.BadZipFile, EOFError) as err:
        # The archive makes zips on request and sends no length, so a broken one can look complete until here.
        path.unlink()
        raise DownloadError(f"{path.name} is not a whole zip: {err}", to_do=f"download it again. {_BY_HAND}") from err
    except DownloadError:
        path.unlink()
        raise
    unfinished.replace(place)
    path.unlink()


def _check_series(archive: zipfile.ZipFile, path: Path, num_slices: int) -> None:
    """Checks the number of slices, and each slice against its MD5 where the zip brings them."""
    mend = f"download it again. {_BY_HAND}"
    names = [name for name in archive.namelist() if name.lower().endswith(".dcm")]
    if len(names) != num_slices:
        raise DownloadError(f"{path.name} holds {len(names)} slices, the archive lists {num_slices}", to_do=mend)
    hashes = {}
    if "md5hashes.csv" in archive.namelist():
        rows = csv.reader(archive.read("md5hashes.csv").decode("utf-8-sig").splitlines())
        hashes = {row[0].strip(): row[1].strip().lower() for row in rows if len(row) >= 2}
    for name in names:
        # Reading also compares with the checksum that a zip has for each of its files.
        found = hashlib.md5(archive.read(name), usedforsecurity=False).hexdigest()
        if name in hashes and found != hashes[name]:
            raise DownloadError(
                f"{path.name}: its file {name} is damaged (MD5 {found}, not {hashes[name]})", to_do=mend
            )


def _list_of_series(folder: Path, **options: Any) -> dict[str, int]:
    """SeriesInstanceUID -> number of slices, as the archive lists them."""
    path = _fetch("series list", "series.json", folder, show_progress=False, **options)
    try:
        rows = json.loads(path.read_text("utf-8"))
        return {str(row["SeriesInstanceUID"]): int(row["ImageCount"]) for row in rows}
    except (ValueError, KeyError, TypeError) as err:
        path.unlink()
        raise DownloadError(
            f"the archive's list of series cannot be understood: {type(err).__name__} {err}",
            to_do=f"try again later. {_BY_HAND}",
        ) from err


def _annotations(folder: Path, *, show_progress: bool, **options: Any) -> None:
    """The XML files, unpacked into a folder that is either whole or not there."""
    place = folder / "LIDC-XML-only"
    if place.is_dir():
        return
    path = _fetch("annotations", "LIDC-XML-only.zip", folder, show_progress=show_progress, **options)
    unfinished = folder / "LIDC-XML-only.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unfinished)
    except (zipfile.BadZipFile, EOFError) as err:
        path.unlink()
        raise DownloadError(f"{path.name} is not a whole zip: {err}", to_do=f"download it again. {_BY_HAND}") from err
    if not any(unfinished.rglob("*.xml")):
        raise DownloadError(f"{path} holds no XML file", to_do=f"remove it and download it again. {_BY_HAND}")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != _REPORTED_SHA256:
        warnings.warn(
            f"{path.name} is whole, but is not byte for byte the file that others report (SHA-256 {digest}, "
            f"reported {_REPORTED_SHA256}); it may have been packed anew by the archive",
            stacklevel=2,
        )
    unfinished.replace(place)


def _fetch(kind: str, name: str, folder: Path, *, uid: str = "", **options: Any) -> Path:
    """A file from the first of its addresses that has it."""
    problem: DownloadError | None = None
    for address in ADDRESSES[kind]:
        try:
            return fetch(RemoteFile(url=address.format(uid=uid), name=name, by_hand=_BY_HAND), folder, **options)
        except DownloadError as err:
            # What one address has begun must not be continued with the bytes of another.
            (folder / f"{name}.part").unlink(missing_ok=True)
            (folder / f"{name}.part.etag").unlink(missing_ok=True)
            problem = problem or err
    assert problem is not None
    raise problem
