"""``polyclinic federation``: the nodes of this machine, as one federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polyclinic.cli.at import At, place_of
from polyclinic.cli.dataset_options import Options, options_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The nodes of this machine: make one for each center of a dataset, see them, remove them.",
)


@app.command()
def create(
    dataset: Annotated[str, typer.Argument(help="A dataset, for example fed_heart_disease, or a split.json.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Its data, raw or prepared. Not needed for fed_heart_disease."),
    ] = None,
    tags: Annotated[
        str, typer.Option(metavar="A,B", help="What researchers find the data by. Default: the dataset's name.")
    ] = "",
    centers: Annotated[str, typer.Option(metavar="0,2", help="Only these centers, by number or name.")] = "",
    flamby_compatible: Annotated[
        bool, typer.Option("--flamby-compatible", help="As in FLamby, known defects included, to compare with it.")
    ] = False,
    options: Options = "",
    at: At = None,
) -> None:
    """Make one node for each center of a dataset, and register the center's data at it.

    From then on, any program with `Experiment(tags=[…])` finds them; no server is needed.

    Example: `polyclinic federation create fed_ixi --data 7kd5wj7v7p-3.zip --tags ixi`
    """
    from polyclinic.datasets.federated_dataset import FederatedDataset
    from polyclinic.federation.places import create_nodes

    place = place_of(at)
    nodes = create_nodes(
        place,
        dataset,
        data_path=data,
        tags=_words(tags),
        centers=_words(centers) or None,
        options=({"flamby_compatible": True} if flamby_compatible else {}) | options_of(options),
    )
    typer.echo(f"Made {len(nodes)} nodes at {place}.")
    _show_here(place)
    found = _words(tags) or [FederatedDataset.load(dataset).name]
    typer.echo(f"Next, in Python: Experiment(MyPlan, tags={found!r}, …).run()")


@app.command()
def show(at: At = None) -> None:
    """List the nodes, their datasets with tags, and the numbers of samples.

    Where a hub was chosen (`polyclinic federation use`), its nodes are shown, with what each is at: idle, at work and
    for whom, who waits, or since when it is offline.
    """
    place = place_of(at)
    if (place / ".hubs").is_dir():
        from polyclinic.federation.over_nats.identity import chosen_hub_folder

        if (folder := chosen_hub_folder(place)) is not None:
            _show_hub(folder)
            return
    _show_here(place)


def _show_hub(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from polyclinic.federation.over_nats.overview import COLUMNS
    from polyclinic.federation.over_nats.researcher import NatsFederation

    federation = NatsFederation(folder)
    try:
        seen = federation.overview()
    finally:
        federation.close()
    table = Table(*COLUMNS)
    table.columns[0].no_wrap = True
    table.columns[3].overflow = "fold"
    for row in seen.rows:
        table.add_row(*map(Text, row))
    console = Console()
    console.print(f"Nodes of {federation.title}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for remark in seen.remarks:
        console.print(remark, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _show_here(place: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from polyclinic.experiment.participants import search
    from polyclinic.federation.in_process import InProcessFederation

    federation = InProcessFederation.at(place)
    answers, _ = search(federation, (), [node.node_id for node in federation.nodes()])
    table = Table("node", "dataset", "tags", "train", "test")
    table.columns[0].no_wrap = True
    table.columns[2].overflow = "fold"
    problems = []
    for answer in answers:
        if not answer.datasets:
            table.add_row(answer.node_id, "(none)")
        for found in answer.datasets:
            table.add_row(answer.node_id, found.name, ", ".join(found.tags), str(found.num_train), str(found.num_test))
            problems += [f"{answer.node_id}, {found.name}: {found.problem}"] * bool(found.problem)
    console = Console()
    console.print(f"Nodes at {place}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for problem in problems:
        console.print(f"Problem at {problem}", style="yellow", soft_wrap=True)


@app.command()
def remove(
    nodes: Annotated[list[str] | None, typer.Argument(help="Ids of the nodes; default: all of them.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    at: At = None,
) -> None:
    """Remove nodes from this machine. Their data stay where they are."""
    from polyclinic.errors import NodeError, nearest
    from polyclinic.federation.in_process import open_nodes
    from polyclinic.federation.places import remove_node

    place = place_of(at)
    there = {node.node_id: node for node in open_nodes(place)}
    for name in nodes or []:
        if name not in there:
            raise NodeError(f"there is no node {name!r} at {place}", to_do=nearest(name, there))
    chosen = nodes or list(there)
    if not yes:
        typer.confirm(f"Remove {', '.join(chosen)} at {place}?", abort=True)
    for name in chosen:
        remove_node(there[name])
    typer.echo(f"Removed {', '.join(chosen)}.")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
