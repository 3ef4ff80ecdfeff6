from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from polyclinic.datasets.fed_ixi import METRIC, Baseline, BaselineLoss, get_nb_max_rounds, metric
from polyclinic.datasets.fed_ixi.metric import dice_of_samples

SHAPE = (2, 2, 4, 3, 5)


@pytest.fixture
def prediction_and_target():
    rng = np.random.default_rng(0)
    brain = rng.random(SHAPE[2:]) > 0.5
    target = np.stack([np.stack([~brain, brain])] * 2).astype(float)
    p = rng.random((2, 1, *SHAPE[2:]))
    return np.concatenate([1 - p, p], axis=1), target


def test_the_model_is_the_described_u_net():
    model = Baseline()
    assert sum(parameter.numel() for parameter in model.parameters()) == 246_156
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (1, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (96, 32), (32, 32), (48, 16), (16, 16), (16, 2),
    ]  # fmt: skip
    assert [c.bias is not None for c in convolutions] == [True, *[False] * 9, True]
    assert sum(isinstance(m, nn.BatchNorm3d) for m in model.modules()) == 9
    assert sum(m.num_parameters for m in model.modules() if isinstance(m, nn.PReLU)) == 10


def test_the_model_gives_probabilities_of_two_classes():
    with torch.no_grad():
        output = Baseline()(torch.zeros(1, 1, 48, 60, 48))
    assert output.shape == (1, 2, 48, 60, 48)
    torch.testing.assert_close(output.sum(1), torch.ones(1, 48, 60, 48))


def test_the_loss_is_the_formula(prediction_and_target):
    p, t = prediction_and_target
    values = []
    for n in range(2):
        for c in range(2):
            tp, fp, fn = (p[n, c] * t[n, c]).sum(), (p[n, c] * (1 - t[n, c])).sum(), ((1 - p[n, c]) * t[n, c]).sum()
            values.append(1 - 2 * tp / (2 * tp + fp + fn + 1e-9))
    assert BaselineLoss()(torch.tensor(p), torch.tensor(t)).item() == pytest.approx(np.mean(values), abs=1e-12)


def test_the_metric_is_the_formula_and_pools_exactly(prediction_and_target):
    p, t = prediction_and_target
    values = [(p[n, c] * t[n, c]).sum() / (0.5 * (p[n, c] + t[n, c]).sum() + 1e-7) for n in range(2) for c in range(2)]
    assert metric(t, p) == pytest.approx(np.mean(values), abs=1e-12)
    assert METRIC.name == "dice"
    assert METRIC.value(METRIC.rows(t, p)) == pytest.approx(metric(t, p))


def one_hot(brain):
    return np.stack([1 - brain, brain])[None].astype(np.float32)


def test_edge_cases_of_loss_and_metric():
    empty, some, all_brain = np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    some[:2] = 1
    for brain in (empty, some, all_brain):
        assert metric(one_hot(brain), one_hot(brain)) == pytest.approx(1)
    # An empty channel that is rightly empty: Dice 1; in the loss 0/1e-9, so it costs 1 of the two channels.
    assert BaselineLoss()(torch.tensor(one_hot(empty)), torch.tensor(one_hot(empty))).item() == pytest.approx(0.5)
    assert BaselineLoss()(torch.tensor(one_hot(some)), torch.tensor(one_hot(some))).item() == pytest.approx(0, abs=1e-6)
    # All background, where half is brain: channel 0 has 2*32/(64+32), channel 1 has 0.
    assert metric(one_hot(some), one_hot(empty)) == pytest.approx((2 * 32 / 96 + 0) / 2)
    assert metric(one_hot(some), one_hot(1 - some)) == pytest.approx(0)


def test_dice_does_not_suffer_from_float32_sums():
    rng = np.random.default_rng(1)
    p = rng.random((1, 2, 96, 96, 96)).astype(np.float32)
    t = (rng.random(p.shape) > 0.5).astype(np.float32)
    exact = dice_of_samples(t.astype(np.float64), p.astype(np.float64))
    np.testing.assert_allclose(dice_of_samples(t, p), exact, rtol=1e-7)


def test_rounds_by_flambys_and_by_the_true_number_of_samples():
    assert get_nb_max_rounds(100) == 7
    assert get_nb_max_rounds(100, flamby_compatible=False) == 7
    # 450 // 3 // 1 = 150 and 453 // 3 // 1 = 151
    assert get_nb_max_rounds(10, 1) == 150
    assert get_nb_max_rounds(10, 1, flamby_compatible=False) == 151
