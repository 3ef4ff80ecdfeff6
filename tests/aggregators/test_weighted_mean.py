import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.aggregators import weighted_mean
from polyclinic.aggregators.weighted_mean import WeightedMean
from polyclinic.errors import AggregationError

FAST = settings(max_examples=60, deadline=None)


def mean_of(begin, updates, weights):
    mean = WeightedMean(begin)
    for number, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        mean.add(f"node-{number}", update, weight)
    return mean.finish()


def random_model(rng, dtype=torch.float32, scale=1.0):
    shapes = {"w": (3, 5), "b": (5,), "scalar": (), "empty": (0, 2)}
    return {
        name: torch.from_numpy(np.asarray(scale * rng.standard_normal(shape))).to(dtype)
        for name, shape in shapes.items()
    }


rounds = st.tuples(
    st.integers(0, 2**32), st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.sampled_from([1e-20, 1.0, 1e20])
)


@FAST
@given(rounds)
def test_the_mean_is_numpys_in_float64(drawn):
    seed, weights, scale = drawn
    rng = np.random.default_rng(seed)
    begin = random_model(rng, torch.float64, scale)
    updates = [random_model(rng, torch.float64, scale) for _ in weights]
    got = mean_of(begin, updates, weights)
    for name in begin:
        expected = np.average([update[name].numpy() for update in updates], axis=0, weights=weights)
        assert (got[name].dtype, got[name].shape) == (torch.float64, begin[name].shape)
        np.testing.assert_allclose(got[name].numpy(), expected, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2**-24), (torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@FAST
@given(drawn=rounds.map(lambda drawn: (*drawn[:2], 1.0)))
def test_small_floats_are_summed_in_float64_and_rounded_at_the_end(dtype, eps, drawn):
    seed, weights, scale = drawn
    rng = np.random.default_rng(seed)
    begin, updates = random_model(rng, dtype), [random_model(rng, dtype, scale) for _ in weights]
    got = mean_of(begin, updates, weights)
    for name in begin:
        assert got[name].dtype == dtype
        expected = np.average([update[name].double().numpy() for update in updates], axis=0, weights=weights)
        # Half a unit in the last place; torch goes by way of float32 to the two small ones, hence a little more.
        np.testing.assert_allclose(got[name].double().numpy(), expected, rtol=1.01 * eps, atol=2**-24)


def test_a_sum_that_would_overflow_in_its_own_dtype():
    sixty_thousand = {"w": torch.tensor([60_000.0], dtype=torch.float16)}
    assert mean_of(sixty_thousand, [sixty_thousand] * 3, [1000, 2000, 3000])["w"].item() == 60_000


def test_small_parts_are_not_lost_in_float32():
    ones, tiny = {"w": torch.ones(1)}, {"w": torch.full((1,), 1e-9)}
    updates = [ones, *[tiny] * 1000]
    got = mean_of(ones, updates, [1] * 1001)["w"].item()
    assert got == np.float32((1 + 1000 * np.float64(np.float32(1e-9))) / 1001)


@FAST
@given(rounds, st.randoms(use_true_random=False))
def test_the_same_order_gives_the_same_bits_and_another_order_nearly(drawn, random):
    seed, weights, scale = drawn
    rng = np.random.default_rng(seed)
    begin = random_model(rng, torch.float64, scale)
    updates = [random_model(rng, torch.float64, scale) for _ in weights]
    one = mean_of(begin, updates, weights)
    other = mean_of(begin, [{n: t.clone() for n, t in update.items()} for update in updates], weights)
    assert all(torch.equal(one[name], other[name]) for name in begin)
    order = random.sample(range(len(weights)), len(weights))
    shuffled = mean_of(begin, [updates[k] for k in order], [weights[k] for k in order])
    for name in begin:
        torch.testing.assert_close(shuffled[name], one[name], rtol=1e-12, atol=1e-12 * scale)


# ---- counters and masks

INTEGERS = [
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("end", ["min", "max", "middle"])
def test_a_counter_that_all_agree_on_is_exact(dtype, end):
    info = torch.iinfo(dtype)
    value = {"min": info.min, "max": info.max, "middle": info.max // 3}[end]
    agreed = {"n": torch.tensor(value, dtype=dtype)}
    # Sums are of differences from the beginning, in float64: exact up to 2^53.
    for begin in {value, 0 if abs(value) <= 2**53 else value}:
        got = mean_of({"n": torch.tensor(begin, dtype=dtype)}, [agreed] * 3, [199, 172, 30])["n"]
        assert (got.dtype, got.item()) == (dtype, value)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**40), 2**40), st.lists(st.integers(1, 10**6), min_size=1))
def test_agreeing_counters_beyond_2_to_53(begin, steps, weights):
    agreed = {"n": torch.tensor([begin + steps])}
    assert mean_of({"n": torch.tensor([begin])}, [agreed] * len(weights), weights)["n"].tolist() == [begin + steps]


