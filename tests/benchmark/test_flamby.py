"""Protocol flamby against loops by hand, in the old runner's order of random numbers.

The published table itself is in tests/system/test_flamby_tables.py.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from polyclinic.benchmark import flamby
from polyclinic.benchmark.cells import Cell, run_cell
from polyclinic.benchmark.flamby import FIXES, FlambyProtocol
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError
from polyclinic.randomness import seeded

SEED, ROUNDS, UPDATES = 5, 6, 4
LR = 0.05
PROTOCOL = FlambyProtocol()


# ---- the old runner, by hand


def set_seed(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


class Client:
    def __init__(self, toy, data, model):
        self.data, self.model, self.size = data, copy.deepcopy(model), len(data)
        self.loader = DataLoader(data, batch_size=toy.BATCH_SIZE, shuffle=True)
        self.iterator = iter(self.loader)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)

    def train(self):
        self.model.train()
        for _ in range(UPDATES):
            try:
                x, y = next(self.iterator)
            except StopIteration:
                self.iterator = iter(self.loader)
                x, y = next(self.iterator)
            self.optimizer.zero_grad()
            torch.nn.functional.mse_loss(self.model(x), y).backward()
            self.optimizer.step()

    def take(self, model, *, buffers=False):
        """Parameters from another model; buffers stay, unless they are to be taken too."""
        pairs = [*zip(self.model.parameters(), model.parameters(), strict=True)]
        if buffers:
            pairs += zip(self.model.buffers(), model.buffers(), strict=True)
        with torch.no_grad():
            for own, other in pairs:
                own.copy_(other)


def mean_model(clients):
    mean = copy.deepcopy(clients[0].model)
    total = sum(client.size for client in clients)
    with torch.no_grad():
        for name, tensor in mean.state_dict().items():
            parts = [client.model.state_dict()[name].double() * client.size / total for client in clients]
            tensor.copy_(sum(parts))
    return mean


def squared_errors(toy, model, *, compatible=True):
    """On the centers' test data and the pooled ones, by name."""
    parts = {name: toy.FedClass(k, train=False, flamby_compatible=compatible) for k, name in enumerate(toy.CENTERS)}
    parts["pooled"] = toy.FedClass(train=False, pooled=True, flamby_compatible=compatible)
    model.eval()
    with torch.inference_mode():
        return {
            name: torch.mean((model(part.tensors[0]) - part.tensors[1]) ** 2).item() for name, part in parts.items()
        }


def begin(toy, *, seed=SEED, compatible=True):
    set_seed(seed)
    model = toy.Baseline()
    set_seed(seed + 1000)  # whatever the runner drew meanwhile
    clients = [Client(toy, toy.FedClass(k, flamby_compatible=compatible), model) for k in range(3)]
    set_seed(SEED)
    return clients


def fed_average(toy, *, buffers=False, compatible=True, seed=SEED):
    """The errors of what the runner returns, after each round."""
    errors = []
    with seeded(0):
        clients = begin(toy, seed=seed, compatible=compatible)
        for _ in range(ROUNDS):
            for client in clients:
                client.train()
            mean = mean_model(clients)
            for client in clients:
                client.take(mean, buffers=buffers)
            errors.append(squared_errors(toy, clients[0].model, compatible=compatible))
    return errors


def cyclic(toy, *, transfer):
    """One client a round, in a new order each cycle; the published one gave the weights to nobody."""
    errors = []
    with seeded(0):
        clients = begin(toy)
        rng, order, trained = np.random.default_rng(SEED), [], set()
        for _ in range(ROUNDS):
            if not order:
                order = list(rng.permutation(3))
            now = clients[order.pop(0)]
            now.train()
            trained.add(now)
            if transfer:
                # Until its first turn a client has no statistics of its own, and takes those that come along.
                for client in clients:
                    client.take(now.model, buffers=client not in trained)
            errors.append(squared_errors(toy, clients[0].model))
    return errors


def baseline(toy, data):
    with seeded(0):
        set_seed(SEED)
        model = toy.Baseline()
        set_seed(SEED)
        loader = DataLoader(data, batch_size=toy.BATCH_SIZE, shuffle=True)
        optimizer = toy.Optimizer(model.parameters(), lr=toy.LR)
        for _ in range(toy.NUM_EPOCHS_POOLED):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
        return squared_errors(toy, model)


# ---- ours


