import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import TorchTrainingPlan
from polyclinic.errors import PlanError


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(model_args["features"], 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


def test_model_args_are_a_copy():
    given = {"features": 2}
    plan = Plan(given)
    given["features"] = 3
    assert plan.model_args == {"features": 2}
    assert TorchTrainingPlan().model_args == {}


def test_the_parameters_of_model_and_loss_are_the_plans():
    class WithLoss(Plan):
        def __init__(self, model_args):
            super().__init__(model_args)
            self.loss = nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))

    assert set(WithLoss({"features": 2}).state_dict()) == {"model.weight", "model.bias", "loss.pos_weight"}


def test_without_a_training_step():
    with pytest.raises(PlanError, match="TorchTrainingPlan has no training_step") as caught:
        TorchTrainingPlan().training_step(torch.zeros(1))
    assert caught.value.to_do == "write training_step(self, x, y) that returns the batch's loss"


def test_predict_is_the_models_output_and_forward_is_predict():
    plan, x = Plan({"features": 2}), torch.ones(3, 2)
    assert torch.equal(plan.predict(x), plan.model(x))

    class Sigmoid(Plan):
        def predict(self, x):
            return torch.sigmoid(self.model(x))

    plan = Sigmoid({"features": 2})
    assert torch.equal(plan(x), torch.sigmoid(plan.model(x)))


def test_predict_takes_several_inputs():
    class Two(Plan):
        def __init__(self, model_args):
            super().__init__(model_args)
            self.model = nn.Bilinear(2, 2, 1)

    plan, x = Two({"features": 2}), torch.ones(3, 2)
    assert torch.equal(plan.predict(x, x), plan.model(x, x))


def test_testing_step_is_the_training_step():
    plan, batch = Plan({"features": 2}), (torch.ones(3, 2), torch.ones(3, 1))
    assert torch.equal(plan.testing_step(*batch), plan.training_step(*batch))


def test_training_data_is_the_dataset():
    dataset = object()
    assert Plan({"features": 2}).training_data(dataset) is dataset


def test_dependencies_are_kept_in_order():
    plan = Plan({"features": 2})
    assert plan.dependencies == ()
    plan.add_dependency(["import math", "from torch import fft"])
    plan.add_dependency(line for line in ["import json"])
    assert plan.dependencies == ("import math", "from torch import fft", "import json")
    assert Plan({"features": 2}).dependencies == ()
