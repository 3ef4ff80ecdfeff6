"""``polyclinic demo``: a whole federated experiment on real data, in under a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from polyclinic.experiment.evaluation import Evaluation

DATASET = "fed_heart_disease"
TOGETHER = "all together"
UPDATES = 20
TRAINING = {"batch_size": 4, "lr": 0.003}


def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of federated training.")] = 30,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder. Default: a new one below runs/.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same numbers.")] = 0,
) -> None:
    """Train over four hospitals in this process, and compare with what each could do alone.

    The data are the UCI Heart Disease tables of Cleveland, Hungary, Switzerland and Long Beach (CC BY 4.0), which
    come with Polyclinic. Four models are compared on each hospital's own test patients: the federated one, the
    hospital's own, and the one that would need all records in one place; each of them with as many gradient steps.
    """
    from rich.console import Console

    console = Console()
    console.print("Fed-Heart-Disease: four hospitals, 486 patients to train on, 254 to test on.", highlight=False)
    federation, hospitals = _federation()
    federated = _experiment("federated", federation, hospitals, UPDATES, rounds, seed, folder=folder, test_every=1)
    federated.run()
    results = {"federated": federated.evaluate(metrics=["accuracy"])}
    with (
        console.status("Training each hospital's own model, and one on all records together, to compare …"),
        tempfile.TemporaryDirectory(prefix="polyclinic-demo-") as others,
    ):
        for name, nodes, updates in [
            *((hospital, [hospital], UPDATES) for hospital in hospitals),
            (TOGETHER, [TOGETHER], UPDATES * len(hospitals)),
        ]:
            own = Path(others) / str(len(results))
            other = _experiment(name, federation, nodes, updates, rounds, seed, folder=own, observers=[])
            other.run()
            results[name] = other.evaluate(metrics=["accuracy"], nodes=hospitals)
    console.print(_table(results, hospitals))
    console.print(
        "own model: trained by each hospital alone. all records: trained as if nothing had to stay.", style="dim"
    )
    picture = federated.run_folder / "curves.png"
    federated.history.plot(picture)
    console.print(f"Curves:     {picture}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Run folder: {federated.run_folder}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Go on in Python: Experiment.load({str(federated.run_folder)!r})", soft_wrap=True, markup=False)


def _federation() -> tuple[Any, list[str]]:
    """One node for each hospital, and one that has all records, to compare with."""
    from polyclinic.datasets.federated_dataset import FederatedDataset
    from polyclinic.federation.simulation import simulate

    dataset = FederatedDataset.load(DATASET)
    parts = {name: (dataset.build(k, True), dataset.build(k, False)) for k, name in enumerate(dataset.centers)}
    parts[TOGETHER] = (dataset.build(train=True, pooled=True), dataset.build(train=False, pooled=True))
    return simulate(parts, tags=["heart"]), list(dataset.centers)


def _experiment(
    name: str,
    federation: Any,
    nodes: list[str],
    updates: int,
    rounds: int,
    seed: int,
    *,
    folder: Path | None = None,
    test_every: int = 0,
    observers: list[Any] | None = None,
) -> Any:
    from polyclinic.datasets.baseline_plan import BaselinePlan
    from polyclinic.experiment.experiment import Experiment

    return Experiment(
        BaselinePlan,
        model_args={"dataset": DATASET},
        tags=["heart"],
        nodes=nodes,
        federation=federation,
        training_args={**TRAINING, "num_updates": updates, "test_every": test_every},
        round_limit=rounds,
        seed=seed,
        name=name,
        folder=folder,
        observers=observers,
    )


def _table(results: dict[str, Evaluation], hospitals: list[str]) -> Any:
    from rich.table import Table

    table = Table(title="Test accuracy (95 % interval)", title_justify="left")
    for head in ("hospital", "patients", "federated", "own model", "all records"):
        table.add_column(head, justify="left" if head == "hospital" else "right")

    def cell(result: Evaluation, hospital: str | None) -> str:
        estimate = (result.pooled if hospital is None else result.nodes[hospital])["accuracy"]
        return f"{estimate.value:.1%} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"

    for name in hospitals:
        patients = str(results["federated"].nodes[name]["accuracy"].num_samples)
        models = (results["federated"], results[name], results[TOGETHER])
        table.add_row(name, patients, *(cell(model, name) for model in models))
    table.add_section()
    # Every patient judged by the model of their own hospital.
    right = sum(results[name].nodes[name]["accuracy"].value * int(_patients(results, name)) for name in hospitals)
    total = sum(_patients(results, name) for name in hospitals)
    pooled = (cell(results["federated"], None), f"{right / total:.1%}        ", cell(results[TOGETHER], None))
    table.add_row("all hospitals", str(total), *pooled)
    return table


def _patients(results: dict[str, Evaluation], name: str) -> int:
    return results["federated"].nodes[name]["accuracy"].num_samples