def cell(method, *, fixes=(), seed=SEED, settings=None, dataset="toy", curve_points=ROUNDS, **changes):
    configuration = PROTOCOL.configuration(FederatedDataset.load(dataset), fixes, UPDATES, ROUNDS)
    settings = {"lr": LR} if settings is None else settings
    return Cell("flamby", dataset, method, settings, seed, configuration | changes, None, curve_points)


def errors_of(cell):
    """By round and test set, without the mean."""
    rows = run_cell(cell)
    assert rows[0].status == "done", rows[0].detail
    found = {}
    for row in rows:
        found.setdefault(row.round, {})[row.test] = row.value
    for figures in found.values():
        mean = figures.pop("mean")
        assert mean == pytest.approx(sum(v for name, v in figures.items() if name != "pooled") / 3, rel=1e-12)
    return [found[number] for number in sorted(found)]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        assert ours == pytest.approx(theirs, rel=1e-4), f"round {number}"


def test_fed_average_is_the_loop_by_hand_with_buffers_at_the_clients(toy):
    expected = fed_average(toy)
    assert_equal(errors_of(cell("FedAverage")), expected)
    assert expected[-1]["pooled"] != pytest.approx(fed_average(toy, buffers=True)[-1]["pooled"], rel=1e-2)


def test_fix_buffers_averages_them_and_changes_nothing_else(toy):
    assert_equal(errors_of(cell("FedAverage", fixes=["buffers"])), fed_average(toy, buffers=True))


def test_fix_data_takes_the_corrected_data_and_changes_nothing_else(toy):
    assert_equal(errors_of(cell("FedAverage", fixes=["data"])), fed_average(toy, compatible=False))
    assert {compatible for *_, compatible in toy.built} == {False}


def test_the_published_cyclic_passes_nothing_on(toy):
    expected = cyclic(toy, transfer=False)
    assert expected[0] == expected[1] or expected[1] == expected[2]  # others' turns change nothing
    assert_equal(errors_of(cell("Cyclic")), expected)


def test_fix_cyclic_passes_the_model_on_and_changes_nothing_else(toy):
    assert_equal(errors_of(cell("Cyclic", fixes=["cyclic"])), cyclic(toy, transfer=True))


def test_fix_seed_draws_initial_weights_from_the_seed(toy, monkeypatch):
    monkeypatch.setitem(flamby._FIXED_SEED, "toy", 42)
    assert_equal(errors_of(cell("FedAverage")), fed_average(toy, seed=42))
    assert_equal(errors_of(cell("FedAverage", fixes=["seed"])), fed_average(toy))


def test_only_the_weights_of_lidc_were_drawn_once_for_all_seeds():
    assert flamby._FIXED_SEED == {"fed_lidc_idri": 42}


def test_baselines_are_plain_epochs_with_the_datasets_optimizer(toy):
    pooled = baseline(toy, toy.FedClass(pooled=True, flamby_compatible=True))
    assert_equal(errors_of(cell("Pooled", settings={})), [pooled])
    local = baseline(toy, toy.FedClass(1, flamby_compatible=True))
    assert_equal(errors_of(cell("Local Bee", settings={})), [local])


def test_fixes_of_strategies_leave_others_as_they_were(toy):
    plain = errors_of(cell("FedAverage"))
    assert errors_of(cell("FedAverage", fixes=["cyclic", "seed", "tau", "rounds"])) == plain


def test_fix_tau_is_tau_of_1e_8():
    published = PROTOCOL.strategies("fed_lidc_idri")
    mended = PROTOCOL.strategies("fed_lidc_idri", ["tau"])
    assert published["FedAdam"]["tau"] == 1e-3
    assert mended["FedAdam"] == published["FedAdam"] | {"tau": 1e-8}
    assert mended["FedAverage"] == published["FedAverage"]


def test_curve_points_do_not_change_the_result(toy):
    every, last = errors_of(cell("FedAverage")), errors_of(cell("FedAverage", curve_points=0))
    assert len(last) == 1
    assert every[-1] == last[0]


def test_bytes_of_all_rounds_until_then(toy):
    rows = [row for row in run_cell(cell("FedAverage")) if row.test == "pooled"]
    each = rows[0].bytes
    # 16 + 5 numbers of the two layers and 8 of the normalisation, 3 clients, there and back; headers come on top.
    assert each >= 29 * 4 * 3 * 2
    assert [row.bytes for row in rows] == pytest.approx([each * number for number in range(1, 7)], rel=0.01)


