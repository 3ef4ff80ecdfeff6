"""The figures that FLamby published, to be shown beside one's own.

Source: Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings, NeurIPS 2022 Datasets and Benchmarks, arXiv:2210.04620, and the results files of the FLamby
repository (github.com/owkin/FLamby, MIT licence). Methods, centers and metrics have our names here.

``variant`` is "" for the figures of the main tables. Fed-Camelyon16 has two more: "phikon" (other features) and
"legacy" (the paper's figure). "personalization" and "privacy …" are the two examples of the repository.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MAIN_VARIANTS = ("", "phikon", "legacy")


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """One published figure.

    Attributes:
        dataset: "fed_…".
        variant: "" or what was different.
        method: "Pooled", "Local <center>", or a strategy.
        test: "mean" over centers, "pooled" test data, or a center's name.
        metric: its name in `polyclinic.metrics`.
        mean: over seeds.
        sd: over seeds, with n - 1; NaN where it was not published or there was one run.
        n: seeds whose run gave a figure.
    """

    dataset: str
    variant: str
    method: str
    test: str
    metric: str
    mean: float
    sd: float
    n: int


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """All figures, in the order of the file ``published.csv``."""
    text = files("polyclinic.benchmark").joinpath("published.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        PublishedValue(
            dataset=row["dataset"],
            variant=row["variant"],
            method=row["method"],
            test=row["test"],
            metric=row["metric"],
            mean=float(row["mean"]),
            sd=float(row["sd"] or math.nan),
            n=int(row["n"]),
        )
        for row in csv.DictReader(lines)
    )
