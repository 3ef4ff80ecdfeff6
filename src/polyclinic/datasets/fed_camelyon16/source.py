"""Where the Camelyon16 slides come from: the organisers' place on Amazon's open data, which needs no account."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from polyclinic.datasets.disk_room import require_room
from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_camelyon16.slides import published_slides, slide_of
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import DownloadError

CARD = Card(
    name="fed_camelyon16",
    title="Fed-Camelyon16",
    task="metastases in slides of lymph nodes",
    license="CC0 1.0",
    license_url="https://creativecommons.org/publicdomain/zero/1.0/",
    citation=(
        "B. Ehteshami Bejnordi et al., Diagnostic Assessment of Deep Learning Algorithms for Detection of Lymph Node "
        "Metastases in Women With Breast Cancer, JAMA 2017, 318(22):2199-2210"
    ),
    source_url="https://camelyon17.grand-challenge.org/Data/",
    download_size="700 GB",
    needs_data=True,
    samples=((169, 74), (101, 55)),
    extra="pathology",
)

_ADDRESS = "https://camelyon-dataset.s3.us-west-2.amazonaws.com/CAMELYON16"
_BYTES_A_SLIDE = 1.75e9  # on average: 700 GB for 399
_CHECKSUMS = "checksums.md5"
_BY_HAND = f"By hand: {CARD.source_url} names other places that have the slides."
_MD5_LINE = re.compile(r"([0-9a-fA-F]{32})\s+\*?(.+)")


def download(
    to: str | Path,
    *,
    accept_license: bool = False,
    slides: Iterable[str] | None = None,
    workers: int = 4,
    show_progress: bool = True,
    **options: Any,
) -> Path:
    """Fetches slides, several at a time, and checks each against the organisers' MD5; returns ``to``.

    What is there is not fetched again, and what is there in part is continued.

    Args:
        slides: names like "tumor_001"; by default all 399, 700 GB.
        workers: slides at a time.
        options: those of `fetch`.

    Raises:
        ConfigError: the licence is not accepted.
        DatasetError: Camelyon16 has no slide of a name.
        DownloadError: the disk has no room; or slides cannot be had, and the others are there.
    """
    require_license(CARD, accept_license)
    names = [slide.name for slide in published_slides()] if slides is None else [slide_of(name).name for name in slides]
    folder = Path(to)
    missing = [name for name in names if not (folder / f"{name}.tif").exists()]
    require_room(folder, len(missing) * _BYTES_A_SLIDE, f"downloading {len(missing)} slides", DownloadError)
    md5 = _published_md5(folder, **options)
    failed: dict[str, DownloadError] = {}

    # Here and not above: importing rich draws from Python's global random generator.
    from rich.progress import MofNCompleteColumn, Progress

    # One bar for all slides: a terminal has no room for several.
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn(), disable=not show_progress) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = progress.add_task("Slides", total=len(names))
        jobs = {pool.submit(fetch, _remote(n, md5), folder, show_progress=False, **options): n for n in names}
        try:
            for job in as_completed(jobs):
                if isinstance(err := job.exception(), DownloadError):
                    failed[jobs[job]] = err
                else:
                    job.result()
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        name = min(failed)
        raise DownloadError(
            f"{len(failed)} of {len(names)} slides could not be downloaded; {name}: {failed[name].what}",
            to_do=f"repeat the command; what has arrived is kept. {_BY_HAND}",
        )
    return folder


def _remote(name: str, md5: dict[str, str]) -> RemoteFile:
    file = f"{name}.tif"
    return RemoteFile(url=f"{_ADDRESS}/images/{file}", name=file, md5=md5.get(file), by_hand=_BY_HAND)


def _published_md5(folder: Path, **options: Any) -> dict[str, str]:
    """File name -> MD5, as the organisers publish it beside the slides; masks have names of their own."""
    file = RemoteFile(url=f"{_ADDRESS}/{_CHECKSUMS}", name=_CHECKSUMS, by_hand=_BY_HAND)
    lines = fetch(file, folder, show_progress=False, **options).read_text("utf-8", errors="replace").splitlines()
    matches = [match for line in lines if (match := _MD5_LINE.fullmatch(line.strip()))]
    found = {match[2].replace("\\", "/").rpartition("/")[2].lower(): match[1].lower() for match in matches}
    if not found:
        (folder / _CHECKSUMS).unlink(missing_ok=True)
        raise DownloadError(f"{file.url} holds no checksums", to_do=f"try again later. {_BY_HAND}")
    return found
