import math

import pytest
from scipy import stats

from polyclinic.benchmark.over_seeds import over_seeds, read_results
from polyclinic.errors import ConfigError

FED = (0.70, 0.72, 0.74, 0.76, 0.78)


def arm(results, method, dataset=-1):
    (found,) = [arm for arm in results.datasets[dataset].arms if arm.method == method]
    return found


def test_mean_and_interval_by_hand():
    """s² = 0.001, t(0.975, 4) = 2.776445: 0.74 ± 2.776445 · √(0.001 / 5) = 0.74 ± 0.039265."""
    result = over_seeds(dict(enumerate(FED)))
    assert result.n == 5
    assert (result.mean, result.low, result.high) == pytest.approx((0.74, 0.700735, 0.779265), abs=1e-6)
    theirs = stats.t.interval(0.95, 4, loc=0.74, scale=math.sqrt(0.001 / 5))
    assert (result.low, result.high) == pytest.approx(theirs)


def test_two_seeds_have_a_wide_interval_and_one_has_none():
    """t(0.975, 1) = 12.7062; the half width of 0.4 and 0.6 is that times 0.1."""
    two, one = over_seeds({1: 0.4, 2: 0.6}), over_seeds({1: 0.4, 2: math.nan})
    assert (two.low, two.high) == pytest.approx((0.5 - 1.27062, 0.5 + 1.27062), abs=1e-5)
    assert one.values == {1: 0.4}
    assert (one.mean, math.isnan(one.low), math.isnan(one.high)) == (0.4, True, True)


def test_without_a_value_there_is_no_mean():
    result = over_seeds({1: math.nan, 2: math.inf})
    assert (result.n, math.isnan(result.mean), math.isnan(result.low)) == (0, True, True)


def test_results_of_a_file(full):
    results = read_results([full])
    assert results.protocol == "flamby"
    assert [dataset.name for dataset in results.datasets] == ["fed_camelyon16", "fed_heart_disease"]
    heart = results.datasets[1]
    assert heart.centers == ("Cleveland", "Hungary")
    assert heart.tests == ("Cleveland", "Hungary", "mean", "pooled")
    assert heart.metrics == ("accuracy",)
    labels = ["Pooled", "Local Cleveland", "Local Hungary", "FedAverage", "FedProx", "FedYogi", "Zeta & Co"]
    assert [a.label for a in heart.arms] == labels
    assert [a.label for a in heart.strategies] == labels[3:]
    average = arm(results, "FedAverage").result("pooled", "accuracy")
    assert average.values == dict(zip(range(42, 47), FED, strict=True))
    assert arm(results, "FedAverage").result("Hungary", "accuracy").mean == pytest.approx(0.64)


def test_runs_that_did_not_finish_are_counted_and_not_averaged(full):
    yogi = arm(read_results([full]), "FedYogi")
    assert yogi.statuses == {"done": 2, "diverged": 3}
    assert yogi.result("pooled", "accuracy").values == {42: 0.70, 43: 0.72}
    prox = arm(read_results([full]), "FedProx")
    assert prox.statuses == {"failed": 5}
    assert prox.result("pooled", "accuracy").n == 0


def test_a_diverged_run_is_not_averaged_even_if_it_has_a_figure(cell, write):
    done, diverged = cell("FedAverage", 1, {"pooled": 0.8}), cell("FedAverage", 2, {"pooled": 0.1}, status="diverged")
    (dataset,) = read_results([write(done, diverged)]).datasets
    assert dataset.arms[0].result("pooled", "accuracy").values == {1: 0.8}
    assert [value for _, _, value in dataset.arms[0].curve("pooled", "accuracy")] == [0.4, 0.8]


def test_a_comparison_is_paired_by_seed(full):
    """Differences 0.02 four times and 0.07: mean 0.03, variance 0.0005, half width 2.776445 · 0.01."""
    heart = read_results([full]).datasets[1]
    pooled, average = heart.arms[0], arm(read_results([full]), "FedAverage")
    assert heart.pooled_for(average) == pooled
    difference = average.against(pooled, "pooled", "accuracy")
    assert (difference.n, difference.mean) == (5, pytest.approx(0.03))
    assert (difference.low, difference.high) == pytest.approx((0.03 - 0.0277645, 0.03 + 0.0277645), abs=1e-6)
    assert arm(read_results([full]), "FedYogi").against(pooled, "pooled", "accuracy").values == pytest.approx(
        {42: 0.02, 43: 0.02}
    )


def test_curves_are_means_over_the_same_seeds(cell, write):
    """A round that one of two runs has not reached is left out: the mean would jump."""
    long = cell("FedAverage", 1, {"pooled": 0.8}, rounds=(1, 2, 3))
    short = cell("FedAverage", 2, {"pooled": 0.6}, rounds=(1, 2), bytes_a_round=3000)
    (dataset,) = read_results([write(long, short)]).datasets
    assert dataset.arms[0].curve("pooled", "accuracy") == [(1, 2000, pytest.approx(0.35)), (2, 4000, 0.5)]


