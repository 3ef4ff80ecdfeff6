"""``polyclinic dataset``: the federated datasets that come with Polyclinic, and how to get and prepare them.

Nothing heavy is imported here: a dataset module, and with it torch, only when a command runs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyclinic.cli import dataset_centers, dataset_generate
from polyclinic.cli.dataset_options import Options, options_of
from polyclinic.errors import ConfigError, reject_unknown

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The federated datasets: what there is, where it comes from, and how to make it ready.",
    epilog="""Try the whole path without any real data:

`polyclinic dataset mock fed_ixi --to mock_ixi`

`polyclinic federation create fed_ixi --data mock_ixi`""",
)

_ARGUMENTS = {"source", "to", "accept_license", "workers", "show_progress"}  # those that commands give themselves
Name = Annotated[str, typer.Argument(help="The dataset, for example fed_ixi; `polyclinic dataset list` names them.")]
To = Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write to; made if absent.")]


@app.command("list")
def list_datasets() -> None:
    """List the datasets that come with Polyclinic.

    The sizes are those of the full data: patients (or scans) for training and for test, over all centers.
    """
    from polyclinic.datasets.federated_dataset import FederatedDataset, known_datasets

    table = Table("name", "what it is", "centers", "train", "test", "licence", "download")
    table.columns[0].no_wrap = True
    for name in known_datasets():
        dataset = FederatedDataset.load(name)
        card = dataset.card
        if card is None:
            table.add_row(name, "", str(dataset.num_clients), "", "", "", "")
            continue
        train, test = (sum(center[part] for center in card.samples) for part in (0, 1))
        table.add_row(
            name, card.task, str(dataset.num_clients), str(train), str(test), card.license, card.download_size
        )
    Console().print(table)


@app.command()
def info(name: Name) -> None:
    """Show one dataset: its centers, baseline, licence, citation, and how to get it.

    Example: `polyclinic dataset info fed_heart_disease`
    """
    import torch

    from polyclinic.datasets.federated_dataset import FederatedDataset
    from polyclinic.datasets.licenses import terms

    dataset = FederatedDataset.load(name)
    console = Console()
    facts = Table.grid(padding=(0, 2))
    card = dataset.card
    if card is not None:
        for label, value in (
            ("title", card.title),
            ("task", card.task),
            ("licence", f"{card.license}, {card.license_url}"),
            ("in short", terms(card.license)),
            ("cite", card.citation),
            ("source", card.source_url),
            ("download", card.download_size),
            ("install", f"pip install 'polyclinic[{card.extra}]'"),
        ):
            facts.add_row(label, value)
    # Without memory: large models are there at once, and no pretrained weights are fetched to count them.
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in dataset.baseline().parameters())
    facts.add_row("baseline", f"{num_parameters:,} parameters, {dataset.optimizer.__name__}, lr {dataset.lr:g}")
    facts.add_row("training", f"batch {dataset.batch_size}, {dataset.num_epochs_pooled} epochs when pooled")
    facts.add_row("rounds", f"{dataset.get_nb_max_rounds(100)} of 100 updates each")
    # Without markup: an address or an extra in brackets is text.
    console.print(facts, markup=False)
    centers = Table("center", "name", "train", "test", title="Centers of the full data")
    for number, center in enumerate(dataset.centers):
        counts = [str(count) for count in card.samples[number]] if card else ["", ""]
        centers.add_row(str(number), center, *counts)
    console.print(centers)


@app.command()
def download(
    name: Name,
    to: To,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="You have read the licence and accept it.")
    ] = False,
    slides: Annotated[
        list[str] | None,
        typer.Option("--slides", metavar="NAME", help="Only this slide; repeat it for more (fed_camelyon16)."),
    ] = None,
    options: Options = "",
) -> None:
    """Download a dataset from its publisher; a broken download continues when you repeat the command.

    Without `--accept-license`, nothing is downloaded: the licence is shown.

    Example: `polyclinic dataset download fed_ixi --to ixi --accept-license`
    """
    from polyclinic.datasets.federated_dataset import FederatedDataset

    dataset = FederatedDataset.load(name)
    fetch = dataset.hook("download")
    given = _more(fetch, f"download {name}", options) | _accepted(fetch, f"download {name}", slides=slides or None)
    path = fetch(to, accept_license=accept_license, **given)
    if dataset.card is not None:
        _say(f"Licence: {dataset.card.license}, {dataset.card.license_url}\nCite: {dataset.card.citation}")
    _say(f"Downloaded and verified: {path}")
    _say(f"Next: polyclinic federation create {name} --data {path}")


@app.command()
def prepare(
    name: Name,
    source: Annotated[Path, typer.Option("--from", metavar="DIR", help="The data as downloaded: folder or zip.")],
    to: To,
    flamby_compatible: Annotated[
        bool,
        typer.Option(
            "--flamby-compatible",
            help="Prepare as FLamby does, its defects included, to compare with its published results.",
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Subjects at a time; by default one for each core.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", metavar="NAME", help="The network that makes features of tiles (fed_camelyon16)."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="Pretrained weights, or the word `random`; without it they come from their publisher.",
        ),
    ] = None,
    options: Options = "",
) -> None:
    """Turn a raw download into arrays that training reads fast; repeat the command to go on after an interruption.

    Example: `polyclinic dataset prepare fed_ixi --from ixi/7kd5wj7v7p-3.zip --to ixi-prepared`
    """
    from polyclinic.datasets.federated_dataset import FederatedDataset

    dataset = FederatedDataset.load(name)
    make = dataset.hook("prepare")
    given = _more(make, f"prepare {name}", options)
    given |= _accepted(make, f"prepare {name}", encoder=encoder, weights=weights)
    path = Path(make(source, to, workers=workers, **{"flamby_compatible": flamby_compatible} | given))
    failed = json.loads((path / "manifest.json").read_text("utf-8"))["failed"] if _has_manifest(path) else []
    for entry in failed:
        _say(f"Left out: {entry['id']}: {entry['why']}")
    if failed:
        _say(f"{len(failed)} subjects could not be prepared; mend their files and repeat the command.")
    _say(f"Prepared: {path}")
    _say(f"Next: polyclinic federation create {name} --data {path}")


@app.command()
def mock(
    name: Name,
    to: To,
    patients_per_center: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many made-up patients each center gets.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed makes the same data.")] = 0,
) -> None:
    """Write made-up data in the dataset's own format, to try everything without the real data.

    Example: `polyclinic dataset mock fed_ixi --to mock_ixi --patients-per-center 6`
    """
    from polyclinic.datasets.federated_dataset import FederatedDataset

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        # Made-up patients must never end up among real ones.
        raise ConfigError(f"{to} is not an empty folder", to_do="choose a new folder for the made-up data")
    make = FederatedDataset.load(name).hook("mock")
    default = inspect.signature(make).parameters["patients_per_center"].default
    path = make(to, patients_per_center=patients_per_center or default, seed=seed)
    _say(f"Made-up data of {name}, not of any patient: {path}")
    _say(f"Next: polyclinic federation create {name} --data {path}")


def _accepted(function: Callable[..., Any], command: str, **options: Any) -> dict[str, Any]:
    """The options that were given; ConfigError for one that this dataset's function does not take."""
    given = {key: value for key, value in options.items() if value is not None}
    for key in sorted(given.keys() - inspect.signature(function).parameters.keys()):
        raise ConfigError(
            f"polyclinic dataset {command} has no option --{key.replace('_', '-')}",
            to_do="leave it out: it is for other datasets",
        )
    return given


def _more(function: Callable[..., Any], command: str, text: str) -> dict[str, Any]:
    """What --options names; ConfigError for one that this dataset's function does not take, or that is an argument."""
    parameters = inspect.signature(function).parameters.values()
    known = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    options = options_of(text)
    reject_unknown(options, known - _ARGUMENTS, kind=f"option of polyclinic dataset {command}")
    return options


app.command()(dataset_centers.describe)
app.command()(dataset_centers.split)
app.command()(dataset_generate.generate)


def _has_manifest(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _say(text: str) -> None:
    # Paths are kept whole, so that they can be copied.
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
