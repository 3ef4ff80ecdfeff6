import numpy as np
import pytest
import torch

from polyclinic.aggregators import kept_updates
from polyclinic.aggregators.kept_updates import KeptUpdates, median
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply


def kept(begin, sent):
    updates = KeptUpdates(begin)
    for number, tensors in enumerate(sent, start=1):
        updates.add(
            TrainReply(
                request_id="r", node_id="va", num_samples=number, num_updates=1, loss=0.0, seconds=0.0, tensors=tensors
            )
        )
    return updates


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_the_median_is_numpys(number):
    values = np.random.default_rng(number).standard_normal((number, 50))
    np.testing.assert_array_equal(median(torch.from_numpy(values)), np.median(values, axis=0))


def test_what_is_no_number_counts_as_an_extreme_one():
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([[1.0, 5.0], [nan, -inf], [2.0, 6.0], [3.0, 7.0], [inf, nan]], dtype=torch.float64)
    assert median(values).tolist() == [3, 6]


@pytest.mark.parametrize("chunk", [1, 7, 20, 1 << 18])
def test_all_values_pass_by_in_columns(monkeypatch, chunk):
    monkeypatch.setattr(kept_updates, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    sent = [{"w": torch.tensor(rng.standard_normal((3, 5))).t(), "b": torch.tensor(float(k))} for k in range(4)]
    updates = kept({"w": torch.zeros(5, 3, dtype=torch.float64), "b": torch.tensor(0.0)}, sent)
    together = torch.cat(list(updates.columns(["b", "w"])), dim=1)
    expected = [torch.cat([one["b"].double().reshape(1), one["w"].reshape(-1)]) for one in sent]
    assert together.dtype == torch.float64
    assert torch.equal(together, torch.stack(expected))
    got = updates.combined(lambda values: values.sum(dim=0))
    assert list(got) == ["w", "b"]
    torch.testing.assert_close(got["w"], sum(one["w"] for one in sent))
    assert got["b"] == 6
    assert list(updates.combined(median, ["b"])) == ["b"]


def test_some_of_the_updates():
    updates = kept({"w": torch.zeros(1)}, [{"w": torch.tensor([float(k)])} for k in range(4)])
    some = updates.only([3, 1])
    assert (len(some), some.num_samples, len(updates)) == (2, [2, 4], 4)
    assert next(some.columns(["w"])).tolist() == [[1], [3]]


def test_counters_are_kept_exactly():
    begin = {"n": torch.tensor(2**60 + 1)}
    sent = [{"n": torch.tensor(2**60 + step)} for step in (2, 4, 9)]
    assert kept(begin, sent).combined(median)["n"] == 2**60 + 4
    assert kept(begin, sent[:2]).combined(median)["n"] == 2**60 + 3


def test_what_does_not_fit_is_not_kept():
    updates = kept({"w": torch.zeros(2)}, [{"w": torch.ones(2)}])
    with pytest.raises(AggregationError, match="node va sent tensor 'w'"):
        updates.add(
            TrainReply(
                request_id="r",
                node_id="va",
                num_samples=1,
                num_updates=1,
                loss=0.0,
                seconds=0.0,
                tensors={"w": torch.ones(3)},
            )
        )
    assert len(updates) == 1
    assert updates.num_samples == [1]


def test_a_round_without_updates():
    with pytest.raises(AggregationError, match="no node contributed a sample in this round"):
        KeptUpdates({"w": torch.zeros(1)}).combined(median)
