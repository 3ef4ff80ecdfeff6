import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAverage, QFedAvg
from polyclinic.errors import AggregationError, ConfigError

LOSSES, COUNTS = [0.3, 1.7, 0.02, 5.0], [199, 172, 30, 85]


def random_updates():
    rng = np.random.default_rng(0)
    return [{"w": torch.tensor(rng.standard_normal((3, 4)))} for _ in LOSSES]


@pytest.mark.parametrize("q", [0.1, 1, 5])
@pytest.mark.parametrize("lipschitz", [1.0, 100.0])
def test_by_hand(q, lipschitz, next_model):
    begin, sent = np.ones((3, 4)), random_updates()
    numerator, denominator = 0, 0
    for update, loss in zip(sent, LOSSES, strict=True):
        gradient = lipschitz * (begin - update["w"].numpy())
        numerator = numerator + loss**q * gradient
        denominator += q * loss ** (q - 1) * np.sum(gradient**2) + lipschitz * loss**q
    got = next_model(QFedAvg(q, lipschitz), {"w": torch.from_numpy(begin)}, sent, num_samples=COUNTS, losses=LOSSES)
    np.testing.assert_allclose(got["w"], begin - numerator / denominator, rtol=1e-7)


@pytest.mark.parametrize("lipschitz", [0.5, 1000])
def test_q_0_is_the_mean_with_equal_weights(lipschitz, next_model):
    begin, sent = {"w": torch.ones(3, 4, dtype=torch.float64)}, random_updates()
    got = next_model(QFedAvg(0, lipschitz), begin, sent, num_samples=COUNTS, losses=LOSSES)
    expected = next_model(FedAverage(weights="uniform"), begin, sent)
    torch.testing.assert_close(got["w"], expected["w"], rtol=1e-12, atol=1e-12)


def test_with_a_large_q_the_worst_node_decides(next_model):
    begin = {"w": torch.zeros(2, dtype=torch.float64)}
    sent = [{"w": torch.tensor(step, dtype=torch.float64)} for step in ([0.01, 0.0], [0.0, 0.01])]
    got = next_model(QFedAvg(10, 1.0), begin, sent, losses=[1.0, 3.0])["w"]
    assert 0 < got[0] < got[1] * 1e-4


def test_a_loss_of_0_is_allowed(next_model):
    got = next_model(QFedAvg(0.5, 1.0), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}] * 2, losses=[0.0, 1.0])
    assert 0 < got["w"].item() < 1


def test_buffers_take_the_mean_by_samples(next_model):
    aggregator = QFedAvg(2, 1)
    aggregator.setup({"running_var"})
    sent = [{"w": torch.ones(1), "running_var": torch.tensor([v])} for v in (0.0, 4.0)]
    begin = {"w": torch.zeros(1), "running_var": torch.ones(1)}
    assert next_model(aggregator, begin, sent, num_samples=[3, 1], losses=[9.0, 1.0])["running_var"].item() == 1


@pytest.mark.parametrize(
    ("q", "loss", "text", "to_do"),
    [
        (1, -0.5, "QFedAvg cannot weigh node node-1 by its training loss -0.5", "never negative"),
        (1, math.nan, "QFedAvg cannot weigh node node-1 by its training loss nan", "never negative"),
        (0, math.inf, "QFedAvg cannot weigh node node-1 by its training loss inf", "never negative"),
        (60, 1e4, "node node-1: the training loss 10000 to the power of 60 is out of range", "smaller q"),
        (400, 1e4, "node node-1: the training loss 10000 to the power of 400 is out of range", "smaller q"),
        (60, 1e-9, "node node-1: the training loss 1e-09 to the power of 60 is out of range", "smaller q"),
    ],
)
def test_a_loss_that_cannot_be_a_weight_is_refused_and_leaves_nothing(q, loss, text, to_do, next_model):
    aggregator, begin, sent = QFedAvg(q, 1), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}, {"w": torch.full((1,), 9.0)}]
    with pytest.raises(AggregationError) as caught:
        next_model(aggregator, begin, sent, losses=[1.0, loss])
    assert caught.value.what == text
    assert to_do in caught.value.to_do
    left = aggregator.finish()
    assert torch.equal(left["w"], next_model(QFedAvg(q, 1), begin, sent[:1], losses=[1.0])["w"])


@pytest.mark.parametrize(
    ("q", "lipschitz", "name"),
    [
        (-1, 1, "q"),
        (math.nan, 1, "q"),
        (math.inf, 1, "q"),
        (1, 0, "lipschitz"),
        (1, math.nan, "lipschitz"),
        (1, None, "lipschitz"),
    ],
)
def test_settings_that_are_refused(q, lipschitz, name):
    with pytest.raises(ConfigError, match=f"QFedAvg needs a finite {name} "):
        QFedAvg(q, lipschitz)
