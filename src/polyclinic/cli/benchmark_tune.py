"""``polyclinic benchmark tune``: hyper-parameters, chosen on validation data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Its name: fed_heart_disease, …")],
    strategies: Annotated[str, typer.Option(metavar="A,B", help="`all`, or names with commas, `Pooled` too.")] = "all",
    trials: Annotated[int, typer.Option(min=1, help="Points of the search space that are tried for each.")] = 20,
    seeds: Annotated[str, typer.Option(metavar="1-3", help="A trial's value is the mean over these seeds.")] = "1-3",
    data: Annotated[Path | None, typer.Option("--data", metavar="PATH", help="Where the data are.")] = None,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="What is found is added to this JSON file.")] = Path(
        "tuned.json"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Methods that are tuned at the same time.")] = 1,
) -> None:
    """Search hyper-parameters for protocol polyclinic. Test data are not looked at.

    Each method begins with the settings that it has now; use what was found by `polyclinic benchmark run --tuned FILE`.

    Example: `polyclinic benchmark tune fed_heart_disease --strategies Pooled,FedAverage --trials 30`
    """
    from rich.console import Console
    from rich.progress import track

    from polyclinic.benchmark.protocols import get_protocol
    from polyclinic.benchmark.runner import Sweep, parse_seeds, plan_cells
    from polyclinic.benchmark.tune import tune_cells, write_tuned

    names = None if strategies == "all" else [name.strip() for name in strategies.split(",")]
    pooled = names is None or "Pooled" in names
    chosen = None if names is None else [name for name in names if name != "Pooled"]
    numbers = parse_seeds(seeds)
    sweep = Sweep(strategies=chosen, seeds=numbers[:1], baselines=pooled)
    cells = plan_cells(get_protocol("polyclinic"), dataset, sweep, data)
    cells = [cell for cell in cells if not cell.method.startswith("Local ")]
    write_tuned(to, dataset, {})  # whether it can be, before the search
    console = Console(stderr=True)
    found = tune_cells(cells, seeds=numbers, trials=trials, workers=workers)
    for cell, settings, loss in track(found, "methods", total=len(cells), console=console, transient=True):
        write_tuned(to, dataset, {cell.method: settings})
        told = ", ".join(f"{name}={value}" for name, value in settings.items())
        console.print(f"{cell.method}: validation loss {loss:.4g} with {told}", soft_wrap=True, highlight=False)
    typer.echo(f"Tuned: {to}")
    typer.echo(f"Next: polyclinic benchmark run {dataset} --tuned {to}")
