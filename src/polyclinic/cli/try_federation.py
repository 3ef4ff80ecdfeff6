"""``polyclinic try-federation``: a hub, four hospitals and one experiment over TLS, all on this machine."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

DATASET = "fed_heart_disease"


def try_federation(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of federated training.")] = 5,
) -> None:
    """Run a real federation on this machine: hub, four nodes and an experiment, then stop it all.

    Each is a process of its own, with its own key, and they speak over TLS as they would between hospitals.

    Example: `polyclinic try-federation --rounds 3`
    """
    from polyclinic.datasets.baseline_plan import BaselinePlan
    from polyclinic.experiment.experiment import Experiment
    from polyclinic.federation.over_nats.researcher import NatsFederation
    from polyclinic.federation.places import create_nodes
    from polyclinic.federation.try_out import TryOut
    from polyclinic.node.installed_plans import approve_baseline

    with tempfile.TemporaryDirectory(prefix="polyclinic-try-") as folder, TryOut(Path(folder)) as tried:
        nodes = create_nodes(tried.place, DATASET, tags=["heart"])
        names = [node.node_id for node in nodes]
        tried.start_hub()
        typer.echo(f"The hub runs at 127.0.0.1:{tried.port}, with a certificate of its own.")
        researcher = tried.join_researcher("researcher")
        for name in names:
            tried.join_node(name, [researcher])
            tried.start_node(name, wait=False)
        for name in names:
            tried.wait_for_node(name)
        typer.echo(f"{len(names)} nodes have joined with keys of their own: {', '.join(names)}")
        for node in nodes:
            approve_baseline(node, DATASET)
        typer.echo(f"Each has approved the plan: polyclinic node approve NODE --installed {DATASET}")
        federation = NatsFederation(researcher)
        try:
            experiment = Experiment(
                BaselinePlan,
                model_args={"dataset": DATASET},
                tags=["heart"],
                federation=federation,
                training_args={"batch_size": 4, "lr": 0.003, "num_updates": 20},
                round_limit=rounds,
                folder=Path(folder) / "run",
            )
            began = time.monotonic()
            experiment.run()
            accuracy = experiment.evaluate(metrics=["accuracy"]).pooled["accuracy"]
            done = f"{rounds} round{'s' * (rounds > 1)} in {time.monotonic() - began:.1f} s"
            typer.echo(f"{done}; test accuracy {accuracy.value:.1%}")
        finally:
            federation.close()
    typer.echo("All of it has stopped, and nothing is left.")
    typer.echo('Next, for real: polyclinic hub start, then polyclinic hub invite node "NAME" (docs/real-federation.md)')
