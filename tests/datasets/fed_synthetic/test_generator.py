"""The generator against what its text says: exact counts, and moments within ten standard errors, with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polyclinic.datasets.fed_synthetic import Options, synthetic_data
from polyclinic.errors import ConfigError


def sizes(**options):
    return [len(y) for _, y in synthetic_data(Options(**options))]


def equal(one, other):
    return all(np.array_equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def test_the_default_set_is_four_equal_centers_of_three_classes():
    centers = synthetic_data(Options())
    assert [x.shape for x, _ in centers] == [(250, 10)] * 4
    for _, y in centers:
        assert np.unique(y, return_counts=True)[1].tolist() == [84, 83, 83]


def test_the_seed_is_honoured_and_in_compatible_mode_it_is_not():
    one, same, other = (synthetic_data(Options(seed=seed)) for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)
    assert equal(*(synthetic_data(Options(seed=seed, flamby_compatible=True)) for seed in (1, 2)))
    assert equal(synthetic_data(Options()), synthetic_data(Options(flamby_compatible=True)))


def test_the_global_generator_is_left_alone():
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic_data(Options())
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


# ---- sizes


def test_equal_sizes_give_the_remainder_to_the_first_centers():
    assert sizes(n_centers=6, n_samples=1000) == [167, 167, 167, 167, 166, 166]


def test_a_list_of_shares_is_a_multinomial():
    n, shares = 20_000, np.array([3.0, 1.0, 4.0])
    found = np.array(sizes(n_centers=3, n_samples=n, n_features=1, sample_repartition=shares.tolist()))
    p = shares / shares.sum()
    assert found.sum() == n
    assert (np.abs(found - n * p) < 10 * np.sqrt(n * p * (1 - p))).all()


@pytest.mark.parametrize("exponent", [2, 3.0])
def test_a_power_law_after_five_samples_for_each(exponent):
    n = 20_000
    found = np.array(sizes(n_centers=5, n_samples=n, n_features=1, sample_repartition=exponent))
    weights = np.array([1, 2, 3, 4, 5]) ** (1.0 - exponent)
    p, rest = weights / weights.sum(), n - 25
    assert found.sum() == n
    assert (np.abs(found - 5 - rest * p) < 10 * np.sqrt(rest * p * (1 - p))).all()


def test_a_steep_power_law_leaves_five_samples_for_the_last():
    assert sizes(n_centers=4, n_samples=100, sample_repartition=60.0) == [85, 5, 5, 5]


# ---- classes


def class_means(x, y):
    return np.stack([x[y[:, 0] == label].mean(axis=0) for label in np.unique(y)])


def test_classes_lie_around_points_of_the_unit_sphere_that_all_centers_share():
    centers = synthetic_data(Options(n_centers=2, n_samples=60_000))
    error = 10 * math.sqrt(0.1 / 3 / 10_000)
    first, second = (class_means(*center) for center in centers)
    assert np.abs(first - second).max() < 2 * error
    assert np.abs(np.linalg.norm(first, axis=1) - 1).max() < error * math.sqrt(10)


@pytest.mark.parametrize("noise", [None, [1.0, 10.0]])
def test_the_variance_within_a_class_is_a_tenth_over_the_signal_to_noise_ratio(noise):
    for center, (x, y) in enumerate(synthetic_data(Options(n_centers=2, n_samples=30_000, noise_heterogeneity=noise))):
        residuals = x - class_means(x, y)[y[:, 0].astype(int)]
        expected = 0.1 / (3.0 if noise is None else noise[center])
        # The variance of 150 000 normal numbers is known to 0.4 %.
        assert residuals.var() == pytest.approx(expected, rel=0.04)
        assert np.abs(np.corrcoef(residuals.T) - np.eye(10)).max() < 10 / math.sqrt(15_000)


def shifts(**options):
    """(centers, classes, features) the classes' means at each center, less those without heterogeneity."""
    base = {"n_centers": 6, "n_samples": 180_000, "n_features": 4, "snr": 30.0} | options
    means = np.stack([class_means(*center) for center in synthetic_data(Options(**base))])
    plain = np.stack([class_means(*c) for c in synthetic_data(Options(**base | {"features_heterogeneity": None}))])
    return means - plain.mean(axis=0)


