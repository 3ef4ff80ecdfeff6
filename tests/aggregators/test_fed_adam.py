import math

import pytest
import torch

from polyclinic.aggregators import FedAdam


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.5, 0.9)])
def test_one_step_of_one_node_is_a_step_of_adam(beta1, beta2, next_model):
    """A node's step of SGD with lr = 1 is −gradient; Adam's bias correction goes into server_lr and tau."""
    torch_rng = torch.Generator().manual_seed(1)
    begin = torch.randn(50, generator=torch_rng, dtype=torch.float64)
    gradient = torch.randn(50, generator=torch_rng, dtype=torch.float64) * torch.logspace(
        -9, 3, 50, dtype=torch.float64
    )
    lr, eps = 1.0, 1e-8

    parameter = torch.nn.Parameter(begin.clone())
    parameter.grad = gradient.clone()
    torch.optim.Adam([parameter], lr=lr, betas=(beta1, beta2), eps=eps).step()

    server_lr = lr * math.sqrt(1 - beta2) / (1 - beta1)
    aggregator = FedAdam(server_lr=server_lr, beta1=beta1, beta2=beta2, tau=eps * math.sqrt(1 - beta2))
    got = next_model(aggregator, {"w": begin}, [{"w": begin - gradient}])
    torch.testing.assert_close(got["w"], parameter.detach(), rtol=0, atol=1e-6)
    # Where begin − gradient − begin keeps all of the gradient's digits, the two are the same but for rounding.
    large = gradient.abs() > 1e-3
    torch.testing.assert_close(got["w"][large], parameter.detach()[large], rtol=1e-12, atol=1e-12)
