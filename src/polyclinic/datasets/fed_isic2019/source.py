"""Where the ISIC 2019 data come from."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.federated_dataset import Card
from polyclinic.errors import DownloadError

CARD = Card(
    name="fed_isic2019",
    title="Fed-ISIC2019",
    task="8 diagnoses in dermoscopy images",
    license="CC BY-NC 4.0, HAM10000 its own terms",
    license_url="https://creativecommons.org/licenses/by-nc/4.0/ and https://doi.org/10.7910/DVN/DBW86T",
    citation=(
        "P. Tschandl et al., The HAM10000 dataset, Sci. Data 2018, 5:180161; "
        "N. Codella et al., Skin lesion analysis toward melanoma detection, arXiv:1710.05006; "
        "M. Combalia et al., BCN20000, arXiv:1908.02288"
    ),
    source_url="https://challenge.isic-archive.com/data/#2019",
    download_size="9 GB",
    needs_data=True,
    samples=((9930, 2483), (3163, 791), (2691, 672), (1807, 452), (655, 164), (351, 88)),
    extra="imaging",
)

IMAGES_ZIP = "ISIC_2019_Training_Input.zip"
NUM_IMAGES = 25_331
_BUCKET = "https://isic-challenge-data.s3.amazonaws.com/2019/"
_BY_HAND = f"By hand: {CARD.source_url} ; put the zip and the two tables of the training data into one folder."
# The tables first: they are small, and tell at once whether the server answers.
FILES = tuple(
    RemoteFile(url=f"{_BUCKET}{name}", name=name, by_hand=_BY_HAND)
    for name in ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv", IMAGES_ZIP)
)


def download(to: str | Path, *, accept_license: bool = False, **options: Any) -> Path:
    """The images as one zip, which need not be unzipped, and two tables; returns their folder.

    HAM10000's own table is not among them: its terms ask to fetch it by hand, and nothing here needs it.

    Args:
        options: those of `fetch`.

    Raises:
        ConfigError: the licence is not accepted.
        DownloadError: a file cannot be had, or is damaged.
    """
    require_license(CARD, accept_license)
    for file in FILES:
        fetch(file, Path(to), **options)
    check(Path(to) / IMAGES_ZIP)
    return Path(to)


def check(path: Path) -> None:
    """Reads the whole zip, some minutes; the publisher gives no digest, so each file's checksum decides.

    Raises:
        DownloadError: a file in it is damaged, or images are missing.
    """
    mend = f"remove {path} and download it again. {_BY_HAND}"
    try:
        with zipfile.ZipFile(path) as archive:
            found = sum(name.lower().endswith(".jpg") for name in archive.namelist())
            # It names a file whose checksum is wrong, but raises for one that cannot even be unpacked.
            if damaged := archive.testzip():
                raise DownloadError(f"{path}: its file {damaged} is damaged", to_do=mend)
    except (zipfile.BadZipFile, zlib.error, EOFError) as err:
        raise DownloadError(f"{path} is not a whole zip, or a file in it is damaged: {err}", to_do=mend) from err
    if found != NUM_IMAGES:
        raise DownloadError(f"{path} holds {found} images, expected {NUM_IMAGES}", to_do=mend)
