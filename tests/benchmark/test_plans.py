from __future__ import annotations

import pytest
import torch

from polyclinic.benchmark.plans import OPTIMIZERS, SgdPlan, TunedPlan
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("sgd", torch.optim.SGD, 0.0), ("momentum", torch.optim.SGD, 0.9), ("adam", torch.optim.Adam, None)],
)
def test_optimizers_by_name(name, kind, momentum):
    plan = TunedPlan({"dataset": "fed_heart_disease", "optimizer": name})
    assert type(plan.optimizer) is kind
    assert plan.optimizer.defaults.get("momentum") == momentum
    assert plan.optimizer.defaults["weight_decay"] == 0
    held = [parameter for group in plan.optimizer.param_groups for parameter in group["params"]]
    assert [id(parameter) for parameter in held] == [id(parameter) for parameter in plan.model.parameters()]


@pytest.mark.parametrize("dataset", ["fed_heart_disease", "fed_tcga_brca"])
def test_the_datasets_own_optimizer(dataset):
    plan = TunedPlan({"dataset": dataset, "optimizer": "own"})
    expected = FederatedDataset.load(dataset)
    assert type(plan.optimizer) is expected.optimizer
    assert plan.optimizer.param_groups[0]["lr"] == expected.lr


def test_an_unknown_optimizer():
    with pytest.raises(ConfigError, match=r"there is no optimizer 'adamw'\n.*choose one of sgd, momentum, adam, own"):
        TunedPlan({"dataset": "fed_heart_disease", "optimizer": "adamw"})
    assert set(OPTIMIZERS) == {"sgd", "momentum", "adam", "own"}


def test_plain_sgd_steps_along_the_gradient_of_the_datasets_loss():
    plan = SgdPlan({"dataset": "fed_heart_disease"})
    x, y = torch.randn(5, 13), torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]])
    before = [parameter.detach().clone() for parameter in plan.model.parameters()]
    probability = torch.sigmoid(x @ before[0].T + before[1])
    loss = plan.training_step(x, y)
    expected = -(y * probability.log() + (1 - y) * (1 - probability).log()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plan.optimizer.zero_grad()
    loss.backward()
    plan.optimizer.step()
    # The gradient of the logistic loss in closed form.
    error = (probability - y) / len(y)
    for parameter, old, gradient in zip(plan.model.parameters(), before, (error.T @ x, error.sum(0)), strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * gradient, rtol=1e-4, atol=1e-6)
