"""Recorded operations give what the call gives, for any inputs of the same shapes."""

import pytest
import torch
from torch.func import grad_and_value, vmap
from torch.nn import functional as F

from polyclinic.node.recording import NotRecorded, record


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator), torch.randn(5, 4, 3, generator=generator)]


FUNCTIONS = {
    "views": lambda w, x: (x.view(5, 4, 3).reshape(20, 3).sum(1), w),
    "in place": lambda w, x: ((x * 1.5).add_(w[:, None]).clamp_(min=0),),
    "in place through a view": lambda w, x: (lambda y: (y.view(5, 4, 3).mul_(2), y))(x + 1),
    "several outputs of one operation": lambda w, x: (*torch.split(x, [1, 2], dim=2), torch.cat([w, w])),
    "an output twice": lambda w, x: (w, w + 1, w),
    "nothing but constants": lambda w, x: (torch.ones(2), torch.tensor([1.0, 2.0]) * 3),
    "keywords": lambda w, x: (torch.add(w, w, alpha=0.5), x.to(dtype=torch.float64)),
    "gradients of many": lambda w, x: vmap(grad_and_value(lambda w, x: F.softplus(x @ w).mean()))(w, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_recording_does_the_same_with_other_inputs(name):
    function = FUNCTIONS[name]
    recorded = record(function, inputs(0))
    for seed in (0, 1):
        expected = function(*inputs(seed))
        found = recorded(*inputs(seed))
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_random_numbers_are_drawn_anew():
    recorded = record(lambda x: (F.dropout(x, 0.5),), [torch.ones(1000)])
    assert not torch.equal(recorded(torch.ones(1000))[0], recorded(torch.ones(1000))[0])


def test_a_constant_is_the_object_not_its_value():
    scale = torch.tensor([2.0])
    recorded = record(lambda x: (x * scale,), [torch.ones(1)])
    scale.fill_(5.0)
    assert recorded(torch.ones(1))[0].item() == 5.0


@pytest.mark.parametrize("function", [lambda x: (x * x.sum().item(),), lambda x: (x if x.sum() > 0 else -x,)])
def test_a_call_that_reads_values_is_not_recorded(function):
    with pytest.raises(NotRecorded, match="reads a tensor's values"):
        record(function, [torch.ones(3)])
