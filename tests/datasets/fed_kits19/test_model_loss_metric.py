from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic.datasets.fed_kits19 import (
    METRIC,
    Baseline,
    BaselineLoss,
    flamby_metric,
    get_nb_max_rounds,
    metric,
    softmax_helper,
)
from polyclinic.datasets.fed_kits19.model import GenericUNet
from polyclinic.errors import EvaluationError


def test_the_model_is_the_described_u_net():
    with torch.device("meta"):
        model = Baseline()
    assert sum(parameter.numel() for parameter in model.parameters()) == 30_785_984
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
    widths = [32, 64, 128, 256, 320, 320]
    down = [(1, 32), (32, 32)]
    for above, width in itertools.pairwise(widths):
        down += [(above, width), (width, width)]
    up = []
    for width in widths[-2::-1]:
        up += [(2 * width, width), (width, width)]
    heads = [(320, 3), (256, 3), (128, 3), (64, 3), (32, 3)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == down + up + heads
    assert [c.stride for c in convolutions if c.stride != (1, 1, 1)] == [(2, 2, 2)] * 4 + [(1, 2, 2)]
    assert all((c.bias is None) == (c.kernel_size == (1, 1, 1)) for c in convolutions)
    transposed = [m for m in model.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert [(t.in_channels, t.out_channels, t.stride, t.kernel_size, t.bias) for t in transposed] == [
        (320, 320, (1, 2, 2), (1, 2, 2), None),
        (320, 256, (2, 2, 2), (2, 2, 2), None),
        (256, 128, (2, 2, 2), (2, 2, 2), None),
        (128, 64, (2, 2, 2), (2, 2, 2), None),
        (64, 32, (2, 2, 2), (2, 2, 2), None),
    ]
    assert sum(m.weight.numel() for m in model.heads[:-1]) == 2_304
    norms = [m for m in model.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == 22
    assert all(norm.affine and norm.eps == 1e-5 and not norm.track_running_stats for norm in norms)
    assert {m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)} == {0.01}


def test_the_model_gives_logits_and_begins_as_kaiming():
    torch.manual_seed(0)
    model = GenericUNet().eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)
    middle = model.down[3][1][0]
    assert middle.bias.count_nonzero() == 0
    expected = math.sqrt(2 / (1 + 0.01**2)) / math.sqrt(256 * 27)
    assert middle.weight.std().item() == pytest.approx(expected, rel=0.01)


@pytest.fixture
def logits_and_labels():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 3, 4, 5)), rng.integers(0, 3, (2, 1, 3, 4, 5)).astype(float)


def test_the_loss_is_the_formula(logits_and_labels):
    logits, labels = logits_and_labels
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cross_entropy = -np.mean(
        [math.log(p[n, int(labels[n, 0, z, y, x]), z, y, x]) for n, z, y, x in np.ndindex(2, 3, 4, 5)]
    )
    dice = []
    for value in (1, 2):
        t = labels[:, 0] == value
        tp, fp, fn = p[:, value][t].sum(), p[:, value][~t].sum(), (1 - p[:, value])[t].sum()
        dice.append((2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5 + 1e-8))
    expected = cross_entropy - np.mean(dice)
    found = BaselineLoss()(torch.tensor(logits), torch.tensor(labels))
    assert found.item() == pytest.approx(expected, abs=1e-10)
    torch.testing.assert_close(softmax_helper(torch.tensor(logits)), torch.tensor(p))


