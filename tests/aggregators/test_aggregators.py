"""What holds for every aggregator, and how they are made by name."""

import inspect
import json

import pytest
import torch

from polyclinic.aggregators import (
    AGGREGATORS,
    LOCAL_RULES,
    Cyclic,
    FedAverage,
    FedProx,
    ProximalTerm,
    Scaffold,
    make_aggregator,
    make_local_rule,
)
from polyclinic.errors import ConfigError
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule

# A new aggregator must be added here.
EXAMPLES = [
    FedAverage(),
    FedAverage(weights="uniform"),
    FedProx(0.1),
    FedProx(mu=0, weights="uniform"),
    Scaffold(weights="uniform"),
    Cyclic(order="shuffled", seed=3),
]
every = pytest.mark.parametrize("aggregator", EXAMPLES, ids=lambda one: f"{type(one).__name__}{one.settings}")


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


@every
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
