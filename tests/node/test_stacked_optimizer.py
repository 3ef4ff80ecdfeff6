"""Each row of a table steps as torch's own optimizer does, also where rows are at different steps."""

import pytest
import torch

from polyclinic.node.stacked_optimizer import Declined, stacked_optimizer

MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2),
    "heavy ball": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, maximize=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.7, 0.9), eps=1e-4),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_rows_step_as_with_torch(name):
    generator = torch.Generator().manual_seed(1)
    begin = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradients = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)
    steps = [6, 2, 4]  # how many steps each row takes
    expected = []
    for row, count in enumerate(steps):
        parameter = torch.nn.Parameter(begin[row].clone())
        optimizer = MAKERS[name]([parameter])
        for number in range(count):
            parameter.grad = gradients[number, row].clone()
            optimizer.step()
        expected.append(parameter.detach())
    ours = stacked_optimizer(MAKERS[name]([torch.nn.Parameter(torch.zeros(4))]))
    table = begin.clone()
    tables = [table, *ours.tables(table)]
    for number in range(max(steps)):
        rows = torch.tensor([row for row, count in enumerate(steps) if number < count])
        parts = [whole[rows] for whole in tables]
        ours.step(parts[0], gradients[number, rows].clone(), *parts[1:])
        for whole, part in zip(tables, parts, strict=True):
            whole[rows] = part
    torch.testing.assert_close(table, torch.stack(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: torch.optim.RMSprop(p), "RMSprop is not supported"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad"),
        (lambda p: torch.optim.SGD([{"params": [q]} for q in p], lr=0.1), "2 groups"),
        (lambda p: type("Own", (torch.optim.SGD,), {})(p, lr=0.1), "Own is not supported"),
    ],
)
def test_what_is_not_known_is_declined(make, why):
    with pytest.raises(Declined, match=why):
        stacked_optimizer(make([torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]))
