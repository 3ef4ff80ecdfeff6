"""What holds for every aggregator, and how they are made by name."""

import inspect
import json

import pytest
import torch

from polyclinic.aggregators import (
    AGGREGATORS,
    LOCAL_RULES,
    CoordinateMedian,
    Cyclic,
    Ditto,
    FedAdagrad,
    FedAdam,
    FedAverage,
    FedAvgM,
    FedBN,
    FedDyn,
    FedExP,
    FedNova,
    FedProx,
    FedRep,
    FedYogi,
    GeometricMedian,
    Krum,
    MultiKrum,
    ProximalTerm,
    QFedAvg,
    Scaffold,
    TrimmedMean,
    make_aggregator,
    make_local_rule,
)
from polyclinic.aggregators.fed_opt import FedOpt
from polyclinic.errors import AggregationError, ConfigError
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule
from polyclinic.tensors import decode, encode

# A new aggregator must be added here.
EXAMPLES = [
    FedAverage(),
    FedAverage(weights="uniform"),
    FedProx(0.1),
    FedProx(mu=0, weights="uniform"),
    Scaffold(weights="uniform"),
    Cyclic(order="shuffled", seed=3),
    FedDyn(0.1, weights="uniform"),
    FedBN(every_norm=True),
    FedRep(["model.head"], head_passes=2),
    Ditto(0.5),
    FedAdam(server_lr=0.1),
    FedYogi(beta2=0.9),
    FedAdagrad(tau=1e-8),
    FedAvgM(beta=0.7),
    FedExP(epsilon=1e-6),
    FedNova(momentum=0.9),
    QFedAvg(q=0, lipschitz=10),
    QFedAvg(q=2, lipschitz=100),
    CoordinateMedian(),
    TrimmedMean(0.34),
    Krum(0),
    MultiKrum(0, num_selected=2),
    GeometricMedian(),
]


def of_each(examples):
    return pytest.mark.parametrize("aggregator", examples, ids=lambda one: f"{type(one).__name__}{one.settings}")


every = of_each(EXAMPLES)
# Three nodes at least; and rules that go on from where all nodes are, or stop before.
NEED_SEVERAL = [one for one in EXAMPLES if isinstance(one, MultiKrum | TrimmedMean)]
GO_ELSEWHERE = [one for one in EXAMPLES if isinstance(one, FedDyn | FedOpt) or one.settings.get("q")]


def model(seed=None):
    """Parameters, running statistics and a counter; without a seed, the model that rounds begin with."""
    draw = torch.Generator().manual_seed(seed or 0)
    return {
        "w": torch.randn(2, 3, generator=draw),
        "half": torch.randn(4, generator=draw).half(),
        "double": torch.randn((), generator=draw, dtype=torch.float64),
        "none": torch.zeros(0, 2),
        "running_var": torch.rand(3, generator=draw) ** 8,
        "num_batches_tracked": torch.tensor(7 if seed is None else 7 + seed),
    }


def reply(number, tensors, **changes):
    known = {"num_samples": 3 + number, "num_updates": 1 + number, "loss": 0.5 + number, "seconds": 0.0}
    return TrainReply(request_id="r", node_id=f"node-{number}", tensors=tensors, **(known | changes))


def fresh(aggregator):
    again = make_aggregator(type(aggregator).__name__, aggregator.settings)
    again.setup({"running_var", "num_batches_tracked"})
    return again


def one_round(aggregator, begin, seeds):
    aggregator.begin(begin)
    for number, seed in enumerate(seeds):
        aggregator.add(reply(number, model(seed)))
    return aggregator.finish()


def same(one, other):
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_every_aggregator_has_an_example():
    assert {type(one) for one in EXAMPLES} == set(AGGREGATORS.values())
    assert {one.local_rule.name for one in EXAMPLES if one.local_rule} == set(LOCAL_RULES)


