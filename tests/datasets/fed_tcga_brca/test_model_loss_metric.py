from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.datasets.fed_tcga_brca import METRIC, Baseline, BaselineLoss, get_nb_max_rounds, metric
from polyclinic.errors import EvaluationError


def cox_by_hand(s, event, time):
    """The sum over patients who died of log(sum of exp(score) of those at risk) - score, over n; distinct times."""
    total = 0.0
    for i in range(len(s)):
        at_risk = [np.exp(s[j] - s[i]) for j in range(len(s)) if time[j] >= time[i]]
        total += event[i] * np.log(sum(at_risk))
    return total / len(s)


def loss_of(s, event, time):
    target = torch.tensor(np.stack([event, time], axis=1), dtype=torch.float64)
    return BaselineLoss()(torch.tensor(s, dtype=torch.float64)[:, None], target)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_loss_is_the_partial_likelihood_of_the_batch(n, seed):
    rng = np.random.default_rng(seed)
    s, event, time = rng.normal(0, 2, n), rng.integers(0, 2, n).astype(float), rng.permutation(n).astype(float)
    assert loss_of(s, event, time).item() == pytest.approx(cox_by_hand(s, event, time), abs=1e-10)


def test_the_longest_survivor_alone_costs_nothing_and_extreme_scores_stay_finite():
    assert loss_of(np.array([3.0]), np.array([1.0]), np.array([9.0])).item() == 0
    scores = torch.tensor([[-400.0], [0.0]], requires_grad=True)
    loss = BaselineLoss()(scores, torch.tensor([[1.0, 1.0], [1.0, 2.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert torch.isfinite(scores.grad).all()


def test_a_batch_without_events_has_no_gradient():
    scores = torch.tensor([[1.0], [2.0]], requires_grad=True)
    BaselineLoss()(scores, torch.tensor([[0.0, 1.0], [0.0, 2.0]])).backward()
    assert scores.grad.abs().sum() == 0


def test_ties_keep_the_order_of_the_batch():
    # The second of two equal times sees the first at risk, and not the other way round.
    loss = loss_of(np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([5.0, 5.0]))
    assert loss.item() == pytest.approx(np.log(2) / 2)


def test_the_model_is_linear_with_40_parameters():
    model = Baseline()
    assert sum(parameter.numel() for parameter in model.parameters()) == 40
    assert model(torch.zeros(3, 39)).shape == (3, 1)


def harrell_by_hand(event, time, risk):
    right = pairs = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return right / pairs


@given(st.integers(3, 15), st.integers(0, 2**32 - 1))
def test_the_metric_is_the_share_of_pairs_in_the_right_order(n, seed):
    rng = np.random.default_rng(seed)
    event, time = rng.integers(0, 2, n).astype(float), rng.permutation(n).astype(float)
    event[time == 0] = 1.0  # so that there is a pair to compare
    risk = rng.integers(0, 4, n).astype(float)
    y = np.stack([event, time], axis=1)
    expected = harrell_by_hand(event, time, risk)
    assert metric(y, risk[:, None]) == pytest.approx(expected)
    assert METRIC.value(METRIC.rows(y, risk[:, None])) == pytest.approx(expected)


def test_no_pair_to_compare_is_an_error_that_says_so():
    with pytest.raises(EvaluationError, match=r"no two of the 2 patients can be compared \(0 events\)"):
        metric(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([1.0, 2.0]))


def test_without_lifelines_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("lifelines"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="lifelines")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EvaluationError, match="needs lifelines") as caught:
        metric(np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([1.0, 2.0]))
    assert "polyclinic[survival]" in str(caught.value)


@pytest.mark.parametrize("compatible", [True, False])
def test_rounds(compatible):
    assert get_nb_max_rounds(100, flamby_compatible=compatible) == get_nb_max_rounds(100) == 5
