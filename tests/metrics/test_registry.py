from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import polyclinic.metrics
from polyclinic.errors import AggregationError, ConfigError
from polyclinic.metrics import METRICS, SampleMean, add_counts, get_metric, metric_of_counts
from polyclinic.metrics.registry import HORIZON_METRICS

ERRORS = {"log_loss", "brier", "mae", "mse", "rmse", "loss"}


def batch(name, n=40, seed=0):
    rng = np.random.default_rng(seed)
    if name == "concordance_index":
        return np.stack([rng.integers(0, 2, n), rng.exponential(500, n)], axis=1), rng.normal(size=n)
    return rng.integers(0, 2, n), rng.random(n)


def test_names_are_keys_and_errors_are_better_when_low():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.higher_is_better == (name not in ERRORS)
        assert get_metric(name) is metric


def test_an_unknown_metric_has_a_nearest_known_one():
    with pytest.raises(ConfigError, match="unknown metric 'roc-auc'") as err:
        get_metric("roc-auc")
    assert "'roc_auc'" in err.value.to_do


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        METRICS["mine"] = METRICS["mae"]


def test_public_names_are_sorted_and_real():
    names = polyclinic.metrics.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(polyclinic.metrics, name) for name in names)


def test_the_page_on_metrics_has_a_row_for_each():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = {name for cell in first_cells for name in cell.strip(" `").replace("`", "").split(", ")}
    horizons = {f"{kind}@T" for kind in HORIZON_METRICS}
    assert documented == {*METRICS, *horizons, "SampleMean", "CustomMetric"}


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_rows_and_nodes_cannot_be_read_from_counts(name):
    metric, (y_true, y_pred) = METRICS[name], batch(name)
    order = np.random.default_rng(1).permutation(len(y_true))
    one, other = metric.counts(metric.rows(y_true, y_pred)), metric.counts(metric.rows(y_true[order], y_pred[order]))
    small = metric.counts(metric.rows(y_true[:2], y_pred[:2]))
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-12)
        assert one[key].shape == small[key].shape  # their size says nothing of the number of rows
        assert one[key].dtype in (np.int64, np.float64)


@pytest.mark.parametrize("name", METRICS)
def test_counts_add_up_over_any_two_parts(name):
    metric, (y_true, y_pred) = METRICS[name], batch(name)
    whole = metric.counts(metric.rows(y_true, y_pred))
    for cut in (0, 1, 17, 40):
        parts = add_counts(
            metric.counts(metric.rows(y_true[:cut], y_pred[:cut])),
            metric.counts(metric.rows(y_true[cut:], y_pred[cut:])),
        )
        for key in whole:
            np.testing.assert_allclose(parts[key], whole[key], rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_estimates_are_deterministic_hold_the_value_and_need_counts_only(name):
    metric, (y_true, y_pred) = METRICS[name], batch(name)
    rows = metric.rows(y_true, y_pred)
    counts = metric.counts(rows)
    estimate = metric.estimate(counts)
    assert estimate == metric.estimate(counts) == metric_of_counts(name, counts).estimate(counts)
    own = metric.node_estimate(rows, counts)
    assert own == metric.node_estimate(rows)
    assert own.low <= own.value <= own.high
    assert estimate.num_samples == own.num_samples == 40


@pytest.mark.parametrize("name", METRICS)
def test_metrics_can_be_pickled_and_need_no_batch(name):
    metric = pickle.loads(pickle.dumps(METRICS[name]))
    assert metric.name == name
    assert metric.counts({}) == {}
    assert math.isnan(metric.value({}))
    assert metric.estimate({}).num_samples == 0


def test_counts_of_a_metric_that_only_the_nodes_know_can_be_pooled():
    metric = SampleMean("dice", lambda y_true, y_pred: y_pred)
    counts = metric.counts(metric.rows(np.zeros(4), np.array([0.1, 0.2, 0.4, 0.9])))
    assert metric_of_counts("dice", counts).estimate(counts) == metric.estimate(counts)
    with pytest.raises(AggregationError, match="'dice' came with counts that are not known here: foo"):
        metric_of_counts("dice", {"foo": np.zeros(1)})


INTERVALS = ["accuracy", "balanced_accuracy", "sensitivity", "f1", "f1_macro", "mcc", "roc_auc", "average_precision"]
INTERVALS += ["log_loss", "brier", "rmse", "r2", "cohen_kappa"]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)

    def draw(n):
        y_true = rng.random(n) < 0.3
        return y_true, 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * y_true - 0.75)))

    def estimates(n):
        data = draw(n)
        return {name: METRICS[name].estimate(METRICS[name].counts(METRICS[name].rows(*data))) for name in INTERVALS}

    truth = {name: estimate.value for name, estimate in estimates(400_000).items()}
    repeats = [estimates(120) for _ in range(200)]
    for name in INTERVALS:
        covered = np.mean([one[name].low <= truth[name] <= one[name].high for one in repeats])
        assert 0.89 < covered <= 1, name


def test_importing_metrics_imports_no_heavy_library():
    heavy = {"torch", "pandas", "sklearn", "scipy", "lifelines"}
    code = f"import sys, polyclinic.metrics; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
