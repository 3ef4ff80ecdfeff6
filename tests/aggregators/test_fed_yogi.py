import math

import pytest
import torch

from polyclinic.aggregators import FedAdagrad, FedAdam, FedYogi


@pytest.mark.parametrize("beta2", [0.999, 0.9])
def test_while_v_is_below_the_squared_steps_it_is_adagrad(beta2, next_model):
    """v grows by (1 − beta2) D² in each round then: it is Adagrad's times 1 − beta2, and so is server_lr squared."""
    rounds = 8
    assert rounds * (1 - beta2) < 1, "v < D² for steps of the same size"
    yogi = FedYogi(server_lr=0.1, beta2=beta2, tau=1e-300)
    adagrad = FedAdagrad(server_lr=0.1 / math.sqrt(1 - beta2), tau=1e-300)
    one = other = {"w": torch.zeros(3, dtype=torch.float64)}
    for number in range(rounds):
        step = torch.tensor([1.0, -1e-3, 50.0], dtype=torch.float64) * (-1) ** (number // 2)
        one = next_model(yogi, one, [{"w": one["w"] + step}])
        other = next_model(adagrad, other, [{"w": other["w"] + step}])
    torch.testing.assert_close(one["w"], other["w"], rtol=1e-9, atol=0)
    assert one["w"].abs().min() > 0.01


def test_after_a_large_step_v_falls_slower_than_that_of_fed_adam(next_model):
    yogi, adam = FedYogi(beta2=0.9), FedAdam(beta2=0.9)
    begin = {"w": torch.zeros(1, dtype=torch.float64)}
    for aggregator in (yogi, adam):
        next_model(aggregator, begin, [{"w": begin["w"] + 10}])
        next_model(aggregator, begin, [{"w": begin["w"] + 1}])
    assert yogi.state_dict()["v/w"].item() == pytest.approx(10 - 0.1)
    assert adam.state_dict()["v/w"].item() == pytest.approx(9 + 0.1)
