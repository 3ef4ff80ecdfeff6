import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.aggregators.arithmetic import check_fits, flat, unflat
from polyclinic.errors import AggregationError


def there_and_back(values, begin):
    return unflat(flat(values, begin).double(), begin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_floats_come_back_as_they_were(dtype):
    values = torch.tensor([[1.5, -2.25, 0.1], [float("inf"), 1e-7, -0.0]], dtype=dtype)
    got = there_and_back(values, torch.zeros(2, 3, dtype=dtype))
    assert got.dtype == dtype
    assert torch.equal(got, values)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.uint64, torch.bool], ids=str)
def test_integers_come_back_even_where_float64_has_gaps(dtype):
    high = 1 if dtype == torch.bool else torch.iinfo(dtype).max
    begin = torch.tensor([[high - 1], [0]], dtype=dtype)
    values = torch.tensor([[high], [1]], dtype=dtype)
    got = there_and_back(values, begin)
    assert (got.dtype, got.tolist()) == (dtype, values.tolist())


@settings(deadline=None)
@given(st.integers(-(2**62), 2**62), st.integers(-(2**50), 2**50))
def test_differences_of_large_counters_are_exact(begin, step):
    assert there_and_back(torch.tensor(begin + step), torch.tensor(begin)) == begin + step


def test_integers_are_rounded_ties_to_even():
    begin = torch.tensor([10, 10, 10, 10])
    assert unflat(torch.tensor([0.5, 1.5, -0.5, 2.6], dtype=torch.float64), begin).tolist() == [10, 12, 10, 13]


def test_tensors_that_fit():
    begin = {"w": torch.zeros(2), "n": torch.tensor(0)}
    check_fits("va", {"n": torch.tensor(4), "w": torch.ones(2)}, begin)
    with pytest.raises(AggregationError, match="node va sent other tensors than the model has: a, n"):
        check_fits("va", {"a": torch.tensor(4), "w": torch.ones(2)}, begin)