# ---- what decides a result


@pytest.mark.parametrize(
    ("dataset", "rounds", "mended"),
    [
        # FLamby's formula with its numbers of samples, and with the true ones.
        ("fed_camelyon16", 3, (169 + 101) // 2 // 16 * 45 // 100),
        ("fed_lidc_idri", 201, (530 + 59 + 164 + 55) // 4 // 1 * 100 // 100),
        ("fed_ixi", 7, None),
        ("fed_tcga_brca", 5, None),
        ("fed_kits19", 30, None),
        ("fed_isic2019", 9, None),
        ("fed_heart_disease", 15, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rounds_and_what_fix_rounds_makes_of_them(dataset, rounds, mended):
    loaded = FederatedDataset.load(dataset)
    plain = PROTOCOL.configuration(loaded, (), None, None)
    fixed = PROTOCOL.configuration(loaded, ("rounds",), None, None)
    assert plain["rounds"] == rounds
    assert fixed == plain | {"rounds": mended or rounds, "fixes": ["rounds"]}
    assert plain["num_updates"] == 100


def test_fix_data_is_an_option_of_the_dataset_alone():
    for fix in FIXES:
        assert PROTOCOL.options([fix]) == ({} if fix == "data" else {"flamby_compatible": True})


def test_fixes_are_part_of_the_configuration_in_any_order():
    heart = FederatedDataset.load("fed_heart_disease")
    one = PROTOCOL.configuration(heart, ["tau", "data"], None, None)
    assert one == PROTOCOL.configuration(heart, ["data", "tau"], None, None)
    assert one["fixes"] == ["data", "tau"]


def test_fewer_rounds_and_updates():
    heart = FederatedDataset.load("fed_heart_disease")
    assert PROTOCOL.configuration(heart, (), 10, None)["rounds"] == 150
    assert PROTOCOL.configuration(heart, (), 10, 3)["rounds"] == 3
    assert PROTOCOL.configuration(heart, (), 10**6, None)["rounds"] == 1


def test_an_unknown_fix_and_a_dataset_without_published_numbers():
    heart = FederatedDataset.load("fed_heart_disease")
    with pytest.raises(ConfigError, match=r"there is no fix 'bufers'\n  What to do: did you mean 'buffers'\?"):
        PROTOCOL.configuration(heart, ["bufers"], None, None)
    with pytest.raises(ConfigError, match=r"FLamby published no .* fed_synthetic\n.*or use --protocol polyclinic"):
        PROTOCOL.strategies("fed_synthetic")


def test_hyper_parameters_that_a_strategy_has():
    assert PROTOCOL.known_settings("FedProx") == ["lr", "mu"]
    assert PROTOCOL.known_settings("FedAdagrad") == ["lr", "server_lr", "beta1", "tau"]
    for dataset in flamby.FLAMBY:
        for strategy, settings in PROTOCOL.strategies(dataset).items():
            assert set(settings) <= set(PROTOCOL.known_settings(strategy)), (dataset, strategy)


def test_the_readme_of_the_fixes():
    text = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    assert [name for name in FIXES if f"`{name}`" not in text] == []


# ---- evaluations that a dataset brings along


def test_a_datasets_own_evaluation_is_asked_with_its_batch_size(toy, monkeypatch):
    sizes = []

    def evaluate(model, loaders, use_gpu):
        assert not use_gpu
        sizes.extend([len(x) for x, _ in loader] for loader in loaders)
        return {f"client_test_{k}": 0.1 * k for k in range(len(loaders))}

    monkeypatch.setattr(toy, "evaluate_all", evaluate, raising=False)
    monkeypatch.setitem(flamby._OWN_EVALUATION, "toy", "evaluate_all")
    monkeypatch.setitem(flamby._TEST_BATCH, "toy", 2)
    rows = run_cell(cell("FedAverage", curve_points=0))
    assert {row.test: row.value for row in rows} == pytest.approx(
        {"Ant": 0, "Bee": 0.1, "Cat": 0.2, "pooled": 0.3, "mean": 0.1}
    )
    assert sizes == [[2, 2, 2], [2, 2, 1], [2, 2], [2] * 7 + [1]]
    assert {row.test: row.num_samples for row in rows} == {"Ant": 6, "Bee": 5, "Cat": 4, "pooled": 15, "mean": 15}
