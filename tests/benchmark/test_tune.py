from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from polyclinic.aggregators import AGGREGATORS
from polyclinic.benchmark import tune as module
from polyclinic.benchmark.cells import Diverged
from polyclinic.benchmark.runner import Sweep, plan_cells
from polyclinic.benchmark.settings import FINE_TUNING
from polyclinic.benchmark.sound import SoundProtocol, run_sound
from polyclinic.benchmark.tune import RANGES, Space, rounded, space_of, tune, tune_cells, write_tuned
from polyclinic.errors import AggregationError, ConfigError, DatasetError, RoundFailed


def cell(method="FedAverage", **settings):
    found = plan_cells(SoundProtocol(), "toy", Sweep([method] if method != "Pooled" else [], [1], method == "Pooled"))
    return replace(found[0], settings=dict(found[0].settings) | settings)


@pytest.fixture
def bowl(monkeypatch):
    """Runs are replaced by a bowl: the loss is the square of log10(lr) + 1, plus what the seed adds. Lists the runs."""
    ran = []

    class Point:
        def __init__(self, loss):
            self.loss = loss

    def run(cell, *, test):
        assert not test
        ran.append(cell)
        return None, Point((math.log10(cell.settings["lr"]) + 1) ** 2 + cell.seed)

    monkeypatch.setattr(module, "run_sound", run)
    return ran


def test_the_first_trial_is_what_is_there_already_and_each_is_the_mean_over_seeds(toy, bowl):
    told = []
    tune(cell(lr=0.001), seeds=[2, 4], trials=3, images=False, told=lambda *what: told.append(what))
    assert [run.seed for run in bowl] == [2, 4] * 3
    assert bowl[0].settings == bowl[1].settings == cell(lr=0.001).settings
    assert [number for number, *_ in told] == [0, 1, 2]
    for number, value, settings in told:
        assert dict(settings) == bowl[2 * number].settings
        assert value == pytest.approx((math.log10(settings["lr"]) + 1) ** 2 + 3)
    assert len({settings["lr"] for *_, settings in told}) == 3


def test_what_is_found_is_the_best_trial_and_better_than_a_bad_start(toy, bowl):
    told = []
    settings, loss = tune(cell(lr=0.001), seeds=[0], trials=25, images=False, told=lambda *w: told.append(w))
    best = min(told, key=lambda trial: trial[1])
    assert loss == best[1] < 0.2 < told[0][1] == 4
    assert settings == rounded(best[2])
    # It looks where it is good: later trials are nearer to the bowl's ground than a blind draw is.
    assert sum(value for _, value, _ in told[-8:]) / 8 < sum(value for _, value, _ in told[1:9]) / 8


def test_a_good_start_is_never_left_for_a_worse_point(toy, bowl):
    settings, loss = tune(cell(lr=0.1), seeds=[0], trials=6, images=False)
    assert (settings, loss) == (dict(cell(lr=0.1).settings), pytest.approx(0, abs=1e-12))


def test_the_same_seeds_find_the_same(toy, bowl):
    assert tune(cell(), seeds=[3], trials=5, images=False) == tune(cell(), seeds=[3], trials=5, images=False)


def test_on_real_runs_without_test_data(toy):
    toy.unreadable.append(False)
    start = cell(lr=1e-5, num_updates=50)
    settings, loss = tune(start, seeds=[1, 2], trials=6, images=False)
    first = [run_sound(replace(start, seed=seed), test=False)[1].loss for seed in (1, 2)]
    assert loss < 0.9 * sum(first) / 2
    again = [run_sound(replace(start, seed=seed, settings=settings), test=False)[1].loss for seed in (1, 2)]
    assert sum(again) / 2 == pytest.approx(loss, rel=0.05)  # of the rounded settings
    assert {train for _, train, *_ in toy.built} == {True}


