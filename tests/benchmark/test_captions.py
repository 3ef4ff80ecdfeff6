import pytest

from polyclinic.benchmark import captions
from polyclinic.benchmark.over_seeds import read_results


@pytest.fixture
def results(full):
    return read_results([full])


def test_contents_count_every_run(results):
    assert captions.contents(results) == "32 runs (24 done, 3 diverged, 5 failed) of 2026-01-02, from file results.csv."


def test_the_protocol_is_stated(results):
    pytest.importorskip("torch")
    from polyclinic.benchmark.protocols import PROTOCOLS

    text = " ".join(captions.protocol(results))
    assert PROTOCOLS["flamby"].summary.rstrip(".") in text
    assert "5 seeds: 42, 43, 44, 45, 46." in text


def test_a_protocol_of_another_version_is_not_invented(cell, write):
    results = read_results([write(cell("FedAverage", 1, {"pooled": 0.5}, protocol="of tomorrow"))])
    assert captions.title(results) == "Benchmark report, protocol “of tomorrow”"
    (text,) = captions.protocol(results)
    assert text.startswith("1 seed: 1.")


def test_facts(results):
    assert captions.dataset_facts(results.datasets[1]) == (
        "2 centers. Test samples: Cleveland 50, Hungary 50; together 50. Metric: accuracy; higher is better. "
        "Seeds: 42, 43, 44, 45, 46."
    )


def test_alternative_texts_tell_the_figures(results):
    heart = results.datasets[1]
    bars = captions.bars(heart, "accuracy", [])
    assert "Pooled 0.710; Local Cleveland 0.600; Local Hungary 0.500; FedAverage 0.690; FedProx none" in bars.alt
    assert "FLamby" not in bars.caption
    assert "FedAverage 0.690 after round 2" in captions.curves(heart, "accuracy", heart.strategies).alt
    assert "FedAverage 0.690 for 2 kB" in captions.bytes_sent(heart, "accuracy", heart.strategies).alt
    assert "Local Hungary at home 0.500, on average 0.500" in captions.heat_map(heart, "accuracy").alt


def test_a_part_of_the_strategies_is_named(results):
    heart = results.datasets[1]
    some, every = heart.strategies[:2], heart.strategies
    assert captions.curves(heart, "accuracy", some).title == "Convergence at each hospital: FedAverage, FedProx"
    assert captions.bytes_sent(heart, "accuracy", every).title == "Accuracy against bytes sent"
    assert "FedYogi" not in captions.bytes_sent(heart, "accuracy", some).alt


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_340_000, "12.3 MB"), (5e15, "5e+03 TB")]
)
def test_bytes_in_words(number, words):
    assert captions.bytes_in_words(number) == words
