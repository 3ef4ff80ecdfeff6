"""Federated averaging as one would write it by hand in PyTorch: the same steps, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

Batch = tuple[torch.Tensor, ...]


def federated_averaging(
    make_model: Callable[[], nn.Module],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loss_of: Callable[[nn.Module, Batch], torch.Tensor],
    clients: Sequence[Batch],
    *,
    rounds: int,
    num_updates: int,
    batch_size: int,
) -> nn.Module:
    """Trains over clients whose data are whole tensors in memory (the fastest a hand-written loop can have them)."""
    model = make_model()
    current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = [len(client[0]) for client in clients]
    orders = [torch.randperm(size) for size in sizes]
    at = [0] * len(clients)
    for _ in range(rounds):
        sums = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in current.items()}
        for number, client in enumerate(clients):
            model.load_state_dict(current)
            optimizer = make_optimizer(model)
            model.train()
            for _ in range(num_updates):
                rows = orders[number][at[number] : at[number] + batch_size]
                at[number] += batch_size
                if at[number] >= sizes[number]:
                    orders[number], at[number] = torch.randperm(sizes[number]), 0
                loss = loss_of(model, tuple(part[rows] for part in client))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            for name, tensor in model.state_dict().items():
                sums[name] += tensor * sizes[number]
        current = {name: (total / sum(sizes)).to(current[name].dtype) for name, total in sums.items()}
    model.load_state_dict(current)
    return model
