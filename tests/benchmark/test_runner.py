from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import joblib
import pytest

from polyclinic.benchmark import flamby
from polyclinic.benchmark.cells import run_cell
from polyclinic.benchmark.protocols import get_protocol
from polyclinic.benchmark.results import ResultsFile
from polyclinic.benchmark.runner import Sweep, parse_seeds, plan_cells, run_cells
from polyclinic.errors import ConfigError, DatasetError

FLAMBY, SOUND = get_protocol("flamby"), get_protocol("polyclinic")
HEART = "fed_heart_disease"


def plan(sweep=None, *, protocol=FLAMBY, dataset=HEART, **changes):
    return plan_cells(protocol, dataset, sweep or Sweep(**changes))


# ---- which cells


def test_all_methods_with_all_seeds():
    cells = plan(seeds=(42, 43))
    methods = list(dict.fromkeys(cell.method for cell in cells))
    centers = ["Cleveland", "Hungary", "Switzerland", "Long Beach VA"]
    strategies = ["FedAverage", "FedProx", "Scaffold", "Cyclic", "FedAdam", "FedYogi", "FedAdagrad"]
    assert methods == ["Pooled", *(f"Local {center}" for center in centers), *strategies]
    assert [cell.seed for cell in cells] == [42, 43] * 12
    assert len({cell.id for cell in cells}) == 24
    assert {cell.protocol for cell in cells} == {"flamby"}


def test_chosen_strategies_without_baselines():
    assert [cell.method for cell in plan(strategies=["FedAvg", "FedYogi"], baselines=False, seeds=(1,))] == [
        "FedAverage",
        "FedYogi",
    ]


def test_centers_whose_number_depends_on_the_data(tmp_path):
    from polyclinic.datasets import fed_synthetic

    path = tmp_path / "generated"
    fed_synthetic.mock(path)
    names = fed_synthetic.centers_at(path)
    cells = plan_cells(SOUND, "fed_synthetic", Sweep(strategies=["FedAverage"], seeds=(1,)), path)
    assert [cell.method for cell in cells] == ["Pooled", *(f"Local {name}" for name in names), "FedAverage"]
    assert {cell.data_path for cell in cells} == {path.absolute()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": ["FedProxy"]}, r"no strategy 'FedProxy' for this dataset\n  What to do: did you mean 'FedPr"),
        ({"strategies": ["FedAverage"], "settings": {"mu": 1}}, "none of the strategies has a hyper-parameter 'mu'"),
        ({"settings": {"lrr": 1}}, r"a hyper-parameter 'lrr'\n  What to do: did you mean 'lr'\?"),
        ({"settings": {"FedProx.nu": 1}}, r"unknown hyper-parameter of FedProx 'nu'\n  What to do: known: lr, mu"),
        ({"settings": {"FedProxy.mu": 1}}, r"'FedProxy' is not among the strategies\n.* did you mean 'FedProx'\?"),
        ({"strategies": ["FedAvg"], "settings": {"FedProx.mu": 1}}, r"'FedProx' is not among .*\n.* known: FedAverage"),
        ({"fixes": ["taue"]}, r"no fix 'taue'\n  What to do: did you mean 'tau'\?"),
    ],
    ids=["strategy", "no-mu", "lrr", "nu", "prefix", "not-chosen", "fix"],
)
def test_unknown_names_are_refused_with_the_nearest(changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(**changes)


def test_an_unknown_dataset_and_data_that_are_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset 'fed_hart_disease'\n.* did you mean 'fed_heart_disease'\?"):
        plan(dataset="fed_hart_disease")
    with pytest.raises(DatasetError):
        plan_cells(FLAMBY, "fed_tcga_brca", Sweep(), tmp_path / "none")


def settings_of(cells):
    return {cell.method: cell.settings for cell in cells}


def test_changed_hyper_parameters():
    plain = settings_of(plan(seeds=(1,)))
    lr = settings_of(plan(seeds=(1,), settings={"lr": 0.5}))
    strategies = [name for name in plain if name[:5] not in ("Poole", "Local")]
    # A learning rate is for every strategy, and for no baseline.
    assert {name for name in plain if lr[name] != plain[name]} == set(strategies)
    assert {name: lr[name] for name in strategies} == {name: plain[name] | {"lr": 0.5} for name in strategies}
    both = settings_of(plan(seeds=(1,), settings={"FedProx.mu": 7, "FedProx.lr": 0.25, "lr": 0.5}))
    assert both["FedProx"] == {"mu": 7, "lr": 0.25}
    assert both["FedAverage"] == {"lr": 0.5}
    tau = settings_of(plan(seeds=(1,), settings={"tau": 0.125}))
    assert {name for name in plain if tau[name] != plain[name]} == {"FedAdam", "FedYogi", "FedAdagrad"}
    alias = settings_of(plan(seeds=(1,), settings={"FedAvg.lr": 3}))
    assert {name for name in plain if alias[name] != plain[name]} == {"FedAverage"}


def test_what_changes_a_result_changes_the_id_and_what_does_not_does_not():
    def ids(**changes):
        return [cell.id for cell in plan(strategies=["FedAvg"], baselines=False, seeds=(1,), **changes)]

    plain = ids()
    assert ids(curve_points=0) == plain
    others = [{"settings": {"lr": 9}}, {"fixes": ["data"]}, {"num_updates": 10}, {"rounds": 2}]
    assert len({*plain, *(ids(**change)[0] for change in others)}) == 5


def test_tuned_hyper_parameters_of_a_file(tmp_path):
    path = tmp_path / "tuned.json"
    found = {"FedAverage": {"lr": 0.7}, "Pooled": {"lr": 0.3, "optimizer": "adam"}}
    path.write_text(json.dumps({HEART: found}), encoding="utf-8")
    settings = settings_of(plan(protocol=SOUND, strategies=["FedAverage", "FedProx"], seeds=(1,), tuned=path))
    plain = settings_of(plan(protocol=SOUND, strategies=["FedAverage", "FedProx"], seeds=(1,)))
    assert settings["FedAverage"] == plain["FedAverage"] | {"lr": 0.7}
    assert settings["FedProx"] == plain["FedProx"]
    assert (
        settings["Pooled"]
        == settings["Local Hungary"]
        == {
            "lr": 0.3,
            "optimizer": "adam",
            "schedule": "constant",
        }
    )
    changed = plan(protocol=SOUND, strategies=["FedAverage"], seeds=(1,), tuned=path, settings={"lr": 0.5})
    assert settings_of(changed)["FedAverage"]["lr"] == 0.5  # said at the command line


@pytest.mark.parametrize(
    "content",
    [None, "{", "[1]", '{"fed_heart_disease": 3}', '{"fed_heart_disease": {"FedProx": [1]}}'],
    ids=["absent", "torn", "list", "number", "no-settings"],
)
def test_a_file_of_tuned_hyper_parameters_that_is_none(tmp_path, content):
    path = tmp_path / "tuned.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tuned\.json is no file of hyper-parameters"):
        plan(protocol=SOUND, tuned=path)


