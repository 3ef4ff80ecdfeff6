import pytest
from torch import nn

from polyclinic.aggregators.layer_names import matching, with_other_names
from polyclinic.errors import ConfigError

NAMES = ["model.body.weight", "model.body.bias", "model.head.weight", "model.head.bias", "model.head2.weight", "loss.w"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["model.head"], [2, 3]),
        (["model.head.weight"], [2]),
        (["model.head*"], [2, 3, 4]),
        (["*.bias"], [1, 3]),
        (["model.*.weight", "loss"], [0, 2, 4, 5]),
        (["model.head?.weight"], [4]),
        (["model.[bh]*.bias"], [1, 3]),
        (["model"], [0, 1, 2, 3, 4]),
    ],
)
def test_names_and_patterns(patterns, expected):
    assert matching(patterns, NAMES) == {NAMES[k] for k in expected}


@pytest.mark.parametrize("pattern", ["model.hed.weight", "mod", "head", "MODEL.head", ""])
def test_a_pattern_that_fits_none(pattern):
    with pytest.raises(ConfigError) as caught:
        matching(["loss", pattern], NAMES)
    assert caught.value.what == f"no layer of the plan fits {pattern!r}"
    assert "model.head.weight" in caught.value.to_do or "known: " in caught.value.to_do


def test_a_tensor_of_two_names_is_meant_under_both():
    net = nn.ModuleDict({"encode": nn.Linear(3, 2), "norm": nn.BatchNorm1d(2), "decode": nn.Linear(3, 2)})
    net["decode"].weight = net["encode"].weight
    net["again"] = net["norm"]
    assert with_other_names(["decode.weight", "decode.bias"], net) == {"encode.weight", "decode.weight", "decode.bias"}
    assert with_other_names(["norm.running_mean"], net) == {"norm.running_mean", "again.running_mean"}
    assert with_other_names([], net) == set()


def test_a_tensor_that_is_not_there():
    with pytest.raises(ConfigError, match="the plan has no tensor 'wait' to stay at the nodes") as caught:
        with_other_names(["wait"], nn.ParameterDict({"weight": nn.Parameter()}))
    assert "weight" in caught.value.to_do
