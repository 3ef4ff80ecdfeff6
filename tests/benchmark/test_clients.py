from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from polyclinic.benchmark.clients import Clients, clients_of, joined, loader, rows_of
from polyclinic.benchmark.plans import SgdPlan
from polyclinic.errors import DatasetError


class Squares(Dataset):
    """No table: its items are made when asked for."""

    def __len__(self):
        return 5

    def __getitem__(self, k):
        return torch.tensor([float(k)]), torch.tensor([float(k * k)])


TABLE = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))


def test_rows_of_a_table_are_a_table():
    some = rows_of(TABLE, [4, 0])
    assert isinstance(some, TensorDataset)
    assert [tensor.tolist() for tensor in some.tensors] == [[[8.0, 9.0], [0.0, 1.0]], [4, 0]]


def test_rows_of_anything_else():
    some = rows_of(Squares(), [3, 1])
    assert isinstance(some, Subset)
    assert [y.item() for _, y in (some[0], some[1])] == [9.0, 1.0]


def test_joined_parts_follow_one_another():
    tables = joined([rows_of(TABLE, [5]), TABLE])
    assert isinstance(tables, TensorDataset)
    assert tables.tensors[1].tolist() == [5, 0, 1, 2, 3, 4, 5]
    mixed = joined([Squares(), Squares()])
    assert isinstance(mixed, ConcatDataset)
    assert [mixed[k][1].item() for k in (4, 5, 6)] == [16.0, 0.0, 1.0]


def test_a_loader_for_others_keeps_the_order():
    assert [len(batch[0]) for batch in loader(Squares(), 2, None)] == [2, 2, 1]
    assert list(loader(Squares(), 3, lambda items: [y.item() for _, y in items])) == [[0, 1, 4], [9, 16]]


def test_parts_are_built_once_and_only_when_asked_for(toy):
    clients = Clients("toy", options={"flamby_compatible": True})
    assert clients.names == ("Ant", "Bee", "Cat")
    assert toy.built == []
    for _ in range(2):
        assert [len(clients.part(k, train=True)) for k in (2, 0)] == [10, 14]
        assert len(clients.pooled(train=False)) == 15
    assert toy.built == [(2, True, False, True), (0, True, False, True), (0, False, True, True)]


def test_the_clients_of_a_dataset_are_read_once_a_process(toy):
    assert clients_of("toy", None) is clients_of("toy", None)
    assert clients_of("toy", None) is not clients_of("toy", None, '{"flamby_compatible": true}')


def test_nodes_in_the_order_of_the_centers(toy):
    clients = Clients("toy")
    parts = {name: (clients.part(k, train=True), None) for k, name in enumerate(clients.names)}
    nodes = clients.federation(parts).each_node()
    assert [node.node_id for node in nodes] == ["client-0000", "client-0001", "client-0002"]
    assert [node.registry.datasets()[0].found.num_train for node in nodes] == [14, 20, 10]


def test_figures_are_those_of_the_whole_part_in_evaluation_mode(toy):
    clients = Clients("toy")
    plan = SgdPlan({"dataset": "toy"})
    plan.train()
    x, y = clients.part(1, train=False).tensors
    rows = clients.rows(plan, clients.part(1, train=False), seed=1)
    other = clients.rows(plan, clients.part(0, train=False), seed=1, batch_size=2)
    loss = clients.loss(plan, clients.part(1, train=False), seed=1)
    with torch.inference_mode():
        plan.eval()
        squares = (plan.model(x) - y).numpy() ** 2
        x0, y0 = clients.part(0, train=False).tensors
        squares0 = (plan.model(x0) - y0).numpy() ** 2
    score = clients.score([rows])
    assert (score.value, score.num_samples) == (pytest.approx(squares.mean(), rel=1e-5), 5)
    assert loss == (pytest.approx(squares.mean(), rel=1e-5), 5)
    # Of two test sets together: all samples count the same.
    both = clients.score([rows, other])
    expected = np.concatenate([squares, squares0]).mean()
    assert (both.value, both.num_samples) == (pytest.approx(expected, rel=1e-5), 11)


def test_a_loss_over_batches_of_unequal_size(toy, monkeypatch):
    """Not a table, so it goes in batches of 4, 4 and 2."""
    clients = Clients("toy")
    plan = SgdPlan({"dataset": "toy"})
    whole = clients.loss(plan, clients.part(2, train=True), seed=1)
    found = clients.loss(plan, Subset(clients.part(2, train=True), range(10)), seed=1)
    assert found == (pytest.approx(whole[0], rel=1e-5), 10)


def test_no_data_no_loss(toy):
    value, count = Clients("toy").loss(SgdPlan({"dataset": "toy"}), rows_of(TABLE, []), seed=1)
    assert math.isnan(value)
    assert count == 0


def test_evaluation_draws_no_global_random_numbers(toy):
    clients = Clients("toy")
    plan = SgdPlan({"dataset": "toy"})
    before = torch.get_rng_state()
    clients.rows(plan, clients.part(0, train=False), seed=1)
    clients.loss(plan, Subset(clients.part(0, train=False), range(6)), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_cannot_be_read(toy, tmp_path):
    toy.unreadable.append(False)
    clients = Clients("toy")
    assert len(clients.part(0, train=True)) == 14
    with pytest.raises(DatasetError, match="toy cannot be read: OSError: nobody may read this"):
        clients.part(0, train=False)
    with pytest.raises(DatasetError):
        Clients("fed_tcga_brca", Path(tmp_path / "none"))