def test_tuned_hyper_parameters_that_a_strategy_does_not_have(tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps({HEART: {"FedAverage": {"learning_rate": 1}}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown hyper-parameter of FedAverage in .*tuned\.json: 'learning_rate'"):
        plan(protocol=SOUND, strategies=["FedAverage"], tuned=path)
    plan(protocol=SOUND, strategies=["FedProx"], tuned=path)  # they are not asked for
    path.write_text(json.dumps({HEART: {"Pooled": {"lr": 1, "optimizer": "sgd"}}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown hyper-parameter of Pooled"):
        plan(protocol=FLAMBY, tuned=path)  # that protocol's baselines have the dataset's own optimizer


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("42-46", [42, 43, 44, 45, 46]), ("7", [7]), ("3,1-2, 9 - 10", [3, 1, 2, 9, 10]), ("1,1-2", [1, 2])],
    ids=["range", "one", "both", "twice"],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1;2", "1.5"])
def test_no_seeds(text):
    with pytest.raises(ConfigError, match=r"names no seeds\n  What to do: write 42-46, or 1,2,7"):
        parse_seeds(text)


# ---- running them


def quick(seeds=(1, 2), strategies=("FedAvg", "Cyclic"), **changes):
    sweep = Sweep(strategies, seeds, baselines=False, num_updates=2, rounds=2, curve_points=0, **changes)
    return plan_cells(FLAMBY, HEART, sweep)


def figures(file):
    return {(row.cell, row.test, row.round): row.value for row in file.read()}


@pytest.fixture(scope="module")
def expected() -> dict:
    """The figures of the quick cells, run one by one."""
    rows = [row for cell in quick() for row in run_cell(cell)]
    assert {row.status for row in rows} == {"done"}
    return {(row.cell, row.test, row.round): row.value for row in rows}


@pytest.fixture
def file(tmp_path) -> ResultsFile:
    return ResultsFile(tmp_path / "results.csv")


def test_cells_that_are_done_are_not_run_again(file, expected):
    cells, told = quick(), []
    assert run_cells(cells[:1], file) == 0
    before = file.path.read_bytes()
    assert run_cells(cells, file, told=lambda cell, rows: told.append((cell, len(rows)))) == 0
    assert sorted((cell.id, n) for cell, n in told) == sorted((cell.id, 6) for cell in cells[1:])
    assert file.path.read_bytes().startswith(before)
    assert figures(file) == expected
    after = file.path.read_bytes()
    run_cells(cells, file, told=lambda cell, rows: pytest.fail("all are done"))
    assert file.path.read_bytes() == after


def test_the_file_is_read_again_only_if_somebody_else_wrote_to_it(file, monkeypatch):
    cells, reads, done = quick(), [], ResultsFile.done
    run_cells(cells[:1], file)

    def counted(self):
        reads.append(1)
        return done(self)

    def others_turn(cell, rows):
        if cell.id == cells[1].id:  # another program has done the third one
            ResultsFile(file.path).append(run_cell(cells[2]))

    monkeypatch.setattr(ResultsFile, "done", counted)
    ran = []
    run_cells(cells, file, told=lambda cell, rows: ran.append(cell.id) or others_turn(cell, rows))
    assert ran == [cells[1].id, cells[3].id]
    assert len(reads) == 2
    assert len({row.cell for row in file.read()}) == 4
    assert len(file.read()) == 4 * 6


def test_two_workers_find_what_one_finds(file, expected):
    run_cells(quick(), file, workers=2)
    assert figures(file) == expected


def test_a_dask_cluster_finds_the_same(file, expected):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        run_cells(quick(), file, workers=None)
    assert figures(file) == expected


def test_a_cell_that_diverges_is_recorded_with_its_round_and_the_curve_until_then(file, toy, monkeypatch):
    monkeypatch.setitem(flamby.FLAMBY, "toy", {"FedAverage": {"lr": 0.01}, "FedProx": {"lr": 0.01, "mu": 0.1}})
    sweep = Sweep(baselines=False, seeds=(1,), settings={"FedProx.lr": 1e6}, num_updates=1, rounds=30, curve_points=30)
    cells = plan_cells(FLAMBY, "toy", sweep)
    run_cells(cells, file)
    rows = file.read()
    assert {row.status for row in rows if row.method == "FedAverage"} == {"done"}
    *curve, last = [row for row in rows if row.method == "FedProx"]
    assert (last.status, last.final, last.test) == ("diverged", True, "")
    assert last.detail
    assert math.isnan(last.value)
    assert 1 < last.round < 30
    # Five test sets after each round before it.
    assert [row.round for row in curve] == sorted([*range(1, last.round)] * 5)
    assert not any(row.final for row in curve)
    assert all(math.isfinite(row.value) for row in curve[:5])
    run_cells(cells, file, told=lambda cell, rows: pytest.fail("it would diverge again"))


def test_a_cell_that_fails_is_recorded_and_run_again(file, monkeypatch):
    cells = quick(seeds=(1,))
    with monkeypatch.context() as patch:
        patch.setattr(flamby, "initial_state", _raise)
        run_cells(cells, file)
    assert {(row.status, row.detail) for row in file.read()} == {("failed", "no room. make some")}
    run_cells(cells, file)
    assert {row.status for row in file.read()} == {"done"}


def _raise(*_):
    raise DatasetError("no room", to_do="make some")


def test_another_protocols_file_is_refused_before_anything_is_run(file, cell):
    file.append(cell("FedAverage", 1, {"pooled": 0.5}, protocol="polyclinic"))
    before = file.path.read_bytes()
    with pytest.raises(ConfigError, match="holds results of protocol 'polyclinic', not 'flamby'"):
        run_cells(quick(), file)
    assert file.path.read_bytes() == before


HOLDER = """
import sys
from pathlib import Path
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_cell_that_another_program_runs_is_left_to_it(file):
    cells = quick()
    claims = Path(f"{file.path}.claims")
    claims.mkdir()
    command = [sys.executable, "-c", HOLDER, str(claims / f"{cells[0].id}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert run_cells(cells, file) == 1
        assert file.done() == {cell.id for cell in cells[1:]}
        holder.stdin.close()
    # A lock goes with its process, however that ended.
    assert run_cells(cells, file) == 0
    assert file.done() == {cell.id for cell in cells}


def test_no_cells(file):
    assert run_cells([], file) == 0
    assert file.read() == []
