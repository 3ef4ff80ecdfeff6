"""Which samples are in which batch: by the pass rule of FLamby's fixed-update loops, counted by hand here."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset

from polyclinic.datasets.table import TableDataset
from polyclinic.errors import ConfigError, TrainingError
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node import batches
from polyclinic.node.batches import load_batches, round_order


def args(**given):
    return TrainingArgs.parse({"batch_size": 4} | given)


def batches_of_round(n, arguments, round_index, *, seed=0, node_id="a"):
    parts = round_order(n, arguments, round_index=round_index, seed=seed, node_id=node_id)
    return [batch.tolist() for part in parts for batch in torch.split(part, arguments.batch_size)]


@given(
    n=st.integers(1, 60),
    size=st.integers(1, 20),
    updates=st.integers(1, 25),
    rounds=st.integers(1, 6),
    drop_last=st.booleans(),
)
def test_updates_go_on_through_the_data_over_rounds(n, size, updates, rounds, drop_last):
    if drop_last and size > n:
        return
    arguments = args(batch_size=size, num_updates=updates, drop_last=drop_last)
    each = [batches_of_round(n, arguments, number) for number in range(1, rounds + 1)]
    assert [len(of_round) for of_round in each] == [updates] * rounds
    stream = [batch for of_round in each for batch in of_round]
    sizes = [size] * (n // size) + ([n % size] if n % size and not drop_last else [])
    for start in range(0, len(stream), len(sizes)):
        one_pass = stream[start : start + len(sizes)]
        assert [len(batch) for batch in one_pass] == sizes[: len(one_pass)]
        taken = [sample for batch in one_pass for sample in batch]
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(range(n))
        if len(one_pass) == len(sizes) and not drop_last:
            assert sorted(taken) == list(range(n))


@given(n=st.integers(1, 40), size=st.integers(1, 15), epochs=st.integers(1, 4), rounds=st.integers(1, 4))
def test_epochs_are_whole_passes_and_the_same_as_their_number_of_updates(n, size, epochs, rounds):
    in_pass = len(range(0, n, size))
    for number in range(1, rounds + 1):
        of_round = batches_of_round(n, args(batch_size=size, epochs=epochs), number)
        assert of_round == batches_of_round(n, args(batch_size=size, num_updates=epochs * in_pass), number)
        for start in range(0, len(of_round), in_pass):
            taken = [sample for batch in of_round[start : start + in_pass] for sample in batch]
            assert sorted(taken) == list(range(n))


@given(n=st.integers(1, 30), number=st.integers(1, 9), updates=st.integers(1, 9), noise=st.integers(0, 2**31))
def test_a_round_that_is_repeated_sees_the_same_batches(n, number, updates, noise):
    arguments = args(num_updates=updates)
    before = batches_of_round(n, arguments, number)
    torch.manual_seed(noise)
    batches_of_round(n, arguments, number + 1)
    assert batches_of_round(n, arguments, number) == before


def test_nodes_seeds_and_passes_have_orders_of_their_own():
    one_pass = args(epochs=1)
    orders = [
        tuple(
            sample for batch in batches_of_round(50, one_pass, number, seed=seed, node_id=node_id) for sample in batch
        )
        for number in (1, 2, 3)
        for seed in (0, 1)
        for node_id in ("a", "b")
    ]
    assert len(set(orders)) == len(orders)


def test_a_dry_run_takes_the_rounds_first_batch():
    for number in (1, 2, 3):
        dry, whole = (batches_of_round(10, args(num_updates=4, dry_run=dry), number) for dry in (True, False))
        assert dry == whole[:1]


def test_no_data_and_no_whole_batch_are_two_errors():
    with pytest.raises(TrainingError, match="the training dataset is empty") as empty:
        batches_of_round(0, args(epochs=1), 1)
    assert "training_data()" in empty.value.to_do
    with pytest.raises(ConfigError, match="batches of 4 with drop_last leave nothing of 3") as short:
        batches_of_round(3, args(epochs=1, drop_last=True), 1)
    assert "batch_size" in short.value.to_do


# ---- loading


class OneByOne(Dataset):
    """The rows of tensors, without the tensors: goes through torch's DataLoader."""

    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, index):
        return tuple(part[index] for part in self.parts)


