from __future__ import annotations

import numpy as np
import pytest
import torch

from polyclinic.datasets.fed_synthetic import METRIC, Baseline, BaselineLoss, FedSynthetic, get_nb_max_rounds, metric
from polyclinic.errors import TrainingError


@pytest.mark.parametrize("compatible", [True, False])
def test_the_model_is_linear_of_33_parameters_with_a_sigmoid_only_as_in_flamby(compatible):
    model = Baseline(flamby_compatible=compatible)
    assert sum(parameter.numel() for parameter in model.parameters()) == 33
    x = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    scores = x @ model.linear.weight.T + model.linear.bias
    torch.testing.assert_close(model(x), 1 / (1 + torch.exp(-scores)) if compatible else scores)


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_the_loss_is_the_mean_of_minus_log_softmax(shape):
    scores, y = np.array([[1.0, 2.0, 0.5], [0.0, -3.0, 4.0], [5.0, 5.0, 5.0]]), np.array([1, 0, 2])
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(3), y]).mean()
    target = torch.tensor(y, dtype=torch.float32).reshape(shape)
    assert BaselineLoss()(torch.tensor(scores), target).item() == pytest.approx(expected)


@pytest.mark.parametrize("target", [[0.5, 1.0], [0.0, 3.0], [-1.0, 0.0]])
def test_targets_that_are_no_classes_are_refused(target):
    with pytest.raises(TrainingError, match="not class numbers from 0 to 2"):
        BaselineLoss()(torch.zeros(2, 3), torch.tensor(target)[:, None])


def test_the_metric_is_the_accuracy_of_the_largest_score():
    y, scores = np.array([[0.0], [2.0], [1.0], [1.0]]), np.array([[9, 1, 1], [0, 1, 2], [7, -5, 1], [3, 3, 0]])
    assert metric(y, scores) == 0.5
    assert METRIC.value(METRIC.rows(y, scores)) == 0.5


def test_rounds():
    assert get_nb_max_rounds(100) == 3
    assert get_nb_max_rounds(100, flamby_compatible=False) == 2


def test_the_baseline_learns_the_default_set():
    torch.manual_seed(0)
    model, loss = Baseline(), BaselineLoss()
    x, y = FedSynthetic(pooled=True).tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    x, y = FedSynthetic(pooled=True, train=False).tensors
    assert metric(y.numpy(), model(x).detach().numpy()) > 0.95
