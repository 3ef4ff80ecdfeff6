from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from polyclinic.datasets.fed_camelyon16 import (
    BATCH_SIZE,
    LR,
    METRIC,
    Baseline,
    BaselineLoss,
    Optimizer,
    collate_fn,
    get_nb_max_rounds,
    metric,
)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


def bags(rng, sizes, d=8):
    return [
        (torch.randn(n, d, generator=rng), torch.tensor([float(k % 2)]), np.random.default_rng(42).permutation(n))
        for k, n in enumerate(sizes)
    ]


@pytest.mark.parametrize(("dimension", "count"), [(2048, 320_258), (768, 156_418)])
def test_parameter_count(dimension, count):
    with torch.device("meta"):
        model = Baseline(dimension)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_constants():
    assert (BATCH_SIZE, LR, Optimizer) == (16, 0.001, torch.optim.Adam)
    assert get_nb_max_rounds(100) == 3


def test_the_model_is_the_formula_in_numpy(rng):
    model = Baseline(8).double()
    x = torch.randn(1, 5, 8, generator=rng).double()
    w = {name: value.detach().numpy() for name, value in model.named_parameters()}
    h = x[0].numpy() @ w["reduce.weight"].T + w["reduce.bias"]
    v = np.tanh(h @ w["attention_v.weight"].T + w["attention_v.bias"])
    u = 1 / (1 + np.exp(-(h @ w["attention_u.weight"].T + w["attention_u.bias"])))
    s = (v * u) @ w["attention_w.weight"].T + w["attention_w.bias"]
    a = np.exp(s) / np.exp(s).sum()
    z = (a.T @ h)[0]
    for layer, is_last in ((0, False), (2, False), (4, True)):
        z = w[f"classifier.{layer}.weight"] @ z + w[f"classifier.{layer}.bias"]
        z = z if is_last else np.maximum(z, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), [z], rtol=1e-10)


def test_padding_changes_nothing(rng):
    model = Baseline(8)
    samples = bags(rng, (3, 7, 1))
    x, y = collate_fn(samples)
    assert (x.shape, y.shape, y.flatten().tolist()) == ((3, 7, 8), (3, 1), [0, 1, 0])
    alone = torch.cat([model(bag[None]) for bag, _, _ in samples])
    torch.testing.assert_close(model(x), alone)
    # Not to the tiles and not to the gradients.
    model(torch.cat([x, torch.zeros(3, 50, 8)], dim=1)).sum().backward()
    padded = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.cat([model(bag[None]) for bag, _, _ in samples]).sum().backward()
    for expected, parameter in zip(padded, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_compatible_model_counts_padding_to_10000_rows_however_little_there_is(rng):
    model = Baseline(8, flamby_compatible=True).double()
    x = torch.randn(2, 4, 8, generator=rng).double()
    full = torch.cat([x, torch.zeros(2, 9_996, 8).double()], dim=1)
    hidden = model.reduce(full)
    scores = model.attention_w(torch.tanh(model.attention_v(hidden)) * torch.sigmoid(model.attention_u(hidden)))
    expected = model.classifier((torch.softmax(scores, 1).transpose(1, 2) @ hidden)[:, 0])
    for given in (x, torch.cat([x, torch.zeros(2, 3, 8).double()], dim=1), full):
        torch.testing.assert_close(model(given), expected, rtol=1e-9, atol=1e-12)
    correct = Baseline(8).double()
    correct.load_state_dict(model.state_dict())
    assert (correct(x) - expected).abs().min() > 1e-4


def test_a_bag_without_tiles_gives_a_number():
    assert torch.isfinite(Baseline(8)(torch.zeros(2, 3, 8))).all()


def test_collate_takes_the_first_tiles_in_permuted_order(rng):
    samples = bags(rng, (6, 2))
    x, _ = collate_fn(samples, max_tiles=4)
    assert x.shape == (2, 4, 8)
    order = np.random.default_rng(42).permutation(6)
    torch.testing.assert_close(x[0], samples[0][0][order[:4]])
    assert (x[1, 2:] == 0).all()


def test_loss_is_the_formula(rng):
    z, y = torch.randn(6, 1, generator=rng), torch.tensor([[0.0], [1], [1], [0], [0], [1]])
    expected = np.mean([math.log1p(math.exp(a)) - b * a for a, b in zip(z.flatten(), y.flatten(), strict=True)])
    assert float(BaselineLoss()(z, y)) == pytest.approx(expected, rel=1e-6)
    assert float(BaselineLoss()(torch.tensor([[200.0]]), torch.tensor([[0.0]]))) == 200


def test_metric_is_scikit_learns_auc():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (40, 1)).astype(np.float32)
    z = (rng.normal(size=(40, 1)) + y).astype(np.float32) * 5
    assert metric(y, z) == pytest.approx(roc_auc_score(y.ravel(), z.ravel()))
    parts = [METRIC.counts(METRIC.rows(y[part], z[part])) for part in (slice(0, 15), slice(15, 40))]
    counts = {key: parts[0][key] + parts[1][key] for key in parts[0]}
    assert METRIC.estimate(counts).value == pytest.approx(roc_auc_score(y.ravel(), z.ravel()), abs=0.005)


def test_metric_without_an_answer_is_nan():
    assert math.isnan(metric(np.ones((3, 1)), np.zeros((3, 1))))
    assert math.isnan(metric(np.array([[0.0], [1]]), np.array([[np.nan], [1]])))
