"""Three London hospitals train a U-Net that finds the brain in MR images.

Get the data (see docs/datasets/fed_ixi.md) and make a node for each hospital:

    polyclinic federation create fed_ixi --data FOLDER --tags ixi

To try it without the data, let `polyclinic dataset mock fed_ixi --to FOLDER` make some up. The environment variables
ROUNDS and EPOCHS make the run shorter.
"""

import os

import torch

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.datasets.fed_ixi import BATCH_SIZE, LR, Baseline, BaselineLoss, Optimizer


class BrainPlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, image, mask):
        return self.loss(self.model(image), mask)


experiment = Experiment(
    BrainPlan,
    name="brains",
    tags=["ixi"],
    training_args={"batch_size": BATCH_SIZE, "lr": LR, "epochs": int(os.environ.get("EPOCHS", 1))},
    round_limit=int(os.environ.get("ROUNDS", 10)),
)
experiment.run()
print(experiment.evaluate())

# The global model is an ordinary torch module: here it looks at a volume of noise.
size = 48, 60, 48
with torch.no_grad():
    probabilities = experiment.model()(torch.randn(1, 1, *size))
print("voxels:", tuple(probabilities.shape))
print("to go on later: Experiment.load(", repr(str(experiment.run_folder)), ").run()", sep="")
