"""Evaluation over nodes: pooled figures are those of scikit-learn on the concatenated test data."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from polyclinic.errors import ConfigError, EvaluationError, FederationError
from polyclinic.experiment.evaluation import Evaluation
from polyclinic.experiment.record import FailureRow
from polyclinic.messages.replies import Failure
from polyclinic.metrics import Estimate

ALL = ["accuracy", "sensitivity", "specificity", "f1", "mcc", "brier", "log_loss", "mse", "roc_auc", "loss"]


@pytest.fixture
def trained(make):
    experiment = make()
    experiment.run()
    return experiment


def by_hand(weights, x):
    """The model's probabilities, in numpy."""
    scores = x.numpy().astype(np.float64) @ weights["0.weight"].numpy().T.astype(np.float64) + weights["0.bias"].numpy()
    return 1 / (1 + np.exp(-scores[:, 0]))


def scikit_learn(y, p):
    hard = p > 0.5
    return {
        "accuracy": sk.accuracy_score(y, hard),
        "sensitivity": sk.recall_score(y, hard),
        "specificity": sk.recall_score(1 - y, ~hard),
        "f1": sk.f1_score(y, hard),
        "mcc": sk.matthews_corrcoef(y, hard),
        "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
        "mse": sk.mean_squared_error(y, p),
        "roc_auc": sk.roc_auc_score(y, p),
        "loss": sk.log_loss(y, p),
    }


@pytest.mark.parametrize("split", ["test", "train"])
def test_figures_of_each_node_and_of_all_data_together(trained, data, split):
    evaluation = trained.evaluate(split, metrics=ALL)
    weights = trained.model().state_dict()
    parts = {name: (train if split == "train" else test).tensors for name, (train, test) in data.items()}
    for name, (x, y) in parts.items():
        expected = scikit_learn(y.numpy()[:, 0], by_hand(weights, x))
        found = {metric: estimate.value for metric, estimate in evaluation.nodes[name].items()}
        assert found == pytest.approx(expected, abs=1e-6)
        assert {estimate.num_samples for estimate in evaluation.nodes[name].values()} == {len(x)}
    x, y = (torch.cat([part[k] for part in parts.values()]) for k in (0, 1))
    expected = scikit_learn(y.numpy()[:, 0], by_hand(weights, x))
    for metric, estimate in evaluation.pooled.items():
        # The area under the curve is counted in bins, and says how far off it may be.
        assert abs(estimate.value - expected[metric]) <= estimate.error_bound + 1e-6, metric
        assert metric == "roc_auc" or estimate.error_bound == 0
        assert estimate.num_samples == len(x)
        assert estimate.low <= estimate.value <= estimate.high
    assert list(evaluation.pooled) == evaluation.metrics == ALL
    assert (evaluation.split, evaluation.round) == (split, 3)


def test_the_default_is_the_test_split_and_the_loss(trained):
    evaluation = trained.evaluate()
    assert (evaluation.split, evaluation.metrics) == ("test", ["loss"])
    assert evaluation.score() == -evaluation.pooled["loss"].value
    accuracy = trained.evaluate(metrics=["accuracy", "loss"])
    assert accuracy.score() == accuracy.pooled["accuracy"].value


def test_before_the_first_round(make):
    assert make().evaluate(metrics=["accuracy"]).round == 0


def test_some_nodes_only(trained, data):
    evaluation = trained.evaluate(metrics=["accuracy"], nodes=["cedar", "ash"])
    assert list(evaluation.nodes) == ["ash", "cedar"]
    assert evaluation.pooled["accuracy"].num_samples == len(data["ash"][1]) + len(data["cedar"][1])
    with pytest.raises(FederationError, match="there is no node 'cedr'") as caught:
        trained.evaluate(nodes=["cedr"])
    assert caught.value.to_do == "did you mean 'cedar'?"


def test_min_nodes_is_about_rounds_not_about_the_nodes_asked_for_by_name(make):
    experiment = make(min_nodes=2)
    assert list(experiment.evaluate(nodes=["ash"]).nodes) == ["ash"]


@pytest.mark.parametrize(
    ("given", "what", "to_do"),
    [
        ({"split": "validation"}, "split: Input should be 'train' or 'test', got 'validation'", ""),
        ({"metrics": "accuracy"}, "metrics is a list, got the text 'accuracy'", "write metrics=['accuracy']"),
        ({"nodes": "ash"}, "nodes is a list, got the text 'ash'", "write nodes=['ash']"),
        ({"metrics": [3]}, "metrics", ""),
    ],
)
def test_settings_that_do_not_fit(trained, given, what, to_do):
    with pytest.raises(ConfigError) as caught:
        trained.evaluate(**given)
    assert what in caught.value.what
    assert to_do in caught.value.to_do


def test_fine_tuning_helps_at_each_node_and_is_forgotten(trained, data, same):
    before = trained.model()
    plain = trained.evaluate("train")
    tuned = trained.evaluate("train", fine_tune=100)
    assert all(tuned.nodes[name]["loss"].value < plain.nodes[name]["loss"].value for name in data)
    assert tuned == trained.evaluate("train", fine_tune=100)
    assert trained.evaluate("train") == plain
    assert same(trained.model(), before)


