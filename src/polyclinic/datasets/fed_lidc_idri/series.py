"""Which CT series there are, whose scanner made them, and their folds.

``series.txt`` holds the 1018 series of the collection in FLamby's order, a line each: the center's number and the
SeriesInstanceUID without its first part, which is the same for all.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

CENTERS = ("GE", "Philips", "SIEMENS", "TOSHIBA")  # the scanner's manufacturer

UID_PREFIX = "1.3.6.1.4.1.14519.5.2.1.6279.6001."
_SEED = 42
_TEST_FRACTION = 0.2


@cache
def published_series() -> dict[str, tuple[int, str]]:
    """SeriesInstanceUID -> (center, "train" or "test"), in FLamby's order.

    The rule: one stratified split by scikit-learn, 20 % test, seed 42, over the series in this order.
    """
    # Here and not above: scikit-learn is slow to import, and a node that trains does not need it.
    from sklearn.model_selection import train_test_split

    lines = resources.files(__package__).joinpath("series.txt").read_text("ascii").split()
    centers = [int(number) for number in lines[0::2]]
    uids = [UID_PREFIX + ending for ending in lines[1::2]]
    train, _ = train_test_split(uids, test_size=_TEST_FRACTION, stratify=centers, random_state=_SEED)
    in_train = set(train)
    return {uid: (center, "train" if uid in in_train else "test") for uid, center in zip(uids, centers, strict=True)}


def center_and_split(uid: str, manufacturer: str, patient: str) -> tuple[int | None, str]:
    """The center and fold of a series; None for the center if the manufacturer is none of the four.

    The published table decides for the series in it. Any other series gets its center by the Manufacturer tag, and
    80 % "train" by a hash of the PatientID, so that all scans of a patient are in one fold, whoever else joins or
    leaves; without a PatientID, by a hash of its UID.
    """
    known = published_series().get(uid)
    if known is not None:
        return known
    digest = hashlib.blake2b((patient or uid).encode(), digest_size=8).digest()
    split = "train" if int.from_bytes(digest, "big") < (1 - _TEST_FRACTION) * 2**64 else "test"
    words = manufacturer.upper().split()
    found = [number for number, name in enumerate(CENTERS) if words and words[0] == name.upper()]
    return (found[0] if found else None), split