def test_shifts_are_uniform_and_do_not_add_up_over_centers():
    found = shifts(features_heterogeneity=0.5)
    error = 10 * math.sqrt(0.1 / 30 / 10_000)
    assert found.min() > -error
    assert found.max() < 0.5 + error
    # 72 draws from [0, 0.5]: the mean's standard error is 0.5 / sqrt(12 * 72).
    assert found.mean() == pytest.approx(0.25, abs=10 * 0.5 / math.sqrt(12 * 72))
    # The last three centers are shifted as much as the first three.
    assert abs(found[3:].mean() - found[:3].mean()) < 0.2


def test_as_in_flamby_shifts_add_up_over_centers():
    found = shifts(features_heterogeneity=0.5, flamby_compatible=True)
    steps = np.diff(found, axis=0)
    assert steps.min() > -0.02
    assert found[-1].mean() > 4 * 0.25


def test_labels_are_shared_out_by_dirichlet():
    counts = []
    for seed in range(20):
        drawn = synthetic_data(Options(n_centers=20, n_samples=4000, n_features=1, seed=seed, label_heterogeneity=2.0))
        counts += [np.bincount(y[:, 0].astype(int), minlength=3) for _, y in drawn]
    counts = np.array(counts)
    assert (counts.sum(axis=1) == 200).all()
    shares = counts / 200
    # Dirichlet(2, 2, 2): mean 1/3, variance (1/3)(2/3)/7 = 0.0317; 400 draws give it to some 7 %.
    assert shares.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=10 * math.sqrt(0.0317 / 400))
    assert shares.var(axis=0) == pytest.approx([0.0317] * 3, rel=0.5)


def test_a_small_concentration_gives_each_center_mostly_one_class_and_a_large_one_all():
    def largest(concentration):
        drawn = synthetic_data(Options(n_centers=20, n_samples=4000, n_features=1, label_heterogeneity=concentration))
        return [np.bincount(y[:, 0].astype(int)).max() / len(y) for _, y in drawn]

    assert np.median(largest(0.01)) > 0.95
    assert max(largest(1e6)) < 0.36


# ---- regression


def test_a_regression_has_the_signal_to_noise_ratio_asked_for():
    noise = [1.0, 3.0, 50.0]
    drawn = synthetic_data(
        Options(n_centers=3, n_samples=60_000, n_features=5, classification=False, noise_heterogeneity=noise)
    )
    weights = np.linalg.lstsq(*map(np.concatenate, zip(*drawn, strict=True)), rcond=None)[0]
    assert (weights > 0).all()  # log-normal
    for (x, y), snr in zip(drawn, noise, strict=True):
        own = np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.mean((x @ own) ** 2) / np.mean((y - x @ own) ** 2) == pytest.approx(snr, rel=0.2)
        assert own == pytest.approx(weights, abs=0.3)  # one model for all centers
        assert x.std(axis=0) == pytest.approx(np.ones(5), rel=0.06)


def test_the_features_of_a_regression_are_shifted_center_by_center():
    drawn = synthetic_data(
        Options(n_centers=8, n_samples=80_000, n_features=3, classification=False, features_heterogeneity=4.0)
    )
    means = np.stack([x.mean(axis=0) for x, _ in drawn])
    assert means.min() > -0.1
    assert means.max() < 4.1
    assert means.std() == pytest.approx(4 / math.sqrt(12), rel=0.5)


# ---- as FLamby draws