class Noisy(TensorDataset):
    """A row differs each time: its class has its own way to make one."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.rand(()) + random.random() + np.random.random(), y  # noqa: NPY002


def loaded(dataset, parts, size=4, collate_fn=None, num_workers=0):
    found = load_batches(dataset, parts, batch_size=size, collate_fn=collate_fn, num_workers=num_workers, seed=11)
    return [tuple(batch) if isinstance(batch, list | tuple) else batch for batch in found]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a, b)


@given(n=st.integers(1, 30), size=st.integers(1, 9), updates=st.integers(1, 20), number=st.integers(1, 4))
def test_tensors_by_index_are_what_the_data_loader_gives(n, size, updates, number):
    tensors = (torch.randn(n, 2, 3), torch.arange(n), torch.rand(n, dtype=torch.float64) > 0.5)
    parts = round_order(n, args(batch_size=size, num_updates=updates), round_index=number, seed=1, node_id="a")
    same(loaded(TensorDataset(*tensors), parts, size), loaded(OneByOne(*tensors), parts, size))


def test_gathering_in_pieces_gives_the_same_batches(monkeypatch):
    tensors = torch.randn(23, 3), torch.arange(23)
    parts = round_order(23, args(batch_size=2, num_updates=40), round_index=2, seed=1, node_id="a")
    whole = loaded(TensorDataset(*tensors), parts, 2)
    monkeypatch.setattr(batches, "_GATHER_BYTES", 50)
    same(loaded(TensorDataset(*tensors), parts, 2), whole)


def test_tables_are_taken_by_index_unless_a_transform_must_see_each_row():
    x, y = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9.0)[:, None]
    parts = [torch.randperm(9)]
    plain = loaded(TableDataset(x, y), parts)
    same(plain, loaded(OneByOne(torch.tensor(x).float(), torch.tensor(y).float()), parts))
    doubled = loaded(TableDataset(x, y, transform=lambda row: 2 * row), parts)
    same(doubled, [(2 * a, b) for a, b in plain])


def test_a_class_that_changes_the_rows_of_its_tensors_is_asked_for_each_row():
    dataset = Noisy(torch.zeros(8, 1), torch.zeros(8))
    values = torch.cat([x for x, _ in loaded(dataset, [torch.arange(8)])])
    assert (values != 0).all()
    assert len(set(values.flatten().tolist())) == 8


@pytest.mark.parametrize("kind", [TensorDataset, OneByOne])
def test_a_collate_fn_makes_the_batches(kind):
    dataset = kind(torch.arange(6.0), torch.arange(6))
    taken = loaded(dataset, [torch.tensor([5, 0, 3])], 2, collate_fn=lambda samples: [int(y) for _, y in samples])
    assert taken == [(5, 0), (3,)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_worker_processes_give_the_same_batches_and_seeds_of_their_own():
    tensors = torch.randn(11, 2), torch.arange(11)
    parts = [torch.randperm(11), torch.randperm(11)]
    same(loaded(TensorDataset(*tensors), parts, 3, num_workers=2), loaded(TensorDataset(*tensors), parts, 3))
    noisy = Noisy(torch.zeros(12, 1), torch.zeros(12))
    torch.manual_seed(0)
    first = loaded(noisy, [torch.arange(12)], 3, num_workers=2)
    torch.manual_seed(1)
    same(loaded(noisy, [torch.arange(12)], 3, num_workers=2), first)
    values = torch.cat([x for x, _ in first])
    assert len(set(values.flatten().tolist())) == 12
