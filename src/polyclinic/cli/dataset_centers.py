"""``polyclinic dataset describe`` and ``split``: how centers differ, and artificial ones that differ on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyclinic.cli.dataset_options import Options, options_of

if TYPE_CHECKING:
    from polyclinic.datasets.describe import Description

Name = Annotated[str, typer.Argument(help="A dataset, for example fed_ixi, or the path of a split.json.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Its data, raw or prepared. Not needed for fed_heart_disease."),
]
Compatible = Annotated[
    bool, typer.Option("--flamby-compatible", help="As in FLamby, known defects included, to compare with it.")
]


def describe(
    name: Name,
    data: Data = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw a figure: PNG, PDF or SVG, by its ending.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many images to read of each center's training and test part.")
    ] = 32,
    flamby_compatible: Compatible = False,
    options: Options = "",
) -> None:
    """Show how the centers of a dataset differ: sizes, targets, features or images.

    It reads the data, so run it where they are. What it prints are counts, means and standard deviations; of a small
    center even these may tell something of a patient, so look before you pass them on.

    Example: `polyclinic dataset describe fed_heart_disease --picture heart.png`
    """
    from polyclinic.datasets.describe import describe as look
    from polyclinic.datasets.federated_dataset import FederatedDataset

    given = ({"flamby_compatible": True} if flamby_compatible else {}) | options_of(options)
    _show(look(FederatedDataset.load(name), data, options=given, most=samples), picture)


def split(
    name: Name,
    into: Annotated[int, typer.Option("--into", min=2, metavar="N", help="How many artificial centers to make.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder for split.json and picture.png.")],
    method: Annotated[
        str,
        typer.Option(help="dirichlet, linear, quantity, label or feature; docs/artificial-centers.md tells of each."),
    ] = "dirichlet",
    by: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="label (default), center, time, or a feature's name or number."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(metavar="A", help="Of dirichlet and quantity: 0.1 is very uneven, 100 nearly even.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="The same seed gives the same centers.")] = 0,
    data: Data = None,
    flamby_compatible: Compatible = False,
    options: Options = "",
) -> None:
    """Make more, artificial centers of a dataset, which differ on purpose. The data are not copied.

    Example: `polyclinic dataset split fed_heart_disease --into 10 --alpha 0.5 --to heart10`
    """
    from polyclinic.datasets.artificial import make_split
    from polyclinic.datasets.describe import describe as look
    from polyclinic.datasets.federated_dataset import FederatedDataset

    given = ({"flamby_compatible": True} if flamby_compatible else {}) | options_of(options)
    made = make_split(
        FederatedDataset.load(name),
        into,
        method=method,
        alpha=alpha,
        seed=seed,
        by=by,
        data_path=data,
        options=given,
    )
    path = made.save(to)
    _show(look(FederatedDataset.load(str(path))), to / "picture.png")
    typer.echo(f"Next: polyclinic federation create {to}")


def _show(description: Description, picture: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for title, head, rows in description.tables():
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(head):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for center, why in description.absent.items():
        console.print(f"Without {center}: {why}", markup=False, highlight=False, soft_wrap=True)
    if picture is not None:
        description.plot(picture)
        console.print(f"Figure: {picture}", markup=False, highlight=False, soft_wrap=True)