@pytest.mark.parametrize("steps", [-1, 1.5, "few"])
def test_fine_tuning_takes_whole_batches(trained, steps):
    with pytest.raises(ConfigError, match="fine_tune: Input should be"):
        trained.evaluate(fine_tune=steps)


def test_an_unknown_metric_names_the_nearest(trained):
    what = r"node 'ash', 'birch', 'cedar' failed at stage 'evaluate' \(config\): unknown metric 'acuracy'"
    with pytest.raises(EvaluationError, match=what) as caught:
        trained.evaluate(metrics=["acuracy"])
    assert "did you mean 'accuracy'?" in caught.value.to_do


def test_a_metric_that_does_not_fit_the_predictions(trained, data):
    data["birch"][1].tensors[1][3] = math.nan
    with pytest.raises(EvaluationError, match=r"node 'birch' failed at stage 'evaluate' \(evaluation\)") as caught:
        trained.evaluate(metrics=["accuracy"])
    assert caught.value.to_do
    assert any("At node 'birch'" in note for note in caught.value.__notes__)


# ---- failures


@pytest.fixture
def birch_fails(federation):
    (birch,) = [node for node in federation.each_node() if node.name == "birch"]

    def fail(request, stop=None):
        if request.kind.startswith("search"):
            return type(birch).handle(birch, request, stop)
        return Failure(
            request_id=request.request_id,
            node_id="birch",
            code="node",
            stage="evaluate",
            what="OSError: gone",
            to_do="plug it in",
        )

    birch.handle = fail


def test_a_node_that_fails_is_listed_if_enough_others_answer(make, birch_fails, data):
    evaluation = make(min_nodes=2).evaluate(metrics=["accuracy", "loss"])
    assert list(evaluation.nodes) == ["ash", "cedar"]
    assert evaluation.pooled["loss"].num_samples == len(data["ash"][1]) + len(data["cedar"][1])
    (failure,) = evaluation.failures
    assert (failure.node, failure.code, failure.stage, failure.what) == ("birch", "node", "evaluate", "OSError: gone")
    assert "failed: OSError: gone" in str(evaluation)
    assert "failed: OSError: gone" in evaluation._repr_html_()


def test_by_default_every_node_must_answer(make, birch_fails):
    with pytest.raises(
        EvaluationError,
        match=r"could not be evaluated\n  node 'birch' failed at stage 'evaluate' \(node\): OSError: gone",
    ) as caught:
        make().evaluate()
    assert caught.value.to_do == "plug it in"


# ---- as a thing


def test_equality_is_of_figures(trained):
    one, other = (trained.evaluate(metrics=["accuracy", "roc_auc"]) for _ in range(2))
    assert one == other
    assert one.seconds != other.seconds
    assert one != trained.evaluate(metrics=["accuracy"])
    assert one != trained.evaluate("train", metrics=["accuracy", "roc_auc"])


def estimate(value, num_samples=4, **rest):
    return Estimate(value, value - 0.1, value + 0.1, num_samples, **rest)


SMALL = Evaluation(
    nodes={"<b>ash": {"accuracy": estimate(0.5)}, "birch": {"accuracy": estimate(math.nan, 0)}},
    pooled={"accuracy": estimate(0.625, 8, error_bound=0.01)},
    round=7,
    split="test",
    failures=(FailureRow(node="cedar", code="node", stage="evaluate", what="[bold]no"),),
)


def test_as_text():
    text = str(SMALL)
    assert "test data, model after round 7" in text
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    assert cells[0] == ["<b>ash", "0.500 [0.400, 0.600]", "4"]
    assert cells[1] == ["birch", "nan [nan, nan]", "0"]
    assert cells[2] == ["pooled", "≈0.625 [0.525, 0.725]", "8"]
    assert cells[3][:2] == ["cedar", "failed: [bold]no"]


def test_as_html():
    html = SMALL._repr_html_()
    assert "&lt;b&gt;ash" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 5


def test_to_pandas():
    frame = SMALL.to_pandas()
    assert list(frame.columns) == [
        "node",
        "metric",
        "value",
        "low",
        "high",
        "num_samples",
        "error_bound",
        "exact",
    ]
    assert frame.node.tolist() == ["<b>ash", "birch", "pooled"]
    assert frame.value.tolist()[::2] == [0.5, 0.625]
    assert frame.error_bound.tolist() == [0, 0, 0.01]


def test_rows_for_the_history(trained, data):
    rows = trained.evaluate(metrics=["accuracy", "loss"]).rows()
    assert [(row.node, row.metric) for row in rows] == [
        (node, metric) for node in ("ash", "birch", "cedar", "pooled") for metric in ("accuracy", "loss")
    ]
    assert {row.round for row in rows} == {3}
    assert [row.num_samples for row in rows][::2] == [11, 8, 14, 33]
    assert all(row.seconds > 0 and row.bytes > 0 for row in rows if row.node != "pooled")


def test_the_models_round_may_be_tested_as_it_runs(make):
    experiment = make(round_limit=4, training_args={"test_every": 2})
    history = experiment.run()
    series = history.series("loss", "test")
    assert series["pooled"][0] == [2, 4]
    assert series["pooled"][1][-1] == experiment.evaluate().pooled["loss"].value
    assert [record.tested for record in experiment.records] == [False, False, True, False, True]
    assert experiment.records[-1].score == -series["pooled"][1][-1]
