from __future__ import annotations

import numpy as np
import pytest
import torch

from polyclinic.datasets.fed_heart_disease import METRIC, Baseline, BaselineLoss, get_nb_max_rounds, metric


def test_the_model_is_a_logistic_regression_of_14_parameters():
    model = Baseline()
    assert sum(parameter.numel() for parameter in model.parameters()) == 14
    x = torch.randn(5, 13, generator=torch.Generator().manual_seed(0))
    expected = 1 / (1 + torch.exp(-(x @ model.linear.weight.T + model.linear.bias)))
    torch.testing.assert_close(model(x), expected)


def test_the_loss_is_the_mean_binary_cross_entropy():
    p, y = np.array([0.9, 0.2, 0.5]), np.array([1.0, 0.0, 1.0])
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert BaselineLoss()(torch.tensor(p)[:, None], torch.tensor(y)[:, None]).item() == pytest.approx(expected)


def test_the_metric_is_accuracy_where_one_half_means_healthy():
    y, p = np.array([[1.0], [0.0], [0.0], [1.0]]), np.array([[0.9], [0.5], [0.6], [0.5]])
    assert metric(y, p) == 0.5
    assert METRIC.value(METRIC.rows(y, p)) == 0.5


@pytest.mark.parametrize("compatible", [True, False])
def test_rounds(compatible):
    assert get_nb_max_rounds(100, flamby_compatible=compatible) == 15
    assert get_nb_max_rounds(100) == 15
