"""What a real federation on this machine costs: four nodes over TLS on loopback, beside the same experiment in process.

    python benchmarks/bench_federation.py [ROUNDS] [LARGE_MB]

Prints the added time of a round of the 14-parameter model, the time of a round of a large model (once each), and the
memory of a node at rest.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import psutil
import torch
from torch import nn

from polyclinic import Experiment, InProcessFederation, TorchTrainingPlan
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.places import create_nodes
from polyclinic.federation.try_out import TryOut


class Large(TorchTrainingPlan):
    """A linear model with ballast."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        self.ballast = nn.Parameter(torch.zeros(model_args["megabytes"] * 250_000))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y) + self.ballast[:1].sum()


def seconds_of_rounds(federation, folder, plan, model_args, updates, rounds):
    """Of each round after the first, which loads what is needed."""
    experiment = Experiment(
        plan,
        model_args=model_args,
        tags=["heart"],
        federation=federation,
        training_args={"batch_size": 4, "lr": 0.003, "num_updates": updates},
        round_limit=rounds + 1,
        folder=folder,
        observers=[],
    )
    experiment.run()
    return [record.seconds for record in experiment.records[2:]]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with tempfile.TemporaryDirectory() as name, TryOut(Path(name)) as hospitals:
        folder = Path(name)
        names = [node.node_id for node in create_nodes(hospitals.place, "fed_heart_disease", tags=["heart"])]
        small = (BaselinePlan, {"dataset": "fed_heart_disease"}, 1, rounds)
        large = (Large, {"megabytes": megabytes}, 1, 2)
        here = InProcessFederation.at(hospitals.place)
        inside = [seconds_of_rounds(here, folder / f"in-{k}", *given) for k, given in enumerate((small, large))]
        hospitals.start_hub()
        researcher = hospitals.join_researcher("ada")
        for node in names:
            hospitals.join_node(node, [researcher])
            hospitals.start_node(node, wait=False)
        for node in names:
            hospitals.wait_for_node(node)
        resting = [psutil.Process(hospitals.processes[node].pid).memory_info().rss / 1e6 for node in names]
        print(f"a node at rest: {max(resting):.0f} MB")
        federation = NatsFederation(researcher)
        outside = [seconds_of_rounds(federation, folder / f"out-{k}", *given) for k, given in enumerate((small, large))]
        federation.close()
    added = sorted(1000 * (seconds - statistics.median(inside[0])) for seconds in outside[0])
    print(f"14 parameters: added a round, median {statistics.median(added):.0f} ms, ", end="")
    print(f"95th percentile {added[int(0.95 * len(added))]:.0f} ms")
    print(f"{megabytes} MB: {min(inside[1]):.2f} s a round in process, {min(outside[1]):.2f} s over the hub")


if __name__ == "__main__":
    main()
