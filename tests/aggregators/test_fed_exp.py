import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAverage, FedExP
from polyclinic.errors import ConfigError

COUNTS = [199, 172, 30, 85]


def by_hand(begin, sent, weights, epsilon):
    p = np.array(weights) / np.sum(weights)
    steps = [update - begin for update in sent]
    mean = sum(pk * step for pk, step in zip(p, steps, strict=True))
    eta = sum(pk * np.sum(step**2) for pk, step in zip(p, steps, strict=True)) / (2 * (np.sum(mean**2) + epsilon))
    return begin + max(1, eta) * mean, eta


@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_nodes_that_disagree_are_gone_beyond(weights, next_model):
    rng = np.random.default_rng(0)
    begin, sent = rng.standard_normal((5, 8)), [rng.standard_normal((5, 8)) for _ in COUNTS]
    for number, update in enumerate(sent):
        update[number] += 10
    expected, eta = by_hand(begin, sent, COUNTS if weights == "num_samples" else [1] * 4, 1e-3)
    assert eta > 1.2
    tensors = [{"a": torch.from_numpy(u[:2]), "b": torch.from_numpy(u[2:])} for u in sent]
    start = {"a": torch.from_numpy(begin[:2]), "b": torch.from_numpy(begin[2:])}
    got = next_model(FedExP(weights=weights), start, tensors, num_samples=COUNTS)
    np.testing.assert_allclose(torch.cat([got["a"], got["b"]]), expected, rtol=1e-12)


def test_orthogonal_steps_of_equal_length(next_model):
    # K of them: the mean is 1 / sqrt(K) as long, so eta = K / 2 without epsilon.
    sent = [{"w": row} for row in torch.eye(8, dtype=torch.float64)]
    got = next_model(FedExP(epsilon=1e-12), {"w": torch.zeros(8, dtype=torch.float64)}, sent)
    assert got["w"].tolist() == pytest.approx([4 / 8] * 8, rel=1e-9)


@pytest.mark.parametrize("epsilon", [1e-3, 1e6])
def test_nodes_that_agree_are_averaged(epsilon, next_model):
    begin, sent = {"w": torch.zeros(4)}, [{"w": torch.tensor([1.0, 2.0, 3.0, 4.0 + 0.1 * k])} for k in range(4)]
    got = next_model(FedExP(epsilon=epsilon), begin, sent, num_samples=COUNTS)
    torch.testing.assert_close(got["w"], next_model(FedAverage(), begin, sent, num_samples=COUNTS)["w"])


def test_epsilon_holds_back_short_steps(next_model):
    sent = [{"w": row} for row in 1e-3 * torch.eye(8, dtype=torch.float64)]
    got = next_model(FedExP(epsilon=1e-3), {"w": torch.zeros(8, dtype=torch.float64)}, sent)
    assert got["w"].tolist() == pytest.approx([1e-3 / 8] * 8)


def test_buffers_are_averaged_and_count_for_no_length(next_model):
    aggregator = FedExP()
    aggregator.setup({"running_var"})
    sent = [{"w": torch.ones(1), "running_var": torch.tensor([v])} for v in (0.0, 1000.0)]
    got = next_model(aggregator, {"w": torch.zeros(1), "running_var": torch.tensor([500.0])}, sent)
    assert got["w"].item() == 1
    assert got["running_var"].item() == 500


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, None], ids=str)
def test_settings_that_are_refused(epsilon):
    with pytest.raises(ConfigError, match="FedExP needs a finite epsilon above 0"):
        FedExP(epsilon=epsilon)
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        FedExP(weights="x")
