from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.datasets.splitting import METHODS, deal_out, sizes_of
from polyclinic.errors import ConfigError, DatasetError


def dealt(method, train, test, num_centers, *, alpha=0.5, seed=0):
    keys = [np.asarray(train), np.asarray(test)]
    return deal_out(method, keys, num_centers, alpha=alpha, rng=np.random.default_rng(seed))


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    train=st.lists(st.integers(0, 5), min_size=4, max_size=60),
    test=st.lists(st.integers(0, 7), min_size=4, max_size=30),
    num_centers=st.integers(2, 4),
    alpha=st.sampled_from([1e-12, 1e-3, 0.1, 0.5, 10, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_in_one_center_and_every_center_has_some(method, train, test, num_centers, alpha, seed):
    parts = dealt(method, train, test, num_centers, alpha=alpha, seed=seed)
    for part, keys in zip(parts, (train, test), strict=True):
        assert len(part) == len(keys)
        assert set(part.tolist()) == set(range(num_centers))
    again = dealt(method, train, test, num_centers, alpha=alpha, seed=seed)
    assert all((one == two).all() for one, two in zip(parts, again, strict=True))


@pytest.mark.parametrize("method", ["dirichlet", "label", "feature"])
def test_sizes_are_even(method):
    rng = np.random.default_rng(0)
    train, _ = dealt(method, rng.integers(0, 3, 103), rng.integers(0, 3, 50), 5)
    assert sorted(np.bincount(train)) == [20, 20, 21, 21, 21]


def test_linear_sizes_rise_in_proportion():
    train, test = dealt("linear", np.zeros(1000), np.zeros(100), 4)
    assert np.bincount(train).tolist() == pytest.approx([100, 200, 300, 400], abs=2)
    assert np.bincount(test).tolist() == pytest.approx([10, 20, 30, 40], abs=2)
    # At random, not in the order of the table.
    assert train[:100].max() == 3


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=20), st.integers(0, 500))
def test_sizes_add_up_and_are_near_the_shares(shares, more):
    shares = np.array(shares)
    sizes = sizes_of(shares, len(shares) + more)
    assert sizes.sum() == len(shares) + more
    assert sizes.min() >= 1
    assert (np.abs(sizes - 1 - shares / shares.sum() * more) < 1 + 1e-6).all()


def test_quantity_is_uneven_for_a_small_alpha_and_even_for_a_large_one():
    few, many = (np.bincount(dealt("quantity", np.zeros(1000), np.zeros(99), 5, alpha=a)[0]) for a in (0.1, 1e5))
    assert few.max() > 500
    assert many.min() > 190


def test_dirichlet_goes_from_single_classes_to_the_mixture_of_all():
    train, test = np.repeat([0, 1, 2], [1800, 900, 300]), np.repeat([0, 1, 2], [540, 270, 90])

    def mixtures(alpha):
        parts = dealt("dirichlet", train, test, 5, alpha=alpha, seed=3)
        counts = [
            np.stack([np.bincount(k[p == c], minlength=3) for c in range(5)])
            for p, k in zip(parts, (train, test), strict=True)
        ]
        return [count / count.sum(axis=1, keepdims=True) for count in counts]

    even_train, even_test = mixtures(1e6)
    np.testing.assert_allclose(even_train, [[0.6, 0.3, 0.1]] * 5, atol=0.01)
    np.testing.assert_allclose(even_test, [[0.6, 0.3, 0.1]] * 5, atol=0.02)
    odd_train, odd_test = mixtures(1e-4)
    # The first center has one class, the same for both parts; who comes later takes what is left.
    assert odd_train[0].max() == odd_test[0].max() == 1
    assert odd_train[0].argmax() == odd_test[0].argmax()


def test_the_variance_of_a_mixture_is_that_of_dirichlet():
    # Of the first center, which draws from full pools: E q = p, var q = p (1 - p) / (alpha + 1).
    labels = np.repeat([0, 1], [700, 300])
    shares = []
    for seed in range(300):
        train, _ = dealt("dirichlet", labels, labels, 10, alpha=2.0, seed=seed)
        shares.append(labels[train == 0].mean())
    assert np.mean(shares) == pytest.approx(0.3, abs=0.04)
    assert np.var(shares) == pytest.approx(0.3 * 0.7 / 3, rel=0.2)


def test_label_gives_each_center_few_classes_and_feature_gives_ranges():
    labels = np.repeat(np.arange(10), 20)
    train, _ = dealt("label", labels, labels, 5)
    assert [sorted(set(labels[train == k])) for k in range(5)] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    values = np.random.default_rng(0).normal(size=100)
    train, _ = dealt("feature", values, values[:20], 4)
    ranges = [(values[train == k].min(), values[train == k].max()) for k in range(4)]
    assert all(one[1] < two[0] for one, two in itertools.pairwise(ranges))


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"method": "dirichlett"}, ConfigError, r"no method 'dirichlett'"),
        ({"num_centers": 1}, ConfigError, "cannot split into 1 centers"),
        ({"alpha": 0.0}, ConfigError, "alpha must be above 0 and finite, got 0.0"),
        ({"alpha": float("nan")}, ConfigError, "alpha must be above 0"),
        ({"num_centers": 9}, DatasetError, r"8 test samples cannot be split into 9 centers with one each"),
    ],
)
def test_what_cannot_be_is_refused(change, error, why):
    given = {"method": "dirichlet", "train": np.zeros(20), "test": np.zeros(8), "num_centers": 3, "alpha": 0.5} | change
    with pytest.raises(error, match=why):
        dealt(given["method"], given["train"], given["test"], given["num_centers"], alpha=given["alpha"])
