"""Cyclic weight transfer: K rounds are the nodes' trainings one after the other."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from polyclinic import Cyclic, Experiment, TorchTrainingPlan, simulate
from polyclinic.errors import ConfigError
from polyclinic.randomness import derive

SIZES = {"ash": 7, "birch": 12, "cedar": 5}


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1).double()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, x, y):
        return (self.model(x) - y).square().mean()


def tables():
    generator = torch.Generator().manual_seed(5)
    draw = {"generator": generator, "dtype": torch.float64}
    return {name: TensorDataset(torch.randn(n, 3, **draw), torch.randn(n, 1, **draw)) for name, n in SIZES.items()}


@pytest.mark.parametrize("order", ["fixed", "shuffled"])
def test_the_model_is_trained_by_one_node_after_the_other(tmp_path, order):
    data = tables()
    experiment = Experiment(
        Plan,
        training_args={"batch_size": 4, "epochs": 1},
        federation=simulate(data),
        folder=tmp_path / "run",
        aggregator=Cyclic(order=order, seed=2),
        round_limit=7,
        observers=[],
        seed=9,
    )
    net = experiment.model()
    names = list(SIZES)
    generator = np.random.default_rng(2)
    visits = names * 3 if order == "fixed" else [names[k] for _ in range(3) for k in generator.permutation(3)]
    experiment.run()
    in_passes = dict.fromkeys(names, 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for number, name in enumerate(visits[:7], 1):
        # With epochs, a node's pass in round r is the r-th of its stream of orders.
        generator = torch.Generator().manual_seed(derive(9, "batches", name, number - 1))
        x, y = data[name].tensors
        for rows in torch.split(torch.randperm(len(x), generator=generator), 4):
            optimizer.zero_grad()
            (net(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
        in_passes[name] += 1
    for name, tensor in experiment.model().state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
    assert [record.nodes for record in experiment.records[1:]] == [(name,) for name in visits[:7]]
    assert min(in_passes.values()) == 2


def test_the_fixed_order_is_that_of_the_node_ids():
    chosen = [Cyclic().choose(number, ["c", "a", "b"]) for number in range(1, 8)]
    assert chosen == [["a"], ["b"], ["c"], ["a"], ["b"], ["c"], ["a"]]


def test_each_cycle_is_the_next_permutation_of_numpys_generator():
    generator = np.random.default_rng(11)
    drawn = [int(k) for _ in range(50) for k in generator.permutation(4)]
    rounds = list(range(1, 201))
    # In another order: what is chosen depends on nothing but the round.
    found = {number: Cyclic(order="shuffled", seed=11).choose(number, "abcd") for number in reversed(rounds)}
    assert [found[number] for number in rounds] == [["abcd"[k]] for k in drawn]
    assert len({tuple(drawn[k : k + 4]) for k in range(0, 200, 4)}) > 10


def test_a_large_seed_is_not_rounded():
    assert Cyclic(seed=2**60 + 1).settings["seed"] == 2**60 + 1


def test_seeds_differ():
    orders = {
        tuple(Cyclic(order="shuffled", seed=seed).choose(number, "abcdef")[0] for number in range(1, 7))
        for seed in range(5)
    }
    assert len(orders) == 5


@pytest.mark.parametrize(
    ("settings", "what", "to_do"),
    [
        ({"order": "random"}, "Cyclic: unknown order 'random'", 'give "fixed" or "shuffled"'),
        ({"seed": -1}, "Cyclic needs a finite seed of at least 0", "write Cyclic(seed=0)"),
        ({"seed": 1.5}, "Cyclic needs a whole seed, got 1.5", "write Cyclic(seed=0)"),
    ],
)
def test_bad_settings(settings, what, to_do):
    with pytest.raises(ConfigError) as caught:
        Cyclic(**settings)
    assert (caught.value.what, caught.value.to_do) == (what, to_do)
