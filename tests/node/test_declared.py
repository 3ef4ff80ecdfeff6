"""What replies may hold is what the code that makes them makes."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from polyclinic import compression
from polyclinic.messages.requests import EvaluateRequest
from polyclinic.metrics import METRICS, CustomMetric, SampleMean, get_metric
from polyclinic.metrics.registry import HORIZON_METRICS
from polyclinic.node import declared
from polyclinic.node.local_evaluation import choose_metrics
from polyclinic.node.tensor_file import read_header
from tests.node.governed import dataset, request

DRAW = np.random.default_rng(0)
CLASSES, SCORES = DRAW.integers(0, 2, 20), DRAW.random(20)
TIMES = np.c_[DRAW.integers(0, 2, 20), 10 * DRAW.random(20)]


def rows_of(metric):
    """Rows that the metric takes."""
    for target, prediction in (
        (CLASSES, SCORES),
        (TIMES, SCORES),
        (TIMES, np.sort(DRAW.random((20, 10)), axis=1)[:, ::-1]),
    ):
        try:
            return metric.rows(target, prediction)
        except Exception:
            continue
    pytest.fail(f"no data fit {metric.name}")


def written(tmp_path, metric):
    """The counts' entries, as they stand in a reply's file."""
    counts = {name: torch.from_numpy(np.asarray(array)) for name, array in metric.counts(rows_of(metric)).items()}
    save_file(counts, tmp_path / "x")
    return read_header(tmp_path / "x")


@pytest.mark.parametrize("name", [*METRICS, *(f"{kind}@5" for kind in HORIZON_METRICS)])
def test_the_counts_of_every_metric_are_declared(tmp_path, name):
    entries = written(tmp_path, get_metric(name))
    possible = declared.counts_of(name, dataset())
    assert any(not list(declared.differences(one, entries)) for one in possible)
    assert {} in possible  # of a node without samples


@pytest.mark.parametrize(
    "own", [SampleMean("dice", lambda y, p: np.abs(y - p)), CustomMetric("dice", lambda y, p: float(np.mean(y)))]
)
def test_the_counts_of_a_datasets_own_metric_are_declared(tmp_path, own):
    entries = written(tmp_path, own)
    assert any(
        not list(declared.differences(one, entries)) for one in declared.counts_of("dice", dataset(metric="dice"))
    )
    assert all(list(declared.differences(one, entries)) for one in declared.counts_of("dice", dataset()))


@pytest.mark.parametrize("classes", [(), ("no", "yes")], ids=str)
@pytest.mark.parametrize("metrics", [None, (), ("roc_auc", "loss")], ids=str)
def test_the_metrics_are_those_that_the_node_chooses(classes, metrics):
    asked = request(EvaluateRequest, metrics=metrics)
    chosen = tuple(metric.name for metric in choose_metrics(metrics, None, classes))
    assert declared.metrics_asked(asked, dataset(classes=classes)) == chosen


def test_a_compressed_tensors_scale_has_the_name_that_compression_gives_it():
    assert declared.SCALE == compression.SCALE


def test_a_metric_with_an_impossible_horizon_has_no_counts():
    assert declared.counts_of("time_dependent_auc@-1", dataset()) == [{}]
    assert declared.counts_of(f"time_dependent_auc@{math.nan}", dataset()) == [{}]
