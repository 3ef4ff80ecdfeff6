from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from polyclinic.datasets.fed_lidc_idri import (
    METRIC,
    Baseline,
    BaselineLoss,
    Optimizer,
    evaluate_dice_on_tests_by_chunks,
    metric,
)
from polyclinic.errors import ConfigError, EvaluationError
from polyclinic.metrics import add_counts, join_rows


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Baseline()


def test_the_model_has_as_many_parameters_as_published(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 45_596_309
    assert Optimizer is torch.optim.Adam


def test_the_model_gives_a_probability_for_each_voxel():
    with torch.device("meta"):
        out = Baseline()(torch.zeros(2, 1, 128, 128, 128))
    assert out.shape == (2, 1, 128, 128, 128)


def test_a_narrow_model_learns():
    torch.manual_seed(0)
    model, loss = Baseline(width=4), BaselineLoss()
    optimizer = Optimizer(model.parameters(), lr=0.01)
    y = torch.zeros(2, 1, 16, 16, 16)
    y[:, :, 4:12, 4:12, 4:12] = 1
    x = y + 0.1 * torch.randn(y.shape)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layers_are_counted_as_published(model):
    """Kernels of 5 keep the size: input, 8 levels down, 6 up, output; of 2 halve and double it; one of 1."""
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert sorted(kernels) == [1] + [2] * 4 + [5] * (1 + 8 + 6 + 1)
    assert sum(isinstance(m, nn.ConvTranspose3d) for m in model.modules()) == 4
    # Two down, two up on what comes from below, four on what comes from the side.
    assert sum(isinstance(m, nn.Dropout3d) for m in model.modules()) == 2 + 2 + 4


def test_a_scan_in_parts_gives_the_same_as_at_once(model):
    x = torch.rand(9, 1, 16, 16, 16)
    model.eval()
    with torch.inference_mode():
        parts = model(x)
        whole = model._whole(x)
    assert parts.shape == x.shape
    assert 0 <= parts.min() < parts.max() <= 1
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    model.train()


def loss_by_the_book(p, y):
    """The formula, voxel by voxel in numpy."""
    p, y = p.numpy().astype(np.float64), y.numpy().astype(np.float64)
    axes = tuple(range(1, p.ndim))
    union = (p * y + 0.5 * p * (1 - y) + 0.5 * (1 - p) * y).sum(axes)
    dice = np.where(union == 0, 1, (p * y).sum(axes) / np.maximum(union, 1e-7)).mean()
    p = p.clip(1e-7, 1 - 1e-7)
    w = 1 / max(y.mean(), 1e-7) - 1
    return (1 - dice) + 0.1 * -(w * y * np.log(p) + (1 - y) * np.log(1 - p)).mean()


@pytest.mark.parametrize("prevalence", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_the_loss_equals_its_formula(prevalence, dtype):
    torch.manual_seed(0)
    p = torch.rand(3, 1, 8, 8, 8, dtype=torch.float64)
    y = (torch.rand(3, 1, 8, 8, 8) < prevalence).to(dtype)
    assert BaselineLoss()(p, y).item() == pytest.approx(loss_by_the_book(p, y), rel=1e-9)


def test_a_narrow_target_changes_no_result():
    torch.manual_seed(0)
    p = torch.rand(27, 1, 8, 8, 8, requires_grad=True)
    y = (torch.rand(p.shape) < 0.1).long()
    # A nodule of more voxels than 8 bits can count.
    y[0] = 1
    loss = [BaselineLoss()(p, y.to(dtype)) for dtype in (torch.int64, torch.uint8)]
    gradient = [torch.autograd.grad(value, p)[0] for value in loss]
    assert torch.equal(*loss)
    assert torch.equal(*gradient)
    wide, prediction = y.numpy(), p.detach().numpy()
    narrow = wide.astype(np.uint8)
    assert metric(narrow, prediction) == metric(wide, prediction)
    assert METRIC.rows(narrow, prediction)["value"] == METRIC.rows(wide, prediction)["value"]
    assert metric(narrow, narrow) == metric(wide, wide) == 1
    chunks = [
        evaluate_dice_on_tests_by_chunks(Dimmed(), [[(p.detach(), target)]], use_gpu=False)
        for target in (y, torch.from_numpy(narrow))
    ]
    assert chunks[0] == chunks[1]


def test_the_loss_at_its_ends():
    y = torch.zeros(2, 1, 4, 4, 4, dtype=torch.int64)
    y[:, :, :2] = 1
    assert BaselineLoss()(y.float(), y).item() == pytest.approx(0, abs=1e-5)
    assert BaselineLoss()(1 - y.float(), y).item() > 1
    nothing = torch.zeros(2, 1, 4, 4, 4)
    # Nothing there and nothing predicted is right; the gradient must be a number all the same.
    p = nothing.clone().requires_grad_()
    loss = BaselineLoss()(p, nothing)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert p.grad.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_loss_is_the_same_on_a_gpu():
    p, y = torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8, dtype=torch.int64)
    assert BaselineLoss()(p.cuda(), y.cuda()).item() == pytest.approx(BaselineLoss()(p, y).item(), rel=1e-4)


def test_the_metric_is_the_mean_dice_of_the_first_axis():
    rng = np.random.default_rng(0)
    p, y = rng.random((3, 1, 4, 4, 4), dtype=np.float32), rng.integers(0, 2, (3, 1, 4, 4, 4))
    expected = np.mean([2 * (a * b).sum() / (a.sum() + b.sum()) for a, b in zip(p.astype(float), y, strict=True)])
    assert metric(y, p) == pytest.approx(expected, rel=1e-9)
    nothing = np.zeros((2, 1, 4, 4, 4))
    assert metric(nothing, nothing) == 1
    assert metric(nothing, nothing + 0.5) == 0
    assert metric(nothing + 1, nothing) == 0


def scans(count, seed=0):
    rng = np.random.default_rng(seed)
    y = (rng.random((27 * count, 1, 4, 4, 4)) < 0.1).astype(np.int64)
    return y, rng.random((27 * count, 1, 4, 4, 4), dtype=np.float32)


def dice_by_hand(y, p):
    return 2 * float((y * p.astype(float)).sum()) / float(y.sum() + p.astype(float).sum())


def test_metric_of_whole_scans_whatever_the_batches():
    y, p = scans(3)
    each = [dice_by_hand(y[27 * k : 27 * k + 27], p[27 * k : 27 * k + 27]) for k in range(3)]
    at_once = METRIC.rows(y, p)
    np.testing.assert_allclose(at_once["value"], each)
    one_by_one = join_rows([METRIC.rows(y[27 * k : 27 * k + 27], p[27 * k : 27 * k + 27]) for k in range(3)])
    np.testing.assert_allclose(one_by_one["value"], each)
    # Pooled over two nodes: the mean over scans, not over nodes or patches.
    counts = add_counts(METRIC.counts(METRIC.rows(y[:27], p[:27])), METRIC.counts(METRIC.rows(y[27:], p[27:])))
    pooled = METRIC.estimate(counts)
    assert pooled.value == pytest.approx(np.mean(each))
    assert pooled.num_samples == 3


def test_metric_refuses_what_is_no_whole_scan():
    y, p = scans(1)
    with pytest.raises(EvaluationError, match="a batch of 2 patches is not made of whole scans, which have 27 each"):
        METRIC.rows(y[:2], p[:2])
    with pytest.raises(EvaluationError, match="targets have shape"):
        METRIC.rows(y, p[:, 0])
    p[3] = math.nan
    with pytest.raises(EvaluationError, match="the Dice of 1 of 1 scans is not finite"):
        METRIC.rows(y, p)


class Dimmed(nn.Module):
    """Predicts a part of its input, and notes how many patches it sees at a time."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return 0.5 * x


def test_evaluation_by_chunks_equals_the_mean_dice_of_scans():
    y, p = map(torch.from_numpy, scans(2))
    loader = DataLoader(TensorDataset(p, y), batch_size=27)
    model = Dimmed()
    state = torch.get_rng_state()
    found = evaluate_dice_on_tests_by_chunks(model, [loader, []], use_gpu=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.seen == [7, 7, 7, 6] * 2
    assert model.training
    expected = np.mean([dice_by_hand(y[k : k + 27].numpy(), 0.5 * p[k : k + 27].numpy()) for k in (0, 27)])
    assert found["client_test_0"] == pytest.approx(expected, rel=1e-6)
    assert math.isnan(found["client_test_1"])
    empty = [(torch.zeros(27, 1, 4, 4, 4), torch.zeros(27, 1, 4, 4, 4))]
    assert evaluate_dice_on_tests_by_chunks(model, [empty], nchunks=9) == {"client_test_0": 1.0}
    with pytest.raises(ConfigError, match="nchunks must be at least 1"):
        evaluate_dice_on_tests_by_chunks(model, [], nchunks=0)
