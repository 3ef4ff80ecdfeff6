import numpy as np
import pytest
import torch

from polyclinic.aggregators import Krum, MultiKrum
from polyclinic.errors import AggregationError, ConfigError


def test_it_takes_one_nodes_model_to_the_bit(next_model):
    rng = np.random.default_rng(0)
    sent = [{"w": torch.tensor(rng.standard_normal(8), dtype=torch.float32)} for _ in range(6)]
    sent[3] = {"w": sum(one["w"] for one in sent) / 6}
    got = next_model(Krum(1), {"w": torch.zeros(8)}, sent)
    assert torch.equal(got["w"], sent[3]["w"])
    assert torch.equal(got["w"], next_model(MultiKrum(1, num_selected=1), {"w": torch.zeros(8)}, sent)["w"])


def test_of_equal_scores_the_first_node_is_taken(next_model):
    # The corners of a triangle, so far from each other that both of two nodes at one corner are the closest.
    sent = [{"w": torch.tensor([w])} for w in (0.0, 10.0, 10.0, 0.0, 30.0)]
    assert next_model(Krum(1), {"w": torch.zeros(1)}, sent)["w"].item() == 0
    assert next_model(Krum(1), {"w": torch.zeros(1)}, sent[1:] + sent[:1])["w"].item() == 10


def test_a_hostile_node_is_not_taken(next_model):
    rng = np.random.default_rng(1)
    sent = [{"w": torch.tensor(rng.standard_normal(8))} for _ in range(4)] + [{"w": torch.full((8,), 1e9).double()}]
    got = next_model(Krum(1), {"w": torch.zeros(8).double()}, sent)
    assert any(torch.equal(got["w"], one["w"]) for one in sent[:4])


def test_its_name_stands_in_errors(next_model):
    with pytest.raises(AggregationError, match=r"^Krum\(num_hostile=1\) needs at least 5 nodes, 4 answered"):
        next_model(Krum(1), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}] * 4)
    with pytest.raises(ConfigError, match=r"^Krum needs a"):
        Krum(-1)
