"""Which cells a benchmark has, and running those of them that are not in the results file yet."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from polyclinic.benchmark.cells import ALL_DATA, LOCAL, Cell, run_cell
from polyclinic.benchmark.protocols import Protocol
from polyclinic.benchmark.results import ResultRow, ResultsFile
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, nearest, reject_unknown

# FLamby's names of what is called otherwise here.
ALIASES = {"FedAvg": "FedAverage"}

Told = Callable[[Cell, Sequence[ResultRow]], None]


@dataclass(frozen=True)
class Sweep:
    """Which methods, and how.

    Attributes:
        strategies: names; None: all of the protocol.
        seeds: one cell each.
        baselines: also pooled training and each center alone.
        settings: hyper-parameters that differ from the protocol's, by name, or by strategy and name (``FedProx.mu``).
        tuned: a JSON file of hyper-parameters by dataset and method, as `tune` writes it; None: those that ship.
        fixes: faults of the protocol that are mended.
        num_updates: local updates a round; None: the protocol's.
        rounds: None: the protocol's.
        curve_points: how many points of each curve are measured.
        options: for the dataset's class.
    """

    strategies: Sequence[str] | None = None
    seeds: Sequence[int] = (42, 43, 44, 45, 46)
    baselines: bool = True
    settings: Mapping[str, Any] | None = None
    tuned: Path | None = None
    fixes: Sequence[str] = ()
    num_updates: int | None = None
    rounds: int | None = None
    curve_points: int = 10


def plan_cells(protocol: Protocol, name: str, sweep: Sweep, data_path: Path | None = None) -> list[Cell]:
    """The cells of one dataset: baselines, then strategies; all seeds of one method after the other.

    Raises:
        DatasetError: there is no such dataset, or its data are not there.
        ConfigError: unknown strategies, hyper-parameters or fixes; names the nearest.
    """
    dataset = FederatedDataset.load(name)
    path = dataset.ensure_prepared(data_path, **protocol.options(sweep.fixes))
    known = protocol.strategies(name, sweep.fixes)
    chosen = list(known) if sweep.strategies is None else [_known_strategy(s, known) for s in sweep.strategies]
    methods: dict[str, Mapping[str, Any]] = {}
    if sweep.baselines:
        methods |= {ALL_DATA: protocol.baseline(name)}
        methods |= {LOCAL + center: protocol.baseline(name) for center in dataset.centers_at(path)}
    methods |= {method: known[method] for method in chosen}
    found = _tuned(sweep.tuned, name)
    for method, settings in methods.items():
        own = settings if method == ALL_DATA or method.startswith(LOCAL) else protocol.known_settings(method)
        reject_unknown(found.get(_key(method), {}), own, kind=f"hyper-parameter of {method} in {sweep.tuned}:")
    changes = _changes(protocol, sweep.settings or {}, chosen)
    configuration = protocol.configuration(dataset, sweep.fixes, sweep.num_updates, sweep.rounds)
    return [
        Cell(
            protocol=protocol.name,
            dataset=name,
            method=method,
            settings={**settings, **found.get(_key(method), {}), **changes.get(method, {})},
            seed=seed,
            configuration=configuration,
            data_path=None if path is None else path.absolute(),
            curve_points=sweep.curve_points,
        )
        for method, settings in methods.items()
        for seed in sweep.seeds
    ]


def run_cells(cells: Sequence[Cell], results: ResultsFile, *, workers: int | None = 1, told: Told | None = None) -> int:
    """Runs the cells that are not in the results file yet, and appends each when it is done.

    Cells run in parallel with joblib: where ``joblib.parallel_config(backend="dask")`` (or "ray") is in force, on that
    cluster, else in processes of this machine. Another program may work on the same file: a cell that it is running is
    left to it.

    Args:
        workers: processes at the same time; None: as `joblib.parallel_config` says, else 1.
        told: called with each cell that is done, and its rows.

    Returns:
        How many cells were left to another program.

    Raises:
        ConfigError: the file holds another protocol's results, or is no results file.
    """
    from joblib import Parallel, delayed

    for protocol in {cell.protocol for cell in cells}:
        results.require_protocol(protocol)
    claims = _Claims(results)
    threads = max(1, (os.cpu_count() or 1) // (workers or 1))
    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="n_jobs")
    by_id = {cell.id: cell for cell in cells}
    for rows in parallel(delayed(_run)(cell, threads) for cell in claims.taken(by_id.values())):
        claims.release(rows[0].cell, results.append(rows))
        if told:
            told(by_id[rows[0].cell], rows)
    return claims.left_to_others


def _run(cell: Cell, threads: int) -> list[ResultRow]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before))
    # That nodes are trained one by one, where models cannot be stacked, is in the rounds' notes already.
    logging.getLogger("polyclinic.federation").setLevel(logging.ERROR)
    try:
        return run_cell(cell)
    finally:
        torch.set_num_threads(before)


class _Claims:
    """Locks, one a cell, so that two programs on one results file do not run the same cell."""

    def __init__(self, results: ResultsFile) -> None:
        self._results = results
        self._folder = results.path.with_name(results.path.name + ".claims")
        self._locks: dict[str, FileLock] = {}
        self._done: set[str] = set()
        self._known_bytes = 0  # of the file, those that we have read or written
        self.left_to_others = 0

    def taken(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """The cells that are neither done nor being run elsewhere, each locked for us."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for cell in cells:
            # joblib asks for the next cell from a thread of its own.
            lock = FileLock(self._folder / f"{cell.id}.lock", timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                self.left_to_others += 1
                continue
            # Only now: another program may have finished it a moment ago.
            if self._is_done(cell):
                lock.release()
                continue
            self._locks[cell.id] = lock
            yield cell

    def release(self, cell_id: str, num_bytes: int) -> None:
        """Gives a cell's lock back; it is in the file, which grew by so many bytes."""
        self._known_bytes += num_bytes
        self._locks.pop(cell_id).release()

    def _is_done(self, cell: Cell) -> bool:
        # A long file takes a while to read: again only if another program wrote to it.
        path = self._results.path
        size = path.stat().st_size if path.exists() else 0
        if size != self._known_bytes:
            self._done, self._known_bytes = self._results.done(), size
        return cell.id in self._done


def parse_seeds(text: str) -> list[int]:
    """``"42-46"`` or ``"1,2,7"`` as numbers.

    Raises:
        ConfigError: it is neither.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ConfigError(f"{text!r} names no seeds", to_do="write 42-46, or 1,2,7")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def _known_strategy(name: str, known: Mapping[str, Any]) -> str:
    name = ALIASES.get(name, name)
    if name not in known:
        raise ConfigError(f"this protocol has no strategy {name!r} for this dataset", to_do=nearest(name, known))
    return name


def _key(method: str) -> str:
    """Local training is tuned with pooled training."""
    return ALL_DATA if method.startswith(LOCAL) else method


def _tuned(path: Path | None, dataset: str) -> dict[str, dict[str, Any]]:
    if path is None:
        return {}
    try:
        content: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
        return {method: dict(settings.items()) for method, settings in content.get(dataset, {}).items()}
    except (OSError, ValueError, AttributeError) as err:
        raise ConfigError(
            f"{path} is no file of hyper-parameters: {err}", to_do="give the file that `benchmark tune` wrote"
        ) from err


def _changes(protocol: Protocol, settings: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Hyper-parameters by strategy. One without a strategy's name is for all strategies that have it."""
    changes: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    for key, value in settings.items():
        strategy, _, name = key.rpartition(".")
        if strategy:
            strategy = ALIASES.get(strategy, strategy)
            if strategy not in changes:
                raise ConfigError(f"{key}: {strategy!r} is not among the strategies", to_do=nearest(strategy, chosen))
            reject_unknown([name], protocol.known_settings(strategy), kind=f"hyper-parameter of {strategy}")
            changes[strategy][name] = value
            continue
        having = [s for s in chosen if name in protocol.known_settings(s)]
        if not having:
            every = sorted({known for s in chosen for known in protocol.known_settings(s)})
            raise ConfigError(f"none of the strategies has a hyper-parameter {name!r}", to_do=nearest(name, every))
        for strategy in having:
            changes[strategy].setdefault(name, value)
    return changes
