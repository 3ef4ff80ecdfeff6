import math
from fractions import Fraction

import numpy as np
import pytest

from polyclinic.aggregators.settings import checked_weights, number, require_numbers, weight_of, whole
from polyclinic.errors import ConfigError
from polyclinic.messages.replies import TrainReply


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)], ids=repr)
def test_numbers_of_all_kinds(value):
    got = number("FedX", "tau", value, above=0, below=1, example=0.1)
    assert (type(got), got) == (float, 0.5)


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "text"),
    [
        ({"above": 0}, [1e-300, 1e300], [0, -1], "above 0"),
        ({"at_least": 0}, [0, 5], [-1e-300], "of at least 0"),
        ({"at_least": 0, "below": 1}, [0, 0.999], [1, 2, -1], "of at least 0 and below 1"),
        ({"above": 0, "below": 0.5}, [0.25], [0, 0.5], "above 0 and below 0.5"),
    ],
)
def test_bounds(bounds, good, bad, text):
    for value in good:
        assert number("FedX", "tau", value, **bounds, example=0.25) == value
    for value in [*bad, math.nan, math.inf, -math.inf, None, "1", [1]]:
        with pytest.raises(ConfigError) as caught:
            number("FedX", "tau", value, **bounds, example=0.25)
        assert caught.value.what == f"FedX needs a finite tau {text}"
        assert caught.value.to_do == "write FedX(tau=0.25)"


def test_whole_numbers():
    assert whole("Krum", "num_hostile", 2, at_least=0, example=1) == 2
    assert type(whole("Krum", "num_hostile", np.int64(2), at_least=0, example=1)) is int
    with pytest.raises(ConfigError, match=r"^Krum needs a whole num_hostile, got 1\.5"):
        whole("Krum", "num_hostile", 1.5, at_least=0, example=1)
    with pytest.raises(ConfigError, match="Krum needs a finite num_hostile of at least 0"):
        whole("Krum", "num_hostile", -1, at_least=0, example=1)


def test_an_object_gives_its_class_name():
    class FedY:
        pass

    with pytest.raises(ConfigError, match=r"^FedY needs a finite mu above 0"):
        number(FedY(), "mu", 0, above=0, example=1)


def test_weights():
    update = TrainReply(request_id="r", node_id="va", num_samples=7, num_updates=1, loss=0.0, seconds=0.0, tensors={})
    assert weight_of(update, checked_weights("num_samples")) == 7
    assert weight_of(update, checked_weights("uniform")) == 1
    with pytest.raises(ConfigError, match="unknown weights 'samples'") as caught:
        checked_weights("samples")
    assert caught.value.to_do == 'give "num_samples" or "uniform"'


def test_numbers_of_a_local_rule():
    require_numbers("proximal", {"mu": 1.0}, ["mu"])
    with pytest.raises(ConfigError, match="unknown number of the local rule 'proximal', 'nu'"):
        require_numbers("proximal", {"mu": 1.0, "nu": 1.0}, ["mu"])
    with pytest.raises(ConfigError, match="the local rule 'proximal' came without mu"):
        require_numbers("proximal", {}, ["mu"])
