"""The published figures against the text they were taken from, and against each other."""

import importlib
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from polyclinic.benchmark.published import MAIN_VARIANTS, published_values

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "flamby_datasets.md"
STRATEGIES = ("FedAverage", "FedProx", "Scaffold", "Cyclic", "FedAdam", "FedYogi", "FedAdagrad")
CENTERS = {
    "fed_camelyon16": 2,
    "fed_lidc_idri": 4,
    "fed_ixi": 3,
    "fed_tcga_brca": 6,
    "fed_kits19": 6,
    "fed_isic2019": 6,
    "fed_heart_disease": 4,
}
MAIN = [value for value in published_values() if value.variant in MAIN_VARIANTS]


def find(dataset, method, test, variant=""):
    (found,) = [
        v for v in published_values() if (v.dataset, v.method, v.test, v.variant) == (dataset, method, test, variant)
    ]
    return found


def test_every_method_has_a_figure_at_every_test_set():
    """K centers give 1 + K + 7 methods, each judged at K centers, on average and pooled."""
    expected = {(d, ""): (8 + k) * (k + 2) for d, k in CENTERS.items()}
    expected |= {("fed_camelyon16", variant): 10 * 4 for variant in ("phikon", "legacy")}
    assert Counter((v.dataset, v.variant) for v in MAIN) == expected
    # Personalization: three datasets, with and without. Privacy: none, and four deltas for each of two epsilons.
    assert len(published_values()) - len(MAIN) == 3 * 2 + 1 + 8
    assert len({(v.dataset, v.variant, v.method, v.test) for v in published_values()}) == len(published_values())


def test_names_are_ours():
    for dataset in CENTERS:
        module = importlib.import_module(f"polyclinic.datasets.{dataset}")
        found = [v for v in MAIN if v.dataset == dataset]
        assert {v.test for v in found} == {*module.CENTERS, "mean", "pooled"}
        assert {v.method for v in found} == {"Pooled", *(f"Local {c}" for c in module.CENTERS), *STRATEGIES}
        assert {v.metric for v in found} == {module.METRIC.name}


def test_the_mean_over_centers_is_that_of_the_centers():
    """Centers have three decimals, means four: they agree to 0.0005 and the mean's own rounding."""
    arms = defaultdict(dict)
    for value in MAIN:
        arms[value.dataset, value.variant, value.method][value.test] = value
    for arm, by_test in arms.items():
        centers = [value.mean for test, value in by_test.items() if test not in ("mean", "pooled")]
        assert math.isclose(sum(centers) / len(centers), by_test["mean"].mean, abs_tol=0.00056), arm
        assert len({value.n for value in by_test.values()}) == 1, arm


def test_one_run_has_no_spread():
    assert all(math.isnan(value.sd) == (value.n == 1) for value in MAIN)
    assert {value.n for value in MAIN if value.dataset == "fed_lidc_idri"} == {1}


@pytest.mark.parametrize(
    ("table", "line", "values"),
    [
        (
            "**Fed-TCGA-BRCA** — C-index",
            "| Local 3 | 0.6562 ± 0.0654 | 0.5650 ± 0.0703 |",
            [("fed_tcga_brca", "Local Midwest", "mean", ""), ("fed_tcga_brca", "Local Midwest", "pooled", "")],
        ),
        (
            "**Fed-Camelyon16 with Phikon features** — ROC-AUC",
            "| FedAvg | 0.7471 ± 0.1966 [n=4] | 0.7623 ± 0.1841 [n=4] |",
            [("fed_camelyon16", "FedAverage", "mean", "phikon"), ("fed_camelyon16", "FedAverage", "pooled", "phikon")],
        ),
        (
            "**Fed-LIDC-IDRI**\n",
            "| Local 2 | 0.239 | 0.254 | 0.282 | 0.349 |",
            [("fed_lidc_idri", "Local SIEMENS", test, "") for test in ("GE", "Philips", "SIEMENS", "TOSHIBA")],
        ),
        (
            "**Fed-Heart-Disease**\n",
            "| Cyclic | 0.758 ± 0.014 | 0.762 ± 0.015 | 0.713 ± 0.095 | 0.640 ± 0.019 |",
            [("fed_heart_disease", "Cyclic", c, "") for c in ("Cleveland", "Hungary", "Switzerland", "Long Beach VA")],
        ),
    ],
    ids=["brca", "phikon", "lidc", "heart"],
)
def test_values_are_those_of_the_reference(table, line, values):
    if not REFERENCE.exists():
        pytest.skip("the reference text is not here")
    text = REFERENCE.read_text(encoding="utf-8")
    after = text[text.index(table) :]
    assert line in after[: after.index("\n\n**")]
    cells = re.findall(r"(0\.\d+)(?: ± (0\.\d+))?(?: \[n=(\d)\])?", line)
    for (mean, sd, n), (dataset, method, test, variant) in zip(cells, values, strict=True):
        found = find(dataset, method, test, variant)
        assert found.mean == float(mean)
        assert math.isnan(found.sd) if not sd else found.sd == float(sd)
        assert found.n == int(n or (5 if sd else 1))
