"""Three hospitals with a table each, a model of your own, and two algorithms to compare.

Each hospital makes a node and registers its table, with the same columns in the same order:

    polyclinic node create cleveland
    polyclinic node add-dataset cleveland tabular --path cleveland.csv --target num --tags heart

`num` is the grade of the disease, 0 for none. The network learns to tell 0 from the rest. What the plan uses (`Divide`,
`layer`, `WIDTH`, the imports) travels to the nodes with it.

The environment variable ROUNDS lowers the number of rounds for a short try.
"""

import os

import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import Experiment, FedAverage, FedProx, TorchTrainingPlan

WIDTH = 16
# Rough sizes of age, sex, cp, trestbps, chol, fbs, restecg, thalach, exang, oldpeak, slope, ca and thal. Known
# beforehand, because the hospitals' own means stay with the hospitals.
SIZES = [50.0, 1.0, 3.0, 130.0, 200.0, 1.0, 1.0, 140.0, 1.0, 1.0, 2.0, 1.0, 5.0]


class Divide(nn.Module):
    """Brings columns to sizes around 1."""

    def __init__(self, sizes):
        super().__init__()
        self.register_buffer("sizes", torch.tensor(sizes))

    def forward(self, x):
        return x / self.sizes


def layer(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU())


class DiseasePlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        sizes = model_args["sizes"]
        self.model = nn.Sequential(Divide(sizes), layer(len(sizes), WIDTH), layer(WIDTH, WIDTH), nn.Linear(WIDTH, 1))
        self.optimizer = torch.optim.Adam(self.parameters())

    def training_step(self, x, y):
        return F.binary_cross_entropy_with_logits(self.model(x), (y > 0).float())

    def predict(self, x):
        return torch.sigmoid(self.model(x))


def run(name, aggregator):
    experiment = Experiment(
        DiseasePlan,
        name=name,
        tags=["heart"],
        model_args={"sizes": SIZES},
        training_args={"batch_size": 16, "lr": 0.003, "num_updates": 40},
        aggregator=aggregator,
        round_limit=int(os.environ.get("ROUNDS", 25)),
        seed=1,
    )
    if not experiment.check():
        raise SystemExit("not every hospital can run this, see above")
    experiment.run()
    experiment.history.plot(experiment.run_folder / "curves.png")
    return experiment


if __name__ == "__main__":
    for experiment in (run("average", FedAverage()), run("proximal", FedProx(mu=0.01))):
        print(experiment.name, "in", experiment.run_folder)
        print(experiment.evaluate(metrics=["accuracy", "balanced_accuracy", "roc_auc"]))
