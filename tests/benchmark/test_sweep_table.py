from __future__ import annotations

import math
import re

from polyclinic.benchmark.sweep_table import summary_table


def lines_of(rows, cells=None):
    """Each table as its lines, a line as its columns."""
    tables = summary_table(rows, {row.cell for row in rows} if cells is None else cells)
    return [[[part.strip() for part in re.split("[│┃]", line)[1:-1]] for line in t.splitlines()] for t in tables]


def line(table, method):
    return next(found for found in table if found and found[0] == method)


def test_mean_and_deviation_over_seeds(cell):
    rows = [
        *cell("FedAverage", 1, {"A": 0.9, "mean": 0.5, "pooled": 0.60}, seconds=1.0),
        *cell("FedAverage", 2, {"A": 0.9, "mean": 0.7, "pooled": 0.64}, seconds=2.5),
        *cell("Pooled", 1, {"A": 0.9, "mean": 0.25, "pooled": 0.75}, rounds=(1,), seconds=4.0),
    ]
    (table,) = lines_of(rows)
    # The standard deviation of two values is their difference over the root of 2.
    assert line(table, "FedAverage") == ["FedAverage", "2", "0.6000 ± 0.1414", "0.6200 ± 0.0283", "1.75", ""]
    assert line(table, "Pooled") == ["Pooled", "1", "0.2500", "0.7500", "4.00", ""]
    assert any("accuracy, mean of centers" in columns and "accuracy, pooled" in columns for columns in table)
    assert round(0.2 / math.sqrt(2), 4) == 0.1414


def test_cells_without_a_result_are_named(cell):
    rows = [
        *cell("FedYogi", 3, {"mean": 0.5, "pooled": 0.5}),
        *cell("FedYogi", 4, status="diverged", metric=""),
        *cell("FedProx", 4, status="failed", metric=""),
    ]
    (table,) = lines_of(rows)
    assert line(table, "FedYogi") == ["FedYogi", "1", "0.5000", "0.5000", "1.50", "diverged, seed 4"]
    assert line(table, "FedProx") == ["FedProx", "0", "", "", "1.50", "failed, seed 4"]


def test_a_table_for_each_dataset_of_the_cells_asked_for(cell):
    ours = cell("FedAverage", 1, {"mean": 0.5, "pooled": 0.5})
    ixi = cell("FedAverage", 1, {"mean": 0.875, "pooled": 0.5}, dataset="fed_ixi", metric="dice")
    other = cell("FedAverage", 9, {"mean": 0.1, "pooled": 0.1})
    tables = lines_of([*ours, *other, *ixi], {ours[0].cell, ixi[0].cell})
    assert [line(table, "FedAverage")[2] for table in tables] == ["0.5000", "0.8750"]
    assert any("dice, pooled" in columns for columns in tables[1])


def test_nothing_was_run(cell):
    assert lines_of([]) == []
    assert lines_of(cell("FedAverage", 1, {"mean": 0.5, "pooled": 0.5}), set()) == []