def test_counters_that_differ_are_averaged_and_rounded():
    begin = {"n": torch.tensor([10, -10])}
    updates = [{"n": torch.tensor([12, -12])}, {"n": torch.tensor([13, -13])}]
    assert mean_of(begin, updates, [1, 2])["n"].tolist() == [13, -13]
    assert mean_of(begin, updates, [2, 1])["n"].tolist() == [12, -12]


def test_booleans_go_by_the_majority_of_samples_and_a_tie_changes_nothing():
    begin = {"m": torch.tensor([False, False, False, True, True])}
    one = {"m": torch.tensor([True, True, False, True, False])}
    other = {"m": torch.tensor([True, False, False, False, False])}
    assert mean_of(begin, [one, other], [3, 2])["m"].tolist() == [True, True, False, True, False]
    assert mean_of(begin, [one, other], [2, 3])["m"].tolist() == [True, False, False, False, False]
    assert mean_of(begin, [one, other], [1, 1])["m"].tolist() == [True, False, False, True, False]


# ---- chunks and memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str)
def test_chunks_change_no_bit(monkeypatch, dtype):
    rng = np.random.default_rng(0)

    def model():
        return {"w": torch.from_numpy(1000 * rng.standard_normal((7, 143))).to(dtype).t()}

    begin, updates, weights = model(), [model() for _ in range(3)], [199, 172, 30]
    whole = mean_of(begin, updates, weights)["w"]
    for chunk in (1, 7, 1000, 1001):
        monkeypatch.setattr(weighted_mean, "_CHUNK", chunk)
        assert torch.equal(mean_of(begin, updates, weights)["w"], whole)


def test_the_model_and_the_updates_are_left_alone():
    begin, update = {"w": torch.zeros(3)}, {"w": torch.ones(3, requires_grad=True)}
    got = mean_of(begin, [update], [2])
    got["w"].fill_(7)
    assert begin["w"].tolist() == [0, 0, 0]
    assert update["w"].tolist() == [1, 1, 1]
    assert not got["w"].requires_grad


def test_tensors_that_are_not_contiguous():
    begin = {"w": torch.zeros(2, 3)}
    update = {"w": torch.arange(6.0).reshape(3, 2).t()}
    assert mean_of(begin, [update], [1])["w"].tolist() == [[0, 2, 4], [1, 3, 5]]


PEAK = """
import resource, torch
from polyclinic.aggregators.weighted_mean import WeightedMean

model = {"w": torch.ones(1 << 24)}
mean = WeightedMean(model)
mean._sums["w"].add_(1)  # so that the accumulator's pages are there
small = WeightedMean({"w": torch.ones(1 << 20)})
small.add("first", {"w": torch.ones(1 << 20)}, 3)  # so that the threads are there
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mean.add("va", model, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux only")
def test_adding_a_model_of_64_mb_takes_a_few_mb():
    """Torch alone would make a float64 copy of the tensor: 128 MB."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, check=True, text=True)
    assert int(done.stdout) < 16


# ---- what does not fit


def model():
    return {"w": torch.zeros(2, 3), "n": torch.tensor(0)}


@pytest.mark.parametrize(
    ("update", "text"),
    [
        ({"w": torch.ones(2, 3)}, "node va sent other tensors than the model has: n"),
        ({**model(), "extra": torch.ones(1)}, "node va sent other tensors than the model has: extra"),
        ({}, "node va sent other tensors than the model has: n, w"),
        (
            {**model(), "w": torch.ones(3, 2)},
            "node va sent tensor 'w' as torch.float32 (3, 2), the model has torch.float32 (2, 3)",
        ),
        (
            {**model(), "n": torch.tensor([1])},
            "node va sent tensor 'n' as torch.int64 (1,), the model has torch.int64 ()",
        ),
        (
            {**model(), "w": torch.ones(2, 3, dtype=torch.float64)},
            "node va sent tensor 'w' as torch.float64 (2, 3), the model has torch.float32 (2, 3)",
        ),
    ],
)
def test_an_update_that_does_not_fit_is_named_and_nothing_of_it_is_added(update, text):
    mean = WeightedMean(model())
    good = {"w": torch.full((2, 3), 5.0), "n": torch.tensor(4)}
    mean.add("cleveland", good, 2)
    with pytest.raises(AggregationError) as caught:
        mean.add("va", update, 100)
    assert caught.value.what == text
    assert caught.value.to_do == "the plan must build the same model at every node"
    got = mean.finish()
    assert torch.equal(got["w"], good["w"])
    assert got["n"] == 4


def test_a_round_without_updates():
    with pytest.raises(AggregationError, match="no node contributed a sample in this round"):
        WeightedMean(model()).finish()
