import numpy as np
import pytest
import torch

from polyclinic.aggregators import mean_step
from polyclinic.aggregators.mean_step import MeanStep, squared_length
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply


def reply(tensors):
    return TrainReply(
        request_id="r", node_id="va", num_samples=1, num_updates=1, loss=0.0, seconds=0.0, tensors=tensors
    )


def random_models(number, dtype=torch.float32):
    rng = np.random.default_rng(0)
    return [
        {
            "w": torch.tensor(rng.standard_normal((5, 7)), dtype=dtype),
            "running_var": torch.tensor(rng.random(3), dtype=dtype),
            "count": torch.tensor(rng.integers(100)),
        }
        for _ in range(number)
    ]


def test_the_mean_step_is_numpys():
    begin, *sent = random_models(4)
    steps, weights = MeanStep(begin, {"running_var", "count"}), [3.0, 0.5, 7.25]
    lengths = [steps.add(reply(update), weight) for update, weight in zip(sent, weights, strict=True)]
    mean, others = steps.finish()
    expected = [update["w"].double().numpy() - begin["w"].double().numpy() for update in sent]
    assert list(mean) == ["w"]
    assert mean["w"].dtype == torch.float64
    np.testing.assert_allclose(mean["w"], np.average(expected, axis=0, weights=weights), rtol=1e-13)
    np.testing.assert_allclose(lengths, [np.sum(step**2) for step in expected], rtol=1e-13)
    assert squared_length(mean) == pytest.approx(np.sum(mean["w"].numpy() ** 2), rel=1e-13)
    assert steps.weight == 10.75
    variances = np.average([update["running_var"] for update in sent], axis=0, weights=weights)
    np.testing.assert_allclose(others["running_var"], variances, rtol=1e-6)
    assert others["count"] == round(np.average([update["count"] for update in sent], weights=weights))


def test_what_is_no_parameter_has_weights_of_its_own():
    begin = {"w": torch.zeros(1), "count": torch.tensor(0)}
    steps = MeanStep(begin, ())
    steps.add(reply({"w": torch.ones(1), "count": torch.tensor(10)}), 1.0, plain=3)
    steps.add(reply({"w": torch.zeros(1), "count": torch.tensor(20)}), 1.0, plain=7)
    mean, others = steps.finish()
    assert mean["w"].item() == 0.5
    assert others["count"] == 17


def test_a_parameter_that_no_node_moved_has_a_step_of_exactly_0():
    frozen = {"w": torch.tensor([0.1, 1e-30, 3e30])}
    steps = MeanStep(frozen, ())
    for weight in (199, 172, 30, 85):
        assert steps.add(reply({"w": frozen["w"].clone()}), weight) == 0
    assert steps.finish()[0]["w"].tolist() == [0, 0, 0]


def test_the_next_model_is_rounded_once():
    begin = {"w": torch.tensor([1.0], dtype=torch.float16), "count": torch.tensor(3)}
    steps = MeanStep(begin, ())
    # 1 + 0.0004 is 1 in float16; the step is not rounded before it is doubled.
    step = {"w": torch.tensor([4e-4], dtype=torch.float64)}
    assert steps.moved(step.items(), {"count": torch.tensor(5)})["w"].item() == 1
    got = steps.moved([("w", 2 * step["w"])], {"count": torch.tensor(5)})
    assert (list(got), got["w"].dtype, got["w"].item()) == (["w", "count"], torch.float16, 1 + 2**-10)


def test_chunks_change_nothing_but_the_last_bits_of_lengths(monkeypatch):
    begin, *sent = random_models(4, torch.float64)

    def all_of_it():
        steps = MeanStep(begin, ())
        lengths = [steps.add(reply(update), 3) for update in sent]
        mean, _ = steps.finish()
        return mean["w"], [*lengths, squared_length(mean)]

    mean, lengths = all_of_it()
    for chunk in (1, 6, 35):
        monkeypatch.setattr(mean_step, "_CHUNK", chunk)
        got, got_lengths = all_of_it()
        assert torch.equal(got, mean)
        assert got_lengths == pytest.approx(lengths, rel=1e-13)


def test_an_update_that_does_not_fit_leaves_nothing():
    begin, good, bad = random_models(3)
    bad["count"] = bad["count"].float()
    steps, plain = MeanStep(begin, ()), MeanStep(begin, ())
    with pytest.raises(AggregationError, match=r"node va sent tensor 'count' as torch\.float32"):
        steps.add(reply(bad), 5)
    for one in (steps, plain):
        one.add(reply(good), 2)
    (got, got_others), (expected, expected_others) = steps.finish(), plain.finish()
    assert torch.equal(got["w"], expected["w"])
    assert got_others == expected_others


@pytest.mark.parametrize("begin", [{"w": torch.zeros(1)}, {"n": torch.tensor(1)}, {}], ids=["w", "n", "none"])
def test_a_round_without_updates(begin):
    with pytest.raises(AggregationError, match="no node contributed a sample in this round"):
        MeanStep(begin, ()).finish()