@every
def test_settings_make_the_same_aggregator_again(aggregator):
    settings = json.loads(json.dumps(aggregator.settings))
    again = make_aggregator(type(aggregator).__name__, settings)
    assert type(again) is type(aggregator)
    assert again.settings == aggregator.settings == settings
    assert again.local_rule == aggregator.local_rule
    assert set(settings) == set(inspect.signature(type(aggregator)).parameters)


@of_each([one for one in EXAMPLES if one not in [*NEED_SEVERAL, *GO_ELSEWHERE]])
def test_one_node_gives_its_own_model(aggregator):
    begin = {"w": torch.zeros(3), "n": torch.tensor(5), "m": torch.tensor([True, False])}
    sent = {"w": torch.tensor([1.0, -2.0, 0.1]), "n": torch.tensor(2**60 + 1), "m": torch.tensor([False, True])}
    begin["n"] += 2**60
    aggregator.setup({"n", "m"})
    aggregator.begin(begin)
    aggregator.add(
        TrainReply(request_id="r", node_id="a", num_samples=3, num_updates=1, loss=0.0, seconds=0.0, tensors=sent)
    )
    got = aggregator.finish()
    assert list(got) == list(begin)
    assert all(torch.equal(got[name], sent[name]) and got[name].dtype == sent[name].dtype for name in sent)


@of_each([one for one in EXAMPLES if one not in GO_ELSEWHERE and not isinstance(one, Cyclic)])
def test_nodes_that_agree_give_the_model_they_agree_on(aggregator):
    # Nodes of equally many steps: FedNova would go less far with those of few.
    aggregator = fresh(aggregator)
    aggregator.begin(model())
    for number in range(3):
        aggregator.add(reply(number, model(5), num_updates=4))
    assert same(aggregator.finish(), model(5))


@every
def test_the_next_model_is_like_the_one_before(aggregator):
    aggregator, begin = fresh(aggregator), model()
    for seeds in ([1, 2, 3], [4, 5, 6]):
        seeds = seeds[:1] if isinstance(aggregator, Cyclic) else seeds
        got = one_round(aggregator, begin, seeds)
        assert same(begin, model()), "begin() and finish() left the model alone"
        assert [(name, t.dtype, t.shape) for name, t in got.items()] == [
            (n, t.dtype, t.shape) for n, t in begin.items()
        ]
        assert all(t.isfinite().all() for t in got.values())
        low, high = (f(torch.stack([model(s)["running_var"] for s in seeds]), 0).values for f in (torch.min, torch.max))
        assert ((low - 1e-7 <= got["running_var"]) & (got["running_var"] <= high + 1e-7)).all()
        assert 7 + min(seeds) <= got["num_batches_tracked"] <= 7 + max(seeds)
        assert not any(t.requires_grad for t in got.values())


@of_each([one for one in EXAMPLES if not isinstance(one, Cyclic)])
def test_a_run_that_is_resumed_after_each_round_goes_on_to_the_bit(aggregator):
    through, resumed = fresh(aggregator), fresh(aggregator)
    one = other = model()
    for seeds in ([1, 2, 3], [4, 5, 6], [7, 8, 9, 10]):
        one, other = one_round(through, one, seeds), one_round(resumed, other, seeds)
        assert same(one, other)
        saved = decode(b"".join(encode(resumed.state_dict())))
        resumed = fresh(aggregator)
        resumed.load_state_dict(saved)
        assert same(resumed.state_dict(), through.state_dict())


@of_each([one for one in EXAMPLES if not isinstance(one, Cyclic)])
@pytest.mark.parametrize("wrong", ["shape", "dtype", "missing", "extra"])
def test_an_update_that_does_not_fit_leaves_nothing(aggregator, wrong):
    begin, disturbed = model(), fresh(aggregator)
    unfit = {n: t + 1000 for n, t in model(1).items()}
    unfit |= {"shape": {"w": torch.ones(3, 2)}, "dtype": {"w": torch.ones(2, 3).half()}}.get(wrong, {})
    unfit |= {"extra": torch.ones(1)} if wrong == "extra" else {}
    if wrong == "missing":
        del unfit["num_batches_tracked"]
    disturbed.begin(begin)
    disturbed.add(reply(0, model(1)))
    with pytest.raises(AggregationError, match=r"node node-9 sent (other tensors|tensor 'w' as)"):
        disturbed.add(reply(9, unfit))
    for number, seed in enumerate([2, 3], start=1):
        disturbed.add(reply(number, model(seed)))
    assert same(disturbed.finish(), one_round(fresh(aggregator), begin, [1, 2, 3]))


