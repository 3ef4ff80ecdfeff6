import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAverage
from polyclinic.errors import AggregationError, ConfigError
from polyclinic.messages.replies import TrainReply


def update(node_id, num_samples, value):
    return TrainReply(
        request_id="r",
        node_id=node_id,
        num_samples=num_samples,
        num_updates=1,
        loss=0.0,
        seconds=0.0,
        tensors={"w": torch.tensor([value]), "num_batches_tracked": torch.tensor(100)},
    )


BEGIN = {"w": torch.zeros(1), "num_batches_tracked": torch.tensor(0)}
# The training samples of Fed-Heart-Disease's four hospitals.
COUNTS, VALUES = [199, 172, 30, 85], [1.0, -2.0, 10.0, 0.25]


def one_round(aggregator):
    aggregator.begin(BEGIN)
    for number, (count, value) in enumerate(zip(COUNTS, VALUES, strict=True)):
        aggregator.add(update(f"node-{number}", count, value))
    return aggregator.finish()


def test_nodes_count_by_their_samples():
    got = one_round(FedAverage())
    assert got["w"].item() == np.float32(np.average(VALUES, weights=COUNTS))
    assert got["num_batches_tracked"] == 100


def test_nodes_count_alike():
    assert one_round(FedAverage(weights="uniform"))["w"].item() == np.float32(np.mean(VALUES))


def test_rounds_do_not_leak_into_each_other():
    aggregator = FedAverage()
    first = one_round(aggregator)
    aggregator.begin(BEGIN)
    aggregator.add(update("node-0", 7, 3.0))
    assert aggregator.finish()["w"].item() == 3.0
    assert torch.equal(one_round(aggregator)["w"], first["w"])


def test_beginning_anew_forgets_a_round_that_failed():
    aggregator = FedAverage()
    aggregator.begin(BEGIN)
    aggregator.add(update("node-0", 1000, 1e6))
    assert torch.equal(one_round(aggregator)["w"], one_round(FedAverage())["w"])


def test_a_round_without_updates():
    aggregator = FedAverage()
    aggregator.begin(BEGIN)
    with pytest.raises(AggregationError, match="no node contributed a sample"):
        aggregator.finish()
    aggregator.begin(BEGIN)


def test_it_changes_nothing_in_local_training_and_keeps_nothing():
    aggregator = FedAverage()
    assert aggregator.local_rule is None
    assert aggregator.state_dict() == {}
    aggregator.load_state_dict({})


def test_unknown_weights():
    with pytest.raises(ConfigError, match="unknown weights 'samples'") as caught:
        FedAverage(weights="samples")
    assert caught.value.to_do == 'give "num_samples" or "uniform"'
