"""A split into train and test that is kept by identity.

Every identity (a patient, a file, a row's content) gets the number  h = blake2b(seed, identity) / 2**64  and is
in test if  h < test_fraction.  So neither the order of the rows nor rows that are added later move a row, and
the share of test rows is near test_fraction, not exactly it.

No rule without a memory can promise that and also two parts that are never empty (of three identities, two lie
on one side; a file of just these two would be split otherwise). So where a stratum of two or more identities lies
on one side only, one of them is *lent* to the other: the one whose number is nearest to the threshold. A lent
identity can return when others of its stratum are added. ``Split.lent`` counts them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    test: NDArray[np.bool_]  # (n,) one a row: is it in test?
    lent: int  # identities that are not where their own number puts them


def split_rows(
    identities: Sequence[bytes],
    *,
    test_fraction: float,
    seed: int,
    strata: NDArray[np.int64] | None = None,
) -> Split:
    """Splits rows so that all rows of one identity are on one side.

    Args:
        identities: (n,) one a row.
        strata: (n,) the class of each row; each class is then on both sides, if it has two identities.
            An identity with rows of several classes counts for the highest.
    """
    first_row: dict[bytes, int] = {}
    of_row = np.array([first_row.setdefault(key, len(first_row)) for key in identities], dtype=np.int64)
    numbers = np.array([_number(seed, key) for key in first_row], dtype=np.float64)
    test = numbers < test_fraction

    stratum = np.zeros(len(numbers), dtype=np.int64)
    if strata is not None:
        stratum[:] = np.iinfo(np.int64).min
        np.maximum.at(stratum, of_row, strata)
    lent = sum(_lend(test, numbers, np.flatnonzero(stratum == value)) for value in np.unique(stratum))
    lent += _lend(test, numbers, np.arange(len(numbers)))
    return Split(test=test[of_row], lent=lent)


def _number(seed: int, identity: bytes) -> float:
    digest = hashlib.blake2b(f"{seed}\0".encode() + identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _lend(test: NDArray[np.bool_], numbers: NDArray[np.float64], members: NDArray[np.int64]) -> int:
    """Puts one member on the other side if all of two or more are on one side; how many it moved."""
    if len(members) < 2 or 0 < test[members].sum() < len(members):
        return 0
    if test[members[0]]:
        test[members[np.argmax(numbers[members])]] = False
    else:
        test[members[np.argmin(numbers[members])]] = True
    return 1


def split_notes(split: Split, test_fraction: float) -> list[str]:
    """What a data manager should know of this split."""
    total, test = len(split.test), int(split.test.sum())
    notes = [
        f"{test} of {total} are in test ({test / total:.1%}, asked for {test_fraction:.1%}): "
        "each is placed by a hash, so the share is approximate and nothing moves when data are added."
    ]
    if split.lent:
        notes.append(
            f"{split.lent} of them {'was' if split.lent == 1 else 'were'} moved so that no class is missing "
            "on one side; this may be undone when data are added."
        )
    return notes
