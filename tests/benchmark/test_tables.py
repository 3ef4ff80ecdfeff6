import re
from html import unescape

import pytest

from polyclinic.benchmark import tables
from polyclinic.benchmark.over_seeds import over_seeds, read_results
from polyclinic.benchmark.published import PublishedValue


@pytest.fixture
def heart(full):
    return read_results([full]).datasets[1]


def cells(html):
    """A table's rows by their first cell."""
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html)
    return {unescape(name): [unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", rest)] for name, rest in rows}


def test_results_with_intervals_and_numbers_of_runs(heart):
    """FedYogi: 0.70 and 0.72, half width 12.7062 · 0.01."""
    found = cells(tables.result_table(heart, "accuracy"))
    assert found["FedAverage"] == ["5", "0", "0", "0.690 [0.651, 0.729] (5)", "0.740 [0.701, 0.779] (5)"]
    assert found["FedYogi"] == ["2", "3", "0", "0.660 [0.533, 0.787] (2)", "0.710 [0.583, 0.837] (2)"]
    assert found["FedProx"] == ["0", "0", "5", "none", "none"]
    assert found["Zeta & Co"] == ["1", "0", "0", "0.730 (1)", "0.780 (1)"]


def test_differences_from_pooled(heart):
    found = cells(tables.difference_table(heart, "accuracy"))
    assert "Pooled" not in found
    assert found["FedAverage"][1] == "+0.030 [+0.002, +0.058] (5)"
    assert found["FedProx"] == ["none", "none"]


def test_without_pooled_there_is_nothing_to_compare_with(cell, write):
    (dataset,) = read_results([write(cell("FedAverage", 1, {"pooled": 0.5}))]).datasets
    assert "There is no Pooled training" in tables.difference_table(dataset, "accuracy")


def test_published_values_and_how_far_one_is_from_them(heart):
    """Half width 2.776445 · 0.02 / √5 = 0.0248; 0.69 − 0.7 and 0.74 − 0.8."""
    published = [
        PublishedValue(
            dataset="fed_heart_disease", variant="", method=m, test=t, metric="accuracy", mean=mean, sd=0.02, n=5
        )
        for m in ("FedAverage", "FedProx")
        for t, mean in (("mean", 0.7), ("pooled", 0.8))
    ]
    found = cells(tables.published_table(heart, "accuracy", published))
    assert found["FedAverage"] == ["main", "0.700 [0.675, 0.725] (5)", "−0.010", "0.800 [0.775, 0.825] (5)", "−0.060"]
    assert found["FedProx"][2] == ""
    assert "None of these methods" in tables.published_table(heart, "accuracy", [])


def test_cost(heart):
    found = cells(tables.cost_table(heart))
    assert found["FedAverage"] == ["2", "2 kB", "1.5", "2 MB"]
    assert found["FedYogi"] == ["2", "200 kB", "1.5", "2 MB"]
    assert found["FedProx"] == ["", "", "", ""]
    assert found["Pooled"] == ["1", "", "1.5", "2 MB"]


def test_settings_that_are_shared_are_told_once(heart):
    found = cells(tables.configuration_table(heart))
    assert found == {"all methods": ["num_updates = 100"], "FedAverage": ["lr = 0.1"], "Zeta & Co": ["mu = <b>"]}


def test_every_unfinished_run_is_listed_with_its_reason(full):
    html = tables.unfinished_table(read_results([full]))
    assert html.count('<td class="detail">diverged</td>') == 3
    assert html.count('<td class="detail">failed</td>') == 5
    assert html.count("the loss &lt;is&gt; not finite") == 3
    assert html.count("no space left") == 5


def test_all_runs_finished(cell, write):
    results = read_results([write(cell("FedAverage", 1, {"pooled": 0.5}))])
    assert "None: every run came to its end" in tables.unfinished_table(results)


def test_versions(cell, write):
    texts = ['{"b": "2", "a": "1"}', '{"b": "2", "a": "1"}', "?"]
    made = [cell("FedAverage", seed, {"pooled": 0.5}, versions=text) for seed, text in enumerate(texts)]
    assert cells(tables.versions_table(read_results([write(*made)]))) == {"2 runs": ["a 1, b 2"], "1 run": ["?"]}


def test_in_words():
    assert tables.in_words(over_seeds({1: -0.5})) == "−0.500 (1)"
    assert tables.in_words(over_seeds({1: 0.4, 2: 0.6})) == "0.500 [−0.771, 1.771] (2)"
    assert tables.in_words(over_seeds({})) == "none"
    assert tables.in_words(over_seeds({1: -0.0001}), signed=True) == "+0.000 (1)"
