"""Hyper-parameters for protocol "polyclinic", chosen on validation data with Optuna.

The search draws from a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) and looks at the mean over
the seeds of the lowest validation loss of a run. Test data are never read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from polyclinic.benchmark.cells import ALL_DATA, Cell, Diverged
from polyclinic.benchmark.settings import FINE_TUNING, LOCAL_TRAINING, SGD_ONLY
from polyclinic.benchmark.sound import run_sound
from polyclinic.errors import ConfigError, PolyclinicError

if TYPE_CHECKING:
    import optuna

Settings = dict[str, Any]
Told = Callable[[int, float, Mapping[str, Any]], None]

_ADAPTIVE = {"server_lr": (1e-3, 1.0), "tau": (1e-5, 1e-1)}
# Of the aggregators' own numbers: ranges, searched on a logarithmic scale.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "FedProx": {"mu": (1e-3, 10.0)},
    "FedAdam": _ADAPTIVE,
    "FedYogi": _ADAPTIVE,
    "FedAdagrad": _ADAPTIVE,
    "FedAvgM": {"server_lr": (0.05, 2.0)},
    "FedDyn": {"alpha": (1e-3, 10.0)},
    "Scaffold": {"server_lr": (0.3, 1.5)},
    "QFedAvg": {"q": (1e-2, 5.0)},
    "Ditto": {"lam": (1e-2, 10.0)},
}
_LR = {"sgd": (1e-3, 3.0), "momentum": (1e-4, 0.5), "adam": (1e-4, 0.3)}
_IMAGE_LR = {"sgd": (1e-3, 0.5), "momentum": (1e-4, 0.1), "adam": (1e-5, 1e-2)}
_UPDATES = (2, 5, 10, 20, 50)
_IMAGE_UPDATES = (10, 25, 50, 100)


@dataclass(frozen=True)
class Space:
    """The search space of one method on one dataset.

    Attributes:
        learning_rates: a range for each optimizer that is tried.
        num_updates: local updates a round; empty for pooled training.
        ranges: of the aggregator's own numbers.
        fine_tune: batches of fine-tuning; empty for methods without.
    """

    learning_rates: Mapping[str, tuple[float, float]]
    num_updates: tuple[int, ...]
    ranges: Mapping[str, tuple[float, float]]
    fine_tune: tuple[int, ...] = ()

    def draw(self, trial: optuna.Trial) -> Settings:
        """One point of the space."""
        optimizer = trial.suggest_categorical("optimizer", list(self.learning_rates))
        low, high = self.learning_rates[optimizer]
        # A name for each optimizer, since their ranges differ.
        found: Settings = {"optimizer": optimizer, "lr": trial.suggest_float(f"lr of {optimizer}", low, high, log=True)}
        found["schedule"] = trial.suggest_categorical("schedule", ["constant", "cosine"])
        if self.num_updates:
            found["num_updates"] = trial.suggest_categorical("num_updates", list(self.num_updates))
        for name, (low, high) in self.ranges.items():
            found[name] = trial.suggest_float(name, low, high, log=True)
        if self.fine_tune:
            found["fine_tune"] = trial.suggest_categorical("fine_tune", list(self.fine_tune))
        return found


def space_of(method: str, *, images: bool) -> Space:
    """The default search space of a method.

    Args:
        images: for models on images: smaller learning rates, and longer rounds, of which there are fewer.
    """
    rates = _IMAGE_LR if images else _LR
    if method in SGD_ONLY:
        rates = {"sgd": rates["sgd"]}
    updates = () if method == ALL_DATA else _IMAGE_UPDATES if images else _UPDATES
    return Space(rates, updates, RANGES.get(method, {}), (5, 20, 50) if method == FINE_TUNING else ())


def tune(
    cell: Cell, *, seeds: Sequence[int], trials: int, images: bool, told: Told | None = None
) -> tuple[Settings, float]:
    """The best hyper-parameters found for a cell's method.

    The method's present settings are the first trial, so what comes out is never worse on the validation data.

    Args:
        cell: whose seed is not looked at.
        seeds: a trial's value is the mean over them.
        trials: how many points of the space are tried.
        told: called after each trial with its number, its value and its settings.

    Returns:
        The settings, and their validation loss.

    Raises:
        ConfigError: no trial could be run.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = space_of(cell.method, images=images)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seeds[0], multivariate=False))
    best: tuple[float, Settings] = (math.inf, dict(cell.settings))

    def objective(trial: optuna.Trial) -> float:
        nonlocal best
        # Number 0 is what is there already.
        settings = dict(cell.settings) | (space.draw(trial) if trial.number else {})
        value = math.fsum(_loss(replace(cell, settings=settings, seed=seed)) for seed in seeds) / len(seeds)
        if value < best[0]:
            best = value, settings
        if told:
            told(trial.number, value, settings)
        if not math.isfinite(value):
            raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=trials)
    if not math.isfinite(best[0]):
        raise ConfigError(
            f"{cell.method} on {cell.dataset}: none of {trials} trials came to an end",
            to_do="raise --trials, or run the method once to see what it says",
        )
    return rounded(best[1]), best[0]


def tune_cells(
    cells: Sequence[Cell], *, seeds: Sequence[int], trials: int, workers: int
) -> Iterator[tuple[Cell, Settings, float]]:
    """Tunes several methods, each in a process of its own; yields each with what was found, as it ends."""
    from joblib import Parallel, delayed

    from polyclinic.benchmark.clients import clients_of

    def one(cell: Cell) -> tuple[Cell, Settings, float]:
        part = clients_of(cell.dataset, cell.data_path).part(0, train=True)
        return (cell, *tune(cell, seeds=seeds, trials=trials, images=getattr(part, "tensors", None) is None))

    yield from Parallel(n_jobs=workers, return_as="generator_unordered")(delayed(one)(cell) for cell in cells)


def rounded(settings: Mapping[str, Any]) -> Settings:
    """Numbers with three digits: the rest of them is chance."""
    return {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in settings.items()}


def _loss(cell: Cell) -> float:
    try:
        return run_sound(replace(cell, curve_points=0), test=False)[1].loss
    except Diverged:
        return math.inf
    except PolyclinicError as err:
        if err.code in ("aggregation", "round-failed"):  # a point of the space that does not work
            return math.inf
        raise


def write_tuned(path: Path, dataset: str, found: Mapping[str, Settings]) -> None:
    """Adds to a file of tuned hyper-parameters, by dataset and method; what else is in it stays.

    Raises:
        ConfigError: the file is there, and is none of this kind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):  # several programs may tune at the same time
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            known.setdefault(dataset, {}).update({method: _own(settings) for method, settings in found.items()})
        except (ValueError, AttributeError) as err:
            raise ConfigError(
                f"{path} is no file of hyper-parameters: {err}",
                to_do="give another file, or one that `benchmark tune` wrote",
            ) from err
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)


def _own(settings: Settings) -> Settings:
    """Without what follows from the dataset alone."""
    return {k: v for k, v in settings.items() if k not in ("head", "num_hostile", "fraction", "order")} or dict(
        LOCAL_TRAINING
    )