@of_each([one for one in EXAMPLES if not isinstance(one, Cyclic)])
def test_a_round_that_failed_is_forgotten(aggregator):
    disturbed, plain = fresh(aggregator), fresh(aggregator)
    first, again = one_round(disturbed, model(), [1, 2, 3]), one_round(plain, model(), [1, 2, 3])
    disturbed.begin(first)
    disturbed.add(reply(0, {n: t * 50 for n, t in model(4).items()}))
    assert same(one_round(disturbed, first, [4, 5, 6]), one_round(plain, again, [4, 5, 6]))


@every
def test_a_round_without_updates_is_an_error_and_changes_no_state(aggregator):
    aggregator = fresh(aggregator)
    before = aggregator.state_dict()
    aggregator.begin(model())
    with pytest.raises(AggregationError):
        aggregator.finish()
    assert same(aggregator.state_dict(), before)


@of_each([one for one in EXAMPLES if not isinstance(one, Cyclic)])
def test_updates_are_only_read_during_add(aggregator):
    begin, aggregator = model(), fresh(aggregator)
    aggregator.begin(begin)
    for number, seed in enumerate([1, 2, 3]):
        tensors = model(seed)
        aggregator.add(reply(number, tensors))
        assert same(tensors, model(seed)), "add() left the update alone"
        for t in tensors.values():
            t.zero_()
    assert same(aggregator.finish(), one_round(fresh(aggregator), begin, [1, 2, 3]))


@every
def test_the_local_rule_can_be_made_at_a_node(aggregator):
    if aggregator.local_rule is not None:
        # As it arrives.
        rule = LocalRule.model_validate_json(aggregator.local_rule.model_dump_json())
        assert type(make_local_rule(rule)) is LOCAL_RULES[rule.name]


@pytest.mark.parametrize(
    ("name", "settings", "what", "to_do"),
    [
        ("FedProxx", {}, "unknown aggregator 'FedProxx'", "did you mean 'FedProx'?"),
        ("Zzz", {}, "unknown aggregator 'Zzz'", f"known: {', '.join(sorted(AGGREGATORS))}"),
        ("FedProx", {"mu": 1.0, "weight": 1}, "unknown setting of FedProx 'weight'", "did you mean 'weights'?"),
        ("FedAverage", {"mu": 1.0}, "unknown setting of FedAverage 'mu'", "known: weights"),
        ("FedProx", {}, "FedProx needs mu", "write FedProx(mu=…)"),
        ("FedProx", {"mu": -1.0}, "FedProx needs a finite mu of at least 0", "write FedProx(mu=0.01)"),
        ("FedAverage", {"weights": "x"}, "unknown weights 'x'", 'give "num_samples" or "uniform"'),
    ],
)
def test_what_cannot_be_made_by_name(name, settings, what, to_do):
    with pytest.raises(ConfigError) as caught:
        make_aggregator(name, settings)
    assert (caught.value.what, caught.value.to_do) == (what, to_do)


def test_a_rule_that_this_version_does_not_know():
    with pytest.raises(ConfigError) as caught:
        make_local_rule(LocalRule(name="proximale"))
    assert caught.value.what == "unknown local rule 'proximale'; did you mean 'proximal'?"
    assert caught.value.to_do == "install the researcher's version of Polyclinic at this node"


def test_a_rule_with_its_numbers():
    rule = make_local_rule(LocalRule(name="proximal", numbers={"mu": 0.5}))
    assert isinstance(rule, ProximalTerm)
    assert rule.mu == 0.5
