"""The published hyper-parameters against the table that was taken down from FLamby's files independently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polyclinic.aggregators import make_aggregator
from polyclinic.benchmark.hyperparameters import FLAMBY

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "flamby_datasets.md"
COLUMNS = ("FedAverage", "FedProx", "Scaffold", "Cyclic", "FedAdam", "FedYogi", "FedAdagrad")


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no {REFERENCE.name} beside the repository")
@pytest.mark.parametrize("dataset", sorted(FLAMBY))
def test_the_table_of_the_reference(dataset):
    text = REFERENCE.read_text(encoding="utf-8")
    table = text[text.index("| Dataset | FedAvg η | FedProx η, mu |") :]
    line = re.search(rf"^\| {dataset.removeprefix('fed_')} \|(.*)\|$", table, re.MULTILINE)
    cells = [cell.strip() for cell in line[1].split("|")]
    for strategy, cell in zip(COLUMNS, cells, strict=False):
        numbers = [float(number) for number in cell.removesuffix("†").split(",")]
        names = ("lr", "mu" if strategy == "FedProx" else "server_lr")
        expected = dict(zip(names, numbers, strict=False))
        if strategy in ("FedAdam", "FedYogi", "FedAdagrad"):
            expected |= {"tau": 1e-8 if "†" in cell else 1e-3, "beta1": 0.9}
        if strategy in ("FedAdam", "FedYogi"):
            expected["beta2"] = 0.999
        assert FLAMBY[dataset][strategy] == expected, strategy


@pytest.mark.parametrize("dataset", sorted(FLAMBY))
def test_all_seven_strategies_take_them(dataset):
    assert tuple(FLAMBY[dataset]) == COLUMNS
    for strategy, settings in FLAMBY[dataset].items():
        own = {name: value for name, value in settings.items() if name != "lr"}
        made = make_aggregator(strategy, own)
        assert {name: made.settings[name] for name in own} == own
