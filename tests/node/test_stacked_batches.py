"""Every node gets each of its batches once and in order, whatever the others have."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.node.stacked_batches import StackedBatches, Together


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(1, 13), min_size=1, max_size=3), min_size=1, max_size=7),
    batch_size=st.integers(1, 5),
)
def test_batches_are_those_of_each_order(parts, batch_size):
    generator = torch.Generator().manual_seed(0)
    columns, orders, expected = [], [], []
    for number, lengths in enumerate(parts):
        rows = max(lengths)
        x = torch.arange(rows) + 100.0 * number
        columns.append((x[:, None], x))
        order = [torch.randperm(rows, generator=generator)[:length] for length in lengths]
        orders.append(order)
        expected.append([x[batch].tolist() for part in order for batch in torch.split(part, batch_size)])
    batches = StackedBatches(columns, orders, batch_size)
    assert batches.num_updates.tolist() == [len(of_node) for of_node in expected]
    found = [[] for _ in parts]
    for together in batches:
        wide, flat = batches.load(together)
        assert wide.shape == (len(together.nodes), together.size, 1)
        for node, step, x in zip(together.nodes, together.steps, flat, strict=True):
            assert step == len(found[node])
            found[node].append(x.tolist())
    assert found == expected


def test_short_last_batches_of_different_lengths_are_taken_together_at_the_end():
    sizes = [9, 10, 13, 14, 5]  # batches of 4: the last ones have 1, 2, 1, 2 and 1 samples
    columns = [(torch.zeros(size, 1),) for size in sizes]
    batches = StackedBatches(columns, [[torch.arange(size)] for size in sizes], 4)
    assert [(t.size, t.nodes.tolist()) for t in batches] == [
        (4, [0, 1, 2, 3, 4]),
        (4, [0, 1, 2, 3]),
        (4, [2, 3]),
        (1, [0, 2, 4]),
        (2, [1, 3]),
    ]


def test_a_node_that_waits_in_the_middle_catches_up():
    columns = [(torch.zeros(size, 1),) for size in (3, 40)]
    batches = StackedBatches(columns, [[torch.arange(3)] * 4, [torch.arange(16)]], 2)
    together = [t.nodes.tolist() for t in batches]
    assert together.count([0, 1]) == 4
    assert len(together) == 12  # eight batches of two, four of them shared, and four of one


def test_numbers_of_nodes_are_few():
    everyone = {Together(np.arange(n), np.zeros(n, np.int64), 1).padded(1000).nodes.size for n in range(1, 1001)}
    assert len(everyone) < 30
    three = Together(np.array([4, 6, 7, 8, 9]), np.array([0, 0, 1, 0, 2]), 1).padded(1000)
    assert three.nodes.tolist() == [4, 6, 7, 8, 9, 9]
    assert three.steps.tolist() == [0, 0, 1, 0, 2, 2]