def test_a_result_of_an_earlier_round_counts_once(cell, write):
    """Seed 1: the result is that of round 1. Mean of 0.4 and 0.2, not of 0.4, 0.4 and 0.2."""
    early = cell("FedAverage", 1, {"pooled": 0.8})
    early = [row.model_copy(update={"final": False, "rows": 3}) for row in early]
    early.append(early[0].model_copy(update={"final": True}))
    (dataset,) = read_results([write(early, cell("FedAverage", 2, {"pooled": 0.4}))]).datasets
    assert [value for _, _, value in dataset.arms[0].curve("pooled", "accuracy")] == pytest.approx([0.3, 0.6])
    assert dataset.arms[0].result("pooled", "accuracy").values == {1: 0.4, 2: 0.4}


def test_the_curve_of_a_method_that_always_diverged_is_what_there_is(cell, write):
    rows = cell("FedAverage", 1, {"pooled": 0.8}, rounds=(1, 2), status="diverged", metric="")
    rows = [row.model_copy(update={"final": False}) for row in rows]
    (dataset,) = read_results([write(rows)]).datasets
    assert [point[0] for point in dataset.arms[0].curve("pooled", "accuracy")] == [1, 2]
    assert dataset.arms[0].result("pooled", "accuracy").n == 0


def test_one_method_with_several_configurations(cell, write):
    cells = [
        cell("FedProx", seed, {"pooled": 0.5 + mu}, settings=f'{{"mu": {mu}, "lr": 1}}')
        for seed in (1, 2)
        for mu in (0.1, 0.2)
    ]
    other = cell("FedAverage", 1, {"pooled": 0.4})
    (dataset,) = read_results([write(*cells, other)]).datasets
    assert [arm.label for arm in dataset.arms] == ["FedAverage", "FedProx (mu=0.1)", "FedProx (mu=0.2)"]
    assert [arm.result("pooled", "accuracy").mean for arm in dataset.arms] == pytest.approx([0.4, 0.6, 0.7])
    assert dataset.arms[1].configuration == {"num_updates": "100", "mu": "0.1", "lr": "1"}


def test_configurations_with_long_names_are_numbered(cell, write):
    cells = [cell("FedProx", 1, {"pooled": 0.5}, configuration=f'{{"a_very_long_name": "{k * 40}"}}') for k in "ab"]
    (dataset,) = read_results([write(*cells)]).datasets
    assert [arm.label for arm in dataset.arms] == ["FedProx (configuration 1)", "FedProx (configuration 2)"]


def test_settings_that_are_no_json_are_kept_as_they_are(cell, write):
    (dataset,) = read_results([write(cell("FedProx", 1, {"pooled": 0.5}, settings="mu 3"))]).datasets
    assert dataset.arms[0].configuration["settings"] == "mu 3"


def test_pooled_is_taken_of_the_nearest_configuration(cell, write):
    cells = [
        cell(method, 1, {"pooled": value}, configuration=f'{{"features": "{features}"}}')
        for features, value in (("resnet", 0.5), ("phikon", 0.9))
        for method in ("Pooled", "FedAverage")
    ]
    (dataset,) = read_results([write(*cells)]).datasets
    for found in dataset.strategies:
        assert dataset.pooled_for(found).configuration == found.configuration


def test_a_run_in_several_files_counts_once(cell, write):
    old = write(cell("FedAverage", 1, {"pooled": 0.5}), name="old.csv")
    new = write(cell("FedAverage", 1, {"pooled": 0.6}, finished="2026-02-01T00:00:00.000+00:00"), name="new.csv")
    more = write(cell("FedAverage", 2, {"pooled": 0.8}), name="more.csv")
    for order in ([old, new, more], [new, more, old], [new, old, more, new]):
        (dataset,) = read_results(order).datasets
        assert dataset.arms[0].result("pooled", "accuracy").values == {1: 0.6, 2: 0.8}


def test_damaged_lines_are_left_out_and_told(full):
    text = full.read_text().splitlines()
    text[3] = text[3][:40]
    full.write_text("\n".join(text) + "\n")
    results = read_results([full])
    assert results.warnings == ("results.csv: 1 damaged lines are left out, all others are used",)
    assert sum(len(dataset.cells) for dataset in results.datasets) == 31  # of 32


def test_no_file():
    with pytest.raises(ConfigError, match="no results file was given"):
        read_results([])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*none\.csv"):
        read_results([tmp_path / "none.csv"])


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ConfigError, match=r"empty\.csv holds no complete result"):
        read_results([tmp_path / "empty.csv"])


def test_a_file_with_damage_only(full):
    head = full.read_text().splitlines()[0]
    full.write_text(head + "\nflamby,oh\n")
    with pytest.raises(ConfigError, match=r"no complete result \(results\.csv: 1 damaged lines"):
        read_results([full])


def test_another_file(tmp_path):
    (tmp_path / "other.csv").write_text("name,age\nx,3\n")
    with pytest.raises(ConfigError, match=r"other\.csv is no results file"):
        read_results([tmp_path / "other.csv"])


@pytest.mark.parametrize("names", [("a.csv", "a.csv"), ("a.csv", "b.csv")], ids=["in one file", "in two files"])
def test_two_protocols_are_not_mixed(cell, write, names):
    paths = [
        write(cell("FedAverage", 1, {"pooled": 0.5}, protocol=protocol), name=name)
        for protocol, name in zip(("flamby", "polyclinic"), names, strict=True)
    ]
    with pytest.raises(ConfigError) as caught:
        read_results(paths)
    assert f"'flamby' in {names[0]}; 'polyclinic' in {names[1]}" in str(caught.value)
    assert "make a report of each protocol by itself" in str(caught.value)
