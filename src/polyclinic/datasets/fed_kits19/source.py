"""Where the KiTS19 data come from: images from the publisher's host, labels from the repository on GitHub."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from polyclinic.datasets.disk_room import require_room
from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_kits19.cases import IMAGE, LABEL, case_name, folds
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import DownloadError

CARD = Card(
    name="fed_kits19",
    title="Fed-KiTS19",
    task="kidney and tumour segmentation in CT (3-D)",
    license="CC BY-NC-SA 4.0",
    license_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    citation=(
        "N. Heller et al., The KiTS19 Challenge Data, arXiv:1904.00445; "
        "N. Heller et al., Medical Image Analysis 2021, 67:101821"
    ),
    source_url="https://github.com/neheller/kits19",
    download_size="about 10 GB (96 of 300 cases)",
    needs_data=True,
    samples=((9, 3), (11, 3), (9, 3), (9, 3), (12, 4), (24, 6)),
    extra="imaging",
)

# The publisher gives this form of the images' names in an issue of the repository (neheller/kits19, number 62). The
# host has "interpolated_" ones too, for the branch of that name; labels are taken from the branch master.
_IMAGES = "https://kits19.sfo2.digitaloceanspaces.com/master_{number:05d}.nii.gz"
_LABELS = "https://raw.githubusercontent.com/neheller/kits19/master/data/{case}/segmentation.nii.gz"
_BY_HAND = (
    f"By hand: git clone {CARD.source_url} , in it run  python3 -m starter_code.get_imaging , "
    "and give its folder data as the data path."
)
_BLOCK = 1 << 22
_BYTES_A_CASE = 1.1e8  # on average: 10 GB for 96


def download(
    to: str | Path,
    *,
    accept_license: bool = False,
    cases: Sequence[int] | None = None,
    workers: int = 4,
    show_progress: bool = True,
    **options: Any,
) -> Path:
    """The cases of Fed-KiTS19 in the publisher's layout, ``data/case_00000/…``; returns ``to``.

    The publisher gives no digests; each file is checked by the checksum that gzip has in it. A download that broke off
    goes on where it was.

    Args:
        cases: only these case numbers.
        workers: files at a time.
        options: further ones of `fetch`.

    Raises:
        ConfigError: the licence is not accepted.
        DownloadError: the disk has no room; or files cannot be had or are damaged, and the others are there.
    """
    require_license(CARD, accept_license)
    # Here and not above: importing rich draws from Python's global random generator.
    from rich.progress import Progress

    wanted = [
        (Path(to) / "data" / case_name(number), RemoteFile(url=url, name=name, by_hand=_BY_HAND))
        for number in (folds() if cases is None else cases)
        for name, url in (
            (LABEL, _LABELS.format(case=case_name(number))),
            (IMAGE, _IMAGES.format(number=number)),
        )
    ]
    missing = {folder for folder, file in wanted if not (folder / file.name).exists()}
    require_room(Path(to), len(missing) * _BYTES_A_CASE, f"downloading {len(missing)} cases", DownloadError)
    failed: list[DownloadError] = []
    with Progress(disable=not show_progress) as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("Downloading KiTS19, files", total=len(wanted))
        jobs = [pool.submit(_fetch_whole, file, folder, options) for folder, file in wanted]
        try:
            for job in as_completed(jobs):
                # One file must not stop the others; but a refused disk or an interrupt does.
                if isinstance(err := job.exception(), DownloadError):
                    failed.append(err)
                elif err is not None:
                    raise err
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise DownloadError(
            f"{len(failed)} of {len(wanted)} files could not be downloaded; the first: {failed[0].what}",
            to_do=f"repeat the command: what has arrived is kept. {_BY_HAND}",
        )
    return Path(to)


def _fetch_whole(file: RemoteFile, folder: Path, options: dict[str, Any]) -> None:
    """Fetches a file that is not there yet, and reads it to its end."""
    if (folder / file.name).exists():
        return
    # Into a folder of its own, so that what bears the final name has been checked.
    path = fetch(file, folder / ".incoming", show_progress=False, **options)
    try:
        with gzip.open(path) as opened:
            while opened.read(_BLOCK):
                pass
    except (OSError, EOFError, zlib.error) as err:
        path.unlink()
        raise DownloadError(
            f"{file.url} has sent a damaged file: {err}", to_do=f"download it again. {_BY_HAND}"
        ) from err
    path.replace(folder / file.name)
