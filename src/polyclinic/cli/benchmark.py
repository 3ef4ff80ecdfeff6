"""``polyclinic benchmark``: what its results files say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.cli import benchmark_run, benchmark_tune

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Benchmarks over the federated datasets.")
app.command()(benchmark_run.run)
app.command()(benchmark_tune.tune)


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Results files, all of one protocol.")],
    published: Annotated[
        bool, typer.Option("--published", help="Show the values that FLamby published beside these.")
    ] = False,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to; made if absent.")] = Path(
        "benchmark-report"
    ),
) -> None:
    """Write a page with figures and tables, and its pictures as PNG files.

    Example: `polyclinic benchmark report results.csv --published --to report`
    """
    from polyclinic.benchmark.report import write_report

    page = write_report(files, to, published=published)
    typer.echo(f"Report: {page}")
    typer.echo(f"Pictures: {len(list(page.parent.glob('*.png')))} PNG files beside it")
