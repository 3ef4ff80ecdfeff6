"""Where the IXI data come from."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_ixi.subjects import open_raw
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import DownloadError

CARD = Card(
    name="fed_ixi",
    title="Fed-IXI",
    task="brain segmentation in T1 MR images (3-D)",
    license="CC BY-SA 3.0",
    license_url="https://creativecommons.org/licenses/by-sa/3.0/",
    citation=(
        "IXI dataset, brain-development.org; "
        "F. Pérez-García et al., TorchIO, Comput. Methods Programs Biomed. 2021, 208:106236"
    ),
    source_url="https://data.mendeley.com/datasets/7kd5wj7v7p/3",
    download_size="444 MB",
    needs_data=True,
    samples=((249, 62), (145, 36), (59, 15)),
    extra="imaging",
)

# The first has moved before; the second is the publisher's own doorway.
_ADDRESSES = (
    "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/7kd5wj7v7p-3.zip",
    "https://data.mendeley.com/public-api/zip/7kd5wj7v7p/download/3",
)
_NAME = "7kd5wj7v7p-3.zip"
_BY_HAND = f"By hand: open {CARD.source_url} , choose 'Download All', and give the zip as the data path."
# Others report this digest; the publisher gives none, and may pack the same files anew. So it is no more than a hint,
# and what decides is the checksum that a zip has for each of its files.
_REPORTED_MD5 = "eecb83422a2685937a955251fa45cb03"
_NUM_SUBJECTS = 566


def download(to: str | Path, *, accept_license: bool = False, **options: Any) -> Path:
    """IXI Tiny as one zip, which need not be unzipped; returns its path. See `fetch` for the options.

    Raises:
        ConfigError: the licence is not accepted.
        DownloadError: the zip cannot be had from any address, or is damaged.
    """
    require_license(CARD, accept_license)
    path: Path | None = None
    for number, url in enumerate(_ADDRESSES, start=1):
        try:
            path = fetch(RemoteFile(url=url, name=_NAME, by_hand=_BY_HAND), Path(to), **options)
            break
        except DownloadError:
            if number == len(_ADDRESSES):
                raise
    assert path is not None
    check(path)
    return path


def check(path: Path) -> None:
    """Reads the whole zip; DownloadError if a file in it is damaged or subjects are missing."""
    mend = f"remove {path} and download it again. {_BY_HAND}"
    try:
        with zipfile.ZipFile(path) as archive:
            # It names a file whose checksum is wrong, but raises for one that cannot even be unpacked.
            if damaged := archive.testzip():
                raise DownloadError(f"{path}: its file {damaged} is damaged", to_do=mend)
    except (zipfile.BadZipFile, zlib.error, EOFError) as err:
        raise DownloadError(f"{path} is not a whole zip, or a file in it is damaged: {err}", to_do=mend) from err
    found = len(open_raw(path).subjects)
    if found != _NUM_SUBJECTS:
        raise DownloadError(f"{path} holds {found} subjects, expected {_NUM_SUBJECTS}", to_do=mend)
    with path.open("rb") as opened:
        md5 = hashlib.file_digest(opened, "md5").hexdigest()
    if md5 != _REPORTED_MD5:
        warnings.warn(
            f"{path.name} is whole, but is not byte for byte the file that others report (MD5 {md5}, "
            f"reported {_REPORTED_MD5}); it may have been packed anew by the publisher",
            stacklevel=2,
        )