def test_compatible_draws_are_those_of_the_described_recipe():
    """The order of draws, with numpy's multivariate normal where ours scales standard normal numbers."""
    options = Options(
        n_centers=3, n_samples=60, n_features=4, seed=7, sample_repartition=[1.0, 2.0, 3.0], flamby_compatible=True,
        features_heterogeneity=0.7, label_heterogeneity=0.9, noise_heterogeneity=[1.0, 2.0, 3.0],
    )  # fmt: skip
    rng = np.random.default_rng(42)
    where = rng.choice(3, size=60, replace=True, p=np.array([1, 2, 3]) / 6)
    columns = rng.normal(size=[4, 3])
    columns = columns / np.linalg.norm(columns, ord=2, axis=0).reshape(1, -1)
    shares = [rng.dirichlet([0.9] * 3) for _ in range(3)]
    for center, (x, y) in enumerate(synthetic_data(options)):
        n = int((where == center).sum())
        counts = np.floor(shares[center] * n)
        counts += np.arange(3) < n - counts.sum()
        expected = []
        for label in range(3):
            columns[:, label] += 0.7 * rng.random(4)
            covariance = np.eye(4) * 0.1 / (center + 1.0)
            expected.append(rng.multivariate_normal(columns[:, label], covariance, size=int(counts[label])))
        np.testing.assert_allclose(x, np.concatenate(expected), rtol=0, atol=1e-12)
        assert np.bincount(y[:, 0].astype(int), minlength=3).tolist() == counts.tolist()


def test_a_compatible_regression_is_drawn_in_the_described_order():
    options = Options(
        n_centers=2,
        n_samples=21,
        n_features=3,
        classification=False,
        features_heterogeneity=2.0,
        flamby_compatible=True,
    )
    rng = np.random.default_rng(42)
    offsets = rng.random((2, 3)) * 2.0
    weights = rng.lognormal(sigma=1, size=3)
    for center, (x, y) in enumerate(synthetic_data(options)):
        n = (11, 10)[center]
        expected = rng.multivariate_normal(mean=offsets[center], cov=np.eye(3), size=n)
        signal = expected @ weights
        target = signal + rng.normal(scale=np.sqrt(np.mean(signal**2) / 3), size=n)
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(y[:, 0], target, rtol=0, atol=1e-12)


# ---- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_centers": 0}, "n_centers must be a whole number of at least 1, not 0"),
        ({"n_samples": 1e3}, "n_samples must be a whole number of at least 1, not 1000.0"),
        ({"n_samples": 7}, "7 samples are too few for 4 centers"),
        ({"n_clusters": 1}, "n_clusters must be a whole number of at least 2"),
        ({"snr": 0.0}, "snr must be above 0"),
        ({"snr": math.nan}, "snr must be above 0"),
        ({"features_heterogeneity": -1.0}, "features_heterogeneity must be at least 0"),
        ({"label_heterogeneity": 0.0}, "label_heterogeneity must be above 0"),
        ({"label_heterogeneity": 1.0, "classification": False}, "a regression has no classes to share out"),
        ({"sample_repartition": 1.0}, "must be above 1, not 1.0"),
        ({"sample_repartition": [1.0, 2.0]}, "sample_repartition must be a list of 4 numbers"),
        ({"sample_repartition": [0.0] * 4}, "are all 0"),
        ({"sample_repartition": [1.0, 1.0, 1.0, 0.0]}, "center 3 would get 0 samples"),
        ({"sample_repartition": 2.0, "n_samples": 19}, "19 samples are too few for 4 centers of at least 5"),
        ({"noise_heterogeneity": 2.0}, "noise_heterogeneity must be a list of 4 numbers"),
        ({"noise_heterogeneity": [1.0, 1.0, 0.0, 1.0]}, "noise_heterogeneity must be above 0"),
        ({"noise_heterogeneity": [1.0] * 4, "snr": 2.0}, "snr and noise_heterogeneity were both given"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        synthetic_data(Options(**options))
    assert caught.value.to_do
