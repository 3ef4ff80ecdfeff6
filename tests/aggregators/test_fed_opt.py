"""What the three members share, and how they differ, against formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAdagrad, FedAdam, FedYogi
from polyclinic.errors import ConfigError

FAMILY = [FedAdam, FedYogi, FedAdagrad]
each = pytest.mark.parametrize("kind", FAMILY)
SECOND_MOMENT = {
    FedAdam: lambda v, d, beta2: beta2 * v + (1 - beta2) * d**2,
    FedYogi: lambda v, d, beta2: v - (1 - beta2) * d**2 * np.sign(v - d**2),
    FedAdagrad: lambda v, d, beta2: v + d**2,
}
WEIGHTS = {"num_samples": [199, 172, 30, 85], "uniform": [1, 1, 1, 1]}


def by_hand(kind, begin, rounds, weights, *, server_lr, beta1, tau, beta2=0.999):
    w, m, v = begin.copy(), np.zeros_like(begin), np.zeros_like(begin)
    for sent in rounds:
        d = np.average([update - w for update in sent], axis=0, weights=weights)
        m = beta1 * m + (1 - beta1) * d
        v = SECOND_MOMENT[kind](v, d, beta2)
        w = w + server_lr * m / (np.sqrt(v) + tau)
    return w


@each
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("settings", [{}, {"server_lr": 0.3, "beta1": 0.5, "tau": 1e-8}], ids=str)
def test_five_rounds_by_hand(kind, weights, settings, next_model):
    rng = np.random.default_rng(5)
    begin = rng.standard_normal((3, 4))
    # Steps that shrink from round to round, so that v exceeds D² as well as not.
    rounds = [[begin + rng.standard_normal((3, 4)) / 4**r for _ in range(4)] for r in range(5)]
    aggregator = kind(**settings, weights=weights)
    got = {"w": torch.from_numpy(begin)}
    for sent in rounds:
        got = next_model(
            aggregator, got, [{"w": torch.from_numpy(one)} for one in sent], num_samples=WEIGHTS["num_samples"]
        )
    defaults = {"server_lr": 1e-2, "beta1": 0.9, "tau": 1e-3}
    expected = by_hand(kind, begin, rounds, WEIGHTS[weights], **(defaults | settings))
    np.testing.assert_allclose(got["w"], expected, rtol=1e-12)


def test_beta2_counts(next_model):
    rng = np.random.default_rng(6)
    begin = rng.standard_normal(4)
    rounds = [[begin + rng.standard_normal(4)] for _ in range(3)]
    for kind in (FedAdam, FedYogi):
        aggregator, got = kind(beta2=0.5), {"w": torch.from_numpy(begin)}
        for (sent,) in rounds:
            got = next_model(aggregator, got, [{"w": torch.from_numpy(sent)}])
        expected = by_hand(kind, begin, rounds, [1], server_lr=1e-2, beta1=0.9, tau=1e-3, beta2=0.5)
        np.testing.assert_allclose(got["w"], expected, rtol=1e-12)


@each
def test_buffers_and_counters_take_the_plain_mean(kind, next_model):
    aggregator = kind(server_lr=1.0)
    aggregator.setup(["running_var", "running_mean"])
    begin = {"w": torch.zeros(1), "running_var": torch.ones(2), "running_mean": torch.zeros(2), "n": torch.tensor(0)}
    sent = [
        {
            "w": torch.ones(1),
            "running_var": torch.full((2,), a),
            "running_mean": torch.full((2,), -a),
            "n": torch.tensor(b),
        }
        for a, b in ((1e-6, 10), (3e-6, 30))
    ]
    got = next_model(aggregator, begin, sent, num_samples=[3, 1])
    assert got["running_var"].tolist() == pytest.approx([1.5e-6, 1.5e-6], rel=1e-6)
    assert got["running_mean"].tolist() == pytest.approx([-1.5e-6, -1.5e-6], rel=1e-6)
    assert got["n"] == 15
    assert set(aggregator.state_dict()) == {"m/w", "v/w"}


@each
def test_moments_are_kept_in_float32_at_least(kind, next_model):
    aggregator = kind()
    begin = {name: torch.zeros(1, dtype=getattr(torch, name)) for name in ("float16", "bfloat16", "float32", "float64")}
    # The square, 1e-8, is 0 in float16.
    next_model(aggregator, begin, [{name: t + 1e-4 for name, t in begin.items()}])
    state = aggregator.state_dict()
    for name in begin:
        expected = torch.float64 if name == "float64" else torch.float32
        assert state[f"m/{name}"].dtype == state[f"v/{name}"].dtype == expected
        assert state[f"v/{name}"] > 0


@each
def test_what_no_node_moves_stays_and_the_state_of_a_round_stays_as_it_was(kind, next_model):
    aggregator, begin = kind(tau=1e-8), {"w": torch.tensor([0.1, 1.0])}
    next_model(
        aggregator, begin, [{"w": torch.tensor([0.1, 2.0])}, {"w": torch.tensor([0.1, 3.0])}], num_samples=[3, 7]
    )
    state = aggregator.state_dict()
    before = {name: t.clone() for name, t in state.items()}
    got = next_model(aggregator, begin, [{"w": torch.tensor([0.1, 0.0])}])
    assert got["w"][0] == begin["w"][0]
    assert all(torch.equal(state[name], before[name]) for name in before)
    # After a round that could not be completed, the state of before is loaded again.
    aggregator.load_state_dict(state)
    assert torch.equal(next_model(aggregator, begin, [{"w": torch.tensor([0.1, 0.0])}])["w"], got["w"])


@each
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", -0.5])
@pytest.mark.parametrize("name", ["server_lr", "beta1", "beta2", "tau"])
def test_settings_that_are_refused(kind, name, value):
    if (kind, name) != (FedAdagrad, "beta2"):
        with pytest.raises(ConfigError, match=f"{kind.__name__} needs a finite {name}") as caught:
            kind(**{name: value})
        assert f"{name}=" in caught.value.to_do


@each
def test_the_ends_of_the_ranges(kind):
    for bad in ({"server_lr": 0}, {"tau": 0}, {"beta1": 1}, {"beta1": 1.5}):
        with pytest.raises(ConfigError, match=f"{kind.__name__} needs a finite {next(iter(bad))} "):
            kind(**bad)
    assert kind(beta1=0).settings["beta1"] == 0
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        kind(weights="x")


def test_settings_name_what_there_is():
    assert FedAdagrad().settings == {"server_lr": 0.01, "beta1": 0.9, "tau": 0.001, "weights": "num_samples"}
    assert FedAdam().settings == FedYogi().settings == {**FedAdagrad().settings, "beta2": 0.999}
