"""``polyclinic benchmark run``: the cells of a benchmark, those that are not done yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyclinic.errors import ConfigError, PolyclinicError

if TYPE_CHECKING:
    from polyclinic.benchmark.cells import Cell
    from polyclinic.benchmark.protocols import Protocol
    from polyclinic.benchmark.results import ResultRow
    from polyclinic.benchmark.runner import Sweep

Datasets = Annotated[list[str], typer.Argument(metavar="DATASET…", help="Names: fed_heart_disease, fed_tcga_brca, …")]
ProtocolName = Annotated[str, typer.Option("--protocol", help="`flamby`: as published; `polyclinic`: sound.")]
DataPaths = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="PATH", help="Where the data are; with several datasets: NAME=PATH, repeatable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter: `lr=0.1`, `FedProx.mu=1`; repeatable."),
]

Tuned = Annotated[
    Path | None, typer.Option("--tuned", metavar="FILE", help="Hyper-parameters that `benchmark tune` found.")
]
Fixes = Annotated[
    list[str] | None, typer.Option("--fix", metavar="NAME", help="Mend one fault of protocol flamby; repeatable.")
]
NumUpdates = Annotated[
    int | None, typer.Option("--num-updates", min=1, help="Local updates a round; default: the protocol's.")
]
CurvePoints = Annotated[
    int, typer.Option("--curve-points", min=0, help="Points of each curve that are measured, with protocol flamby.")
]


def run(
    datasets: Datasets,
    protocol: ProtocolName = "polyclinic",
    strategies: Annotated[str, typer.Option(metavar="A,B", help="`all`, or names with commas.")] = "all",
    seeds: Annotated[str, typer.Option(metavar="42-46", help="Seeds; each is a run of its own.")] = "42-46",
    workers: Annotated[int, typer.Option(min=1, help="Processes that run cells at the same time.")] = 1,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV file; default: benchmark-PROTOCOL.csv.")
    ] = None,
    data: DataPaths = None,
    baselines: Annotated[bool, typer.Option(help="Also pooled training, and each center alone.")] = True,
    settings: Settings = None,
    tuned: Tuned = None,
    fix: Fixes = None,
    num_updates: NumUpdates = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; default: the protocol's.")] = None,
    curve_points: CurvePoints = 10,
) -> None:
    """Run pooled and local training and federated strategies, and write every figure to one results file.

    Cells that are in the file already are not run again, so the same command goes on after an interruption, and two
    may run at once.

    Example: `polyclinic benchmark run fed_heart_disease --protocol flamby --workers 2`
    """
    from polyclinic.benchmark.protocols import get_protocol
    from polyclinic.benchmark.results import ResultsFile
    from polyclinic.benchmark.runner import Sweep, parse_seeds, run_cells
    from polyclinic.benchmark.sweep_table import summary_table

    chosen = get_protocol(protocol)
    sweep = Sweep(
        strategies=None if strategies == "all" else [name.strip() for name in strategies.split(",")],
        seeds=parse_seeds(seeds),
        baselines=baselines,
        settings=parse_settings(settings or []),
        tuned=tuned,
        fixes=fix or [],
        num_updates=num_updates,
        rounds=rounds,
        curve_points=curve_points,
    )
    cells, left_out = plan(chosen, datasets, sweep, parse_paths(data or [], datasets))
    file = ResultsFile(results or Path(f"benchmark-{protocol}.csv"))
    done = file.done()
    typer.echo(f"Protocol {protocol}: {chosen.summary}.")
    typer.echo(f"{len(cells)} cells, {sum(c.id in done for c in cells)} of them done already. Results: {file.path}")
    with Shown(len(cells), sum(c.id in done for c in cells)) as shown:
        left = run_cells(cells, file, workers=workers, told=shown.told)
    for line in summary_table(file.read(), [c.id for c in cells]):
        typer.echo(line)
    if left:
        typer.echo(f"{left} cells are being run by another program on the same file.")
    for line in left_out:
        typer.echo(line, err=True)
    typer.echo(f"Next: polyclinic benchmark report {file.path}{' --published' if protocol == 'flamby' else ''}")
    if shown.failed or left_out:
        raise typer.Exit(1)


def plan(
    protocol: Protocol, datasets: Sequence[str], sweep: Sweep, paths: Mapping[str, Path]
) -> tuple[list[Cell], list[str]]:
    """The cells of all datasets, and a sentence for each dataset whose data are not there."""
    from polyclinic.benchmark.runner import plan_cells

    cells: list[Cell] = []
    left_out = []
    for name in datasets:
        try:
            cells += plan_cells(protocol, name, sweep, paths.get(name))
        except PolyclinicError as err:
            if len(datasets) == 1 or not err.code.startswith("dataset"):
                raise
            left_out.append(f"{name} is left out: {err}")
    return cells, left_out


class Shown:
    """A progress bar over cells, with a line for each that is done."""

    def __init__(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("cells", total=total, completed=done)
        self.failed = 0

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def told(self, cell: Cell, rows: Sequence[ResultRow]) -> None:
        """Says what came of a cell."""
        first = rows[0]
        ends = {row.test: row.value for row in rows if row.final}
        if first.status == "done":
            what = f"mean {ends['mean']:.4f}, pooled {ends['pooled']:.4f}"
        else:
            what = f"{first.status} in round {rows[-1].round}: {first.detail}"
            self.failed += first.status == "failed"
        self._progress.console.print(f"{cell}: {what} ({first.seconds:.1f} s)", soft_wrap=True, highlight=False)
        self._progress.advance(self._task)


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """``["lr=0.1"]`` as a dict; values are JSON, or else texts.

    Raises:
        ConfigError: one has no "=".
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text!r} is no hyper-parameter with its value", to_do="write --set lr=0.1")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def parse_paths(given: Sequence[str], datasets: Sequence[str]) -> dict[str, Path]:
    """The path of each dataset, from ``PATH`` or ``NAME=PATH``.

    Raises:
        ConfigError: a path without a name, where there are several datasets; or the name of none of them.
    """
    from polyclinic.errors import nearest

    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if name not in datasets and (not equals or "/" in name):  # a folder may be called alpha=0.5
            if len(datasets) > 1:
                raise ConfigError(
                    f"--data {text!r} names no dataset, and there are {len(datasets)}",
                    to_do=f"write --data {datasets[0]}={text}",
                )
            name, path = datasets[0], text
        if name not in datasets:
            raise ConfigError(f"--data names {name!r}, which is not to be run", to_do=nearest(name, datasets))
        found[name] = Path(path)
    return found
