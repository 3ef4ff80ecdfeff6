import torch

from polyclinic.aggregators import FedAdagrad


def test_without_momentum_it_is_torchs_adagrad_on_the_steps(next_model):
    torch_rng = torch.Generator().manual_seed(2)
    begin = torch.randn(20, generator=torch_rng, dtype=torch.float64)
    parameter = torch.nn.Parameter(begin.clone())
    adagrad = torch.optim.Adagrad([parameter], lr=0.05, eps=1e-3)
    aggregator, got = FedAdagrad(server_lr=0.05, beta1=0, tau=1e-3), {"w": begin}
    for _ in range(6):
        step = torch.randn(20, generator=torch_rng, dtype=torch.float64)
        got = next_model(aggregator, got, [{"w": got["w"] + step}])
        parameter.grad = -step
        adagrad.step()
    torch.testing.assert_close(got["w"], parameter.detach(), rtol=1e-12, atol=1e-12)