@pytest.mark.parametrize(
    "error",
    [Diverged(1, "inf", []), RoundFailed("none answered"), AggregationError("no norm")],
    ids=["diverged", "round", "aggregation"],
)
def test_points_that_do_not_work_are_passed_over(toy, monkeypatch, error):
    plain = module.run_sound

    def run(cell, *, test):
        if cell.settings["lr"] > 0.05:
            raise error
        return plain(cell, test=test)

    monkeypatch.setattr(module, "run_sound", run)
    settings, loss = tune(cell(lr=0.3), seeds=[1], trials=6, images=False)
    assert settings["lr"] <= 0.05
    assert math.isfinite(loss)
    monkeypatch.setattr(module, "run_sound", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(ConfigError, match=r"FedAverage on toy: none of 2 trials came to an end\n.*raise --trials"):
        tune(cell(), seeds=[1], trials=2, images=False)


def test_what_no_setting_can_mend_is_told_at_once(toy):
    toy.unreadable.append(True)
    with pytest.raises(DatasetError, match="nobody may read this"):
        tune(cell(), seeds=[1], trials=2, images=False)


# ---- the space


class Drawer:
    """An Optuna trial that notes what it is asked, and gives the least."""

    def __init__(self):
        self.asked = {}

    def suggest_categorical(self, name, choices):
        self.asked[name] = choices
        return choices[0]

    def suggest_float(self, name, low, high, *, log):
        assert log
        assert 0 < low < high
        self.asked[name] = (low, high)
        return low


def test_a_draw_is_a_point_of_the_space():
    drawer = Drawer()
    space = Space({"adam": (1e-4, 0.1)}, (2, 5), {"mu": (0.5, 1.0)}, (7, 8))
    assert space.draw(drawer) == {
        "optimizer": "adam",
        "lr": 1e-4,
        "schedule": "constant",
        "num_updates": 2,
        "mu": 0.5,
        "fine_tune": 7,
    }
    assert drawer.asked == {
        "optimizer": ["adam"],
        "lr of adam": (1e-4, 0.1),
        "schedule": ["constant", "cosine"],
        "num_updates": [2, 5],
        "mu": (0.5, 1.0),
        "fine_tune": [7, 8],
    }


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("method", ["Pooled", *sorted(AGGREGATORS), FINE_TUNING])
def test_a_methods_space_has_its_own_hyper_parameters_alone(method, images):
    found = space_of(method, images=images).draw(Drawer())
    known = {"lr", "optimizer", "schedule"} if method == "Pooled" else set(SoundProtocol().known_settings(method))
    assert set(found) <= known
    assert {"lr", "optimizer"} <= set(found)
    assert ("num_updates" in found) == (method != "Pooled")
    assert ("fine_tune" in found) == (method == FINE_TUNING)
    assert set(RANGES.get(method, {})) <= set(found)


def test_rules_about_plain_sgd_are_tuned_with_it():
    for method in ("Scaffold", "FedNova", "FedDyn"):
        assert list(space_of(method, images=False).learning_rates) == ["sgd"]
    assert len(space_of("FedAverage", images=False).learning_rates) > 1


def test_images_take_smaller_steps():
    tables, images = (space_of("FedAverage", images=images).learning_rates for images in (False, True))
    assert all(images[name][1] < tables[name][1] for name in tables)


# ---- several methods, and the file


def test_several_methods(toy, monkeypatch):
    asked = []

    def found(cell, *, seeds, trials, images):
        asked.append((cell.method, list(seeds), trials, images))
        return {"lr": 0.5}, 0.25

    monkeypatch.setattr(module, "tune", found)
    cells = [cell(), cell("FedProx"), cell("Pooled")]
    ended = list(tune_cells(cells, seeds=[1, 2], trials=9, workers=1))
    assert sorted(c.method for c, *_ in ended) == ["FedAverage", "FedProx", "Pooled"]
    assert {(loss, *settings.items()) for _, settings, loss in ended} == {(0.25, ("lr", 0.5))}
    assert sorted(asked) == [(name, [1, 2], 9, False) for name in ("FedAverage", "FedProx", "Pooled")]


def test_three_digits():
    assert rounded({"lr": 0.0123456, "num_updates": 10, "optimizer": "sgd", "tau": 1.23456e-8}) == {
        "lr": 0.0123,
        "num_updates": 10,
        "optimizer": "sgd",
        "tau": 1.23e-8,
    }


def test_what_is_found_is_added_to_the_file(tmp_path):
    path = tmp_path / "tuned.json"
    write_tuned(path, "fed_ixi", {"FedAverage": {"lr": 0.1, "num_updates": 5}})
    write_tuned(path, "toy", {"FedRep": {"lr": 0.2, "head": ["model.3"]}, "Cyclic": {"lr": 1, "order": "shuffled"}})
    write_tuned(path, "toy", {"FedRep": {"lr": 0.3}})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "fed_ixi": {"FedAverage": {"lr": 0.1, "num_updates": 5}},
        # What follows from the dataset is no finding.
        "toy": {"FedRep": {"lr": 0.3}, "Cyclic": {"lr": 1}},
    }
    assert {file.name for file in tmp_path.iterdir()} <= {"tuned.json", "tuned.json.lock"}


@pytest.mark.parametrize("content", ["{", "[1]", '{"toy": 3}'])
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "tuned.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tuned\.json is no file of hyper-parameters"):
        write_tuned(path, "toy", {"FedAverage": {"lr": 0.5}})
    assert path.read_text(encoding="utf-8") == content


def test_two_threads_lose_nothing(tmp_path):
    path = tmp_path / "new folder" / "tuned.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_tuned(path, f"set {k % 3}", {f"method {k}": {"lr": k}}), range(40)))
    known = json.loads(path.read_text(encoding="utf-8"))
    assert {f"method {k}": {"lr": k} for k in range(40)} == known["set 0"] | known["set 1"] | known["set 2"]


def test_the_file_is_one_that_a_run_takes(toy, tmp_path):
    path = tmp_path / "tuned.json"
    write_tuned(path, "toy", {"FedProx": {"lr": 0.125, "mu": 0.5, "optimizer": "momentum", "num_updates": 2}})
    found = plan_cells(SoundProtocol(), "toy", Sweep(["FedProx"], [1], baselines=False, tuned=path))
    written = {"lr": 0.125, "mu": 0.5, "optimizer": "momentum", "num_updates": 2}
    assert found[0].settings == written | {"schedule": "constant"}
