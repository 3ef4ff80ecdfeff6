from __future__ import annotations

import json
import math

import pytest

from polyclinic.benchmark import protocols
from polyclinic.benchmark.cells import Cell, Diverged, Measured, Outcome, run_cell, with_mean
from polyclinic.benchmark.results import ResultsFile
from polyclinic.errors import ConfigError

CELL = Cell("made up", "fed_heart_disease", "FedProx", {"mu": 1, "lr": 0.5}, 7, {"rounds": 3, "fixes": ["b", "a"]})


@pytest.fixture
def ends(monkeypatch):
    """Sets what the protocol "made up" does with a cell."""

    def with_this(action):
        class MadeUp:
            def run(self, cell):
                return action()

        monkeypatch.setitem(protocols.PROTOCOLS, "made up", MadeUp())
        return run_cell(CELL)

    return with_this


def raise_(error):
    raise error


def test_the_mean_is_over_centers_each_counting_once():
    figures = [
        Measured(3, "A", 0.2, 10, 99, final=True),
        Measured(3, "B", 0.4, 30, 99, final=True),
        Measured(3, "pooled", 0.9, 40, 99, final=True),
    ]
    assert with_mean(figures) == [*figures, Measured(3, "mean", pytest.approx(0.3), 40, 99, final=True)]


def test_a_mean_with_an_undefined_center_is_undefined():
    mean = with_mean([Measured(1, "A", math.nan, 1), Measured(1, "B", 0.4, 3), Measured(1, "pooled", 0.4, 4)])[-1]
    assert math.isnan(mean.value)


def test_rows_of_a_cell_that_is_done(ends, tmp_path):
    figures = [Measured(1, "pooled", 0.5, 9, 100), Measured(3, "pooled", 0.7, 9, 300, final=True)]
    rows = ends(lambda: Outcome("accuracy", figures, round=3, training_seconds=1.25))
    assert [(row.round, row.test, row.value, row.num_samples, row.bytes, row.final) for row in rows] == [
        (1, "pooled", 0.5, 9, 100, False),
        (3, "pooled", 0.7, 9, 300, True),
    ]
    first = rows[0]
    assert (first.protocol, first.dataset, first.method, first.seed) == ("made up", "fed_heart_disease", "FedProx", 7)
    assert (first.metric, first.status, first.detail, first.training_seconds) == ("accuracy", "done", "", 1.25)
    assert json.loads(first.settings) == {"mu": 1, "lr": 0.5}
    assert json.loads(first.configuration) == {"rounds": 3, "fixes": ["b", "a"]}
    assert {"python", "torch", "polyclinic"} <= set(json.loads(first.versions))
    assert {(row.cell, row.rows) for row in rows} == {(CELL.id, 2)}
    assert first.peak_memory > 10_000_000  # Python with torch needs more than that
    assert first.seconds >= 0
    assert first.finished.endswith("+00:00")
    file = ResultsFile(tmp_path / "results.csv")
    file.append(rows)
    assert file.read() == rows


def test_rows_of_a_cell_that_diverged(ends):
    curve = [Measured(1, "pooled", 0.5, 9), Measured(2, "pooled", 0.1, 9)]
    rows = ends(lambda: raise_(Diverged(3, "the loss\n  is nan", curve)))
    assert [(row.round, row.test, row.final, row.status) for row in rows] == [
        (1, "pooled", False, "diverged"),
        (2, "pooled", False, "diverged"),
        (3, "", True, "diverged"),
    ]
    assert {row.detail for row in rows} == {"the loss is nan"}
    assert {row.metric for row in rows} == {"accuracy"}
    assert math.isnan(rows[-1].value)


def test_rows_of_a_cell_that_failed(ends):
    rows = ends(lambda: raise_(ConfigError("no room", to_do="make some")))
    assert [(row.status, row.detail, row.final, row.test, row.rows) for row in rows] == [
        ("failed", "no room. make some", True, "", 1)
    ]


def test_an_error_that_is_no_error_of_ours_is_not_hidden(ends):
    with pytest.raises(ZeroDivisionError):
        ends(lambda: 1 // 0)


def test_a_result_that_is_not_defined_counts_as_diverged(ends):
    figures = [Measured(1, "pooled", 0.5, 9), Measured(2, "pooled", math.nan, 9, final=True)]
    rows = ends(lambda: Outcome("roc_auc", figures, round=2))
    assert [(row.round, row.test, row.status) for row in rows] == [(1, "pooled", "diverged"), (2, "", "diverged")]
    assert rows[0].detail == "the metric is not defined for what the model predicts"
    # On one center alone it may be undefined: it has one class.
    figures = [Measured(2, "A", math.nan, 4, final=True), Measured(2, "pooled", 0.5, 9, final=True)]
    assert {row.status for row in ends(lambda: Outcome("roc_auc", figures, round=2))} == {"done"}


def test_the_id_does_not_depend_on_place_or_curve():
    from dataclasses import replace
    from pathlib import Path

    assert replace(CELL, data_path=Path("/data"), curve_points=0).id == CELL.id
    assert str(CELL) == "fed_heart_disease, FedProx, seed 7"
    changes = [{"seed": 8}, {"method": "FedAverage"}, {"dataset": "fed_ixi"}, {"protocol": "flamby"}]
    changes += [{"settings": {"mu": 1}}, {"configuration": {}}]
    assert len({CELL.id, *(replace(CELL, **change).id for change in changes)}) == 7
