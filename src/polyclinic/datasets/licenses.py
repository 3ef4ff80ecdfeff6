"""What the licences of the datasets ask of who uses them, in short; the licence itself is at its address."""

from __future__ import annotations

_BY = "name the authors, link the licence, and say what you changed"
_SHARE = "you may copy, change and share the data"

TERMS: dict[str, str] = {
    "CC0 1.0": f"{_SHARE} for any purpose; nothing is asked in return, and nothing is warranted",
    "CC BY 3.0": f"{_SHARE} for any purpose, also a commercial one: {_BY}",
    "CC BY 4.0": f"{_SHARE} for any purpose, also a commercial one: {_BY}",
    "CC BY-SA 3.0": f"{_SHARE} for any purpose, also a commercial one: {_BY}; what you make of them and share comes "
    "under this licence too",
    "CC BY-NC-SA 4.0": f"{_SHARE}, but not for commercial purposes: {_BY}; what you make of them and share comes under "
    "this licence too",
    "CC BY-NC 4.0, HAM10000 its own terms": f"{_SHARE}, but not for commercial purposes: {_BY}; the HAM10000 images "
    "have terms of use of their own, at the second address",
    "GDC open access": "free to use for research; do not try to find out who the patients are, and name TCGA and the "
    "GDC as the source",
}


def terms(name: str) -> str:
    """A sentence of what the licence of this name allows and asks."""
    return TERMS.get(name, "its terms are at its address only")
