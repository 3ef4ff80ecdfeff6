"""Colours and lines that can be told apart, also with the common kinds of colour blindness.

Okabe and Ito, Color Universal Design, 2008, without yellow, and with Tol's wine (Colour Schemes, SRON/EPS/TN/09-002,
2021).
"""

from __future__ import annotations

from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.4, 1.2, 1.4)))
