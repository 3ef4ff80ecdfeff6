"""``polyclinic node``: one hospital's node on this machine, and the datasets registered at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyclinic.cli import node_journal, node_plans, node_policy, node_service
from polyclinic.cli.at import At, NodeId, open_node, place_of

if TYPE_CHECKING:
    from polyclinic.node.registry import RegisteredDataset

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="One hospital's node: make it, and say which data may be used at it.",
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help='What people call it, for example "Guy\'s Hospital".')],
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A PostgreSQL database for it. Default: SQLite in the node's folder."),
    ] = None,
    at: At = None,
) -> None:
    """Make a node on this machine.

    Example: `polyclinic node create cleveland`
    """
    from polyclinic.node.node import Node
    from polyclinic.node.policy import default_text
    from polyclinic.node.policy_file import write_policy

    node = Node.create(place_of(at), name, database=database)
    assert node.folder is not None
    write_policy(node.folder, default_text().encode())
    typer.echo(f"Made node {node.node_id} at {node.folder}")
    typer.echo(f"Next: polyclinic node add-dataset {node.node_id} tabular --path FILE --target COLUMN --tags TAG")


@app.command("add-dataset")
def add_dataset(
    node: NodeId,
    kind: Annotated[str, typer.Argument(help="tabular, images, python or federated.")],
    tags: Annotated[str, typer.Option(metavar="A,B", help="What researchers find the data by.")],
    name: Annotated[str | None, typer.Option(help="What people call the dataset. Default: by its file.")] = None,
    path: Annotated[Path | None, typer.Option(help="The table, or the folder with the data.")] = None,
    target: Annotated[str | None, typer.Option(help="tabular: the column(s) to predict.")] = None,
    features: Annotated[
        str | None, typer.Option(metavar="A,B", help="tabular: columns, in order; default: all.")
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(metavar="COL=A,B", help="tabular: a column's categories, for one-hot; may be repeated."),
    ] = None,
    missing: Annotated[
        str | None, typer.Option(help="tabular: mean (default), median, drop or error, for missing cells.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="tabular: none (default) or standard.")] = None,
    id_column: Annotated[str | None, typer.Option(help="tabular: whose row it is; kept on one side.")] = None,
    stratify: Annotated[bool | None, typer.Option(help="tabular: every class on both sides.")] = None,
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="tabular, images: class names, in order.")] = None,
    allow_one_class: Annotated[
        bool, typer.Option("--allow-one-class", help="tabular, images: accept a target of one class.")
    ] = False,
    test_fraction: Annotated[float | None, typer.Option(help="tabular, images: default 0.2.")] = None,
    seed: Annotated[int | None, typer.Option(help="tabular, images: of the split.")] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="images: resize to this.")] = None,
    channels: Annotated[int | None, typer.Option(help="images: 1 or 3.")] = None,
    patient_pattern: Annotated[
        str | None, typer.Option(help="images: a regular expression whose group 1 in a file's name is the patient.")
    ] = None,
    function: Annotated[str | None, typer.Option(help="python: module:function, or file.py:function.")] = None,
    arguments: Annotated[str | None, typer.Option(metavar="JSON", help="python: the function's arguments.")] = None,
    watch: Annotated[str | None, typer.Option(metavar="A,B", help="python: files the data come from.")] = None,
    module: Annotated[str | None, typer.Option(help="federated: fed_ixi, or any module of that interface.")] = None,
    center: Annotated[str | None, typer.Option(help="federated: the center's number or name.")] = None,
    options: Annotated[str | None, typer.Option(metavar="JSON", help="federated: for its class.")] = None,
    at: At = None,
) -> None:
    """Register a dataset at a node: it is read, checked, and you are told what was found.

    Examples:

    `polyclinic node add-dataset cleveland tabular --path cleveland.csv --target num --tags heart`

    `polyclinic node add-dataset derma images --path photos --size 64x64 --tags skin`

    `polyclinic node add-dataset guys federated --module fed_ixi --center 0 --path ixi --tags ixi`

    `polyclinic node add-dataset lab python --function my_data.py:make --tags lab`
    """
    # Every parameter but these is a setting of the dataset's kind; what was not given is left to the kind's defaults.
    given = {key: value for key, value in locals().items() if key not in ("node", "kind", "tags", "name", "at")}
    given["allow_one_class"] = allow_one_class or None
    given["categorical"] = categorical[0] if categorical and len(categorical) == 1 else categorical
    settings = {key: value for key, value in given.items() if value is not None}
    default = path.name.partition(".")[0] if path else module or (function or "data").rpartition(":")[2]
    registry = open_node(node, at).registry
    _report(registry.add(kind, settings, tags=tags.split(","), name=name or default))


@app.command("remove-dataset")
def remove_dataset(
    node: NodeId, dataset: Annotated[str, typer.Argument(help="The dataset's id.")], at: At = None
) -> None:
    """Forget a dataset; its files stay where they are."""
    opened = open_node(node, at)
    with opened.in_use():
        opened.registry.remove(dataset)
    typer.echo(f"Removed dataset {dataset} from node {node}.")


@app.command()
def show(node: NodeId, at: At = None) -> None:
    """Show a node's datasets, and all that was found in them."""
    for dataset in open_node(node, at).registry.datasets():
        _report(dataset)


app.command("start")(node_service.start)
app.command("status")(node_service.status)
app.command("stop")(node_service.stop)
app.command("stop-task")(node_service.stop_task)
app.command("trust")(node_service.trust)
app.add_typer(node_journal.app, name="journal")
app.command("report")(node_journal.report)
app.add_typer(node_plans.app, name="plans")
app.add_typer(node_policy.app, name="policy")
app.command("approve")(node_plans.approve)
app.command("reject")(node_plans.reject)
app.command("revoke")(node_plans.revoke)


def _report(dataset: RegisteredDataset) -> None:
    from rich.console import Console
    from rich.table import Table

    found = dataset.found
    facts = Table.grid(padding=(0, 2))
    missing = ", ".join(f"{column} {cells}" for column, cells in found.missing.items())
    shown = ", ".join(found.features[:40]) + (" …" if len(found.features) > 40 else "")
    for label, value in (
        ("dataset", f"{dataset.name} (id {dataset.dataset_id}, {dataset.kind.name})"),
        ("tags", ", ".join(dataset.tags)),
        ("rows", f"{found.num_train} train, {found.num_test} test"),
        ("features", f"{len(found.features)}: {shown}" if found.features else ""),
        ("shape", " × ".join(map(str, found.shape))),
        ("target", found.target),
        ("classes", ", ".join(found.classes)),
        ("missing cells", missing),
        *(("note", note) for note in found.notes),
        ("problem", dataset.problem()),
    ):
        if value:
            facts.add_row(label, value)
    Console().print(facts, markup=False)