def test_edge_cases_of_the_loss():
    empty, some = torch.zeros(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    some[:, :, :2] = 1
    some[:, :, 0] = 2
    for labels in (empty, some):
        perfect = F.one_hot(labels[:, 0].long(), 3).movedim(-1, 1) * 100.0
        # 1e-5 over 1e-5 + 1e-8 where a class is empty.
        assert BaselineLoss()(perfect, labels).item() == pytest.approx(-1, abs=1.01e-3)
    # One class alone, all wrong.
    wrong = F.one_hot(torch.zeros(1, 4, 4, 4).long(), 3).movedim(-1, 1) * 60.0
    assert BaselineLoss()(wrong, torch.ones(1, 1, 4, 4, 4)).item() == pytest.approx(60 - 0.5, abs=1e-3)


def test_the_loss_trains():
    torch.manual_seed(0)
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (1, 1, 4, 4, 4)).float()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(BaselineLoss()(logits, labels), logits)
        logits = (logits - 20 * gradient).detach().requires_grad_()
    assert (logits.argmax(1) == labels[:, 0]).all()


def test_the_metric_is_the_formula_of_each_case_and_pools_exactly(logits_and_labels):
    logits, labels = logits_and_labels
    values = []
    for n in range(2):
        pred, true = logits[n].argmax(axis=0), labels[n, 0]
        parts = []
        for a, b in ((pred > 0, true > 0), (pred == 2, true == 2)):
            parts.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        values.append(np.mean(parts))
    assert metric(labels, logits) == pytest.approx(np.mean(values), abs=1e-12)
    assert METRIC.name == "dice"
    rows = METRIC.rows(labels, logits)
    np.testing.assert_allclose(rows["value"], values)
    one_by_one = [METRIC.value(METRIC.rows(labels[n : n + 1], logits[n : n + 1])) for n in range(2)]
    np.testing.assert_allclose(one_by_one, values)
    # Labels instead of logits, with and without their axis.
    chosen = logits.argmax(axis=1)
    assert (
        metric(labels, chosen)
        == metric(labels, chosen[:, None])
        == metric(labels[:, 0], chosen)
        == metric(labels, logits)
    )


def test_edge_cases_of_the_metric():
    empty, kidney, both = np.zeros((1, 4, 4, 4)), np.zeros((1, 4, 4, 4)), np.zeros((1, 4, 4, 4))
    kidney[0, :2] = 1
    both[0, :2], both[0, 0] = 1, 2
    for labels in (empty, kidney, both):
        assert metric(labels, labels) == 1
    # Kidney right, a tumour that is not there: (1 + 0) / 2.
    assert metric(kidney, both) == 0.5
    assert metric(both, empty) == metric(empty, both) == 0
    with pytest.raises(EvaluationError, match="targets have shape"):
        metric(kidney, kidney[:, :2])


def test_flambys_metric_has_flambys_defects():
    torch.manual_seed(0)
    pred, true = torch.randint(0, 3, (2, 3, 4, 5)), torch.randint(0, 3, (2, 1, 3, 4, 5)).float()
    expected = []
    for a, b in ((pred > 0, true[:, 0] > 0), (pred == 2, true[:, 0] == 2)):
        pairs = sum((a[i] & b[j]).sum().item() for i in range(2) for j in range(2))
        expected.append(2 * pairs / (a.sum().item() + b.sum().item() + 1e-5))
    assert flamby_metric(pred, true) == pytest.approx(np.mean(expected), abs=1e-9)
    everything = torch.full((2, 2, 2, 2), 2)
    assert flamby_metric(everything, everything[:, None]) == pytest.approx(2, abs=1e-4)
    nothing = torch.zeros(1, 2, 2, 2)
    assert flamby_metric(nothing, nothing[:, None]) == 0
    # For one case with a tumour the two metrics agree.
    assert flamby_metric(pred[:1], true[:1]) == pytest.approx(metric(true[:1].numpy(), pred[:1].numpy()), abs=1e-6)


def test_rounds_by_flambys_and_by_the_true_number_of_samples():
    assert get_nb_max_rounds(100) == 30
    assert get_nb_max_rounds(100, flamby_compatible=False) == 30
    # 72 // 6 // 4 = 3 and 74 // 6 // 4 = 3; 74 // 6 // 1 = 12, as 72's.
    assert get_nb_max_rounds(10, 4) == get_nb_max_rounds(10, 4, flamby_compatible=False) == 150
    assert get_nb_max_rounds(100, 1) == 60
