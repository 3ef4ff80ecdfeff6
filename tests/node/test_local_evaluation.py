"""One node's part of an evaluation."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, mean_squared_error, roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from polyclinic.errors import ConfigError, EvaluationError
from polyclinic.messages.replies import EvaluateReply, Failure
from polyclinic.metrics import CustomMetric, SampleMean, add_counts, get_metric
from polyclinic.node.local_evaluation import choose_metrics, to_numpy

# ---- the choice of metrics


def names(metrics):
    return [metric.name for metric in metrics]


def error_rate(y_true, y_pred):
    return float(np.mean(np.abs(y_true - y_pred)))


OWN = SampleMean("dice", lambda y_true, y_pred: y_pred)


@pytest.mark.parametrize(
    ("asked", "module", "classes", "expected"),
    [
        (None, None, (), ["loss"]),
        (None, None, ("no", "yes"), ["loss", "accuracy"]),
        (None, SimpleNamespace(METRIC=OWN, metric=error_rate), (), ["dice"]),
        (None, SimpleNamespace(metric=error_rate), ("no", "yes"), ["metric"]),
        (("accuracy", "loss"), None, (), ["accuracy", "loss"]),
        (("loss", "dice"), SimpleNamespace(METRIC=OWN, metric=error_rate), (), ["loss", "dice"]),
        (("metric",), SimpleNamespace(metric=error_rate), (), ["metric"]),
    ],
)
def test_the_datasets_own_metric_or_what_fits_the_target(asked, module, classes, expected):
    chosen = choose_metrics(asked, module, classes)
    assert names(chosen) == expected
    for metric in chosen:
        assert (metric is OWN) == (metric.name == "dice")
        assert isinstance(metric, CustomMetric) == (metric.name == "metric")


def test_a_metric_that_nobody_knows():
    with pytest.raises(ConfigError, match="unknown metric 'acuracy'") as caught:
        choose_metrics(("acuracy",), None, ())
    assert caught.value.to_do == "did you mean 'accuracy'?"


# ---- figures, against scikit-learn


def two_classes(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return TensorDataset(x, (x.sum(1, keepdim=True) + torch.randn(n, 1, generator=generator) > 0).float())


STEP = "return F.binary_cross_entropy(self.model(x), y)"
SIGMOID = "nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())"


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_figures_are_those_of_the_whole_test_set(work, batch_size):
    test = two_classes(23, seed=1)
    text = work.plan(STEP, model=SIGMOID)
    request = work.evaluate(text, metrics=("accuracy", "roc_auc", "loss"), batch_size=batch_size)
    reply = work.node(two_classes(9), test).handle(request)
    assert isinstance(reply, EvaluateReply)
    model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in request.tensors.items()})
    x, y = test.tensors
    with torch.inference_mode():
        score = model(x)
        loss = F.binary_cross_entropy(score, y).item()
    assert reply.num_samples == 23
    values = {name: metric.value for name, metric in reply.metrics.items()}
    assert list(values) == ["accuracy", "roc_auc", "loss"]
    assert values["accuracy"] == pytest.approx(accuracy_score(y, score > 0.5))
    assert values["roc_auc"] == pytest.approx(roc_auc_score(y, score))
    assert values["loss"] == pytest.approx(loss, rel=1e-6)
    assert [metric.higher_is_better for metric in reply.metrics.values()] == [True, True, False]
    for name, metric in reply.metrics.items():
        one_loss = name == "loss" and batch_size == 100  # of one batch: has no spread
        assert math.isnan(metric.low) if one_loss else metric.low <= metric.value <= metric.high


def test_the_split_that_was_asked_for(work):
    node = work.node(two_classes(9), two_classes(23))
    text = work.plan(STEP, model=SIGMOID)
    assert [node.handle(work.evaluate(text, split=split)).num_samples for split in ("train", "test")] == [9, 23]


def test_counts_of_two_nodes_add_up(work):
    parts = [work.rows(8, seed=1), work.rows(5, seed=2)]
    text = work.plan()
    request = work.evaluate(text, metrics=("mse",))
    total = {}
    for part in parts:
        reply = work.node(part, part).handle(request)
        prefix = "mse/"
        counts = {n.removeprefix(prefix): t.numpy() for n, t in reply.tensors.items() if n.startswith(prefix)}
        total = add_counts(total, counts)
    model = nn.Linear(3, 1)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in request.tensors.items()})
    x, y = (torch.cat([part.tensors[k] for part in parts]) for k in (0, 1))
    expected = mean_squared_error(y, model(x).detach())
    assert get_metric("mse").estimate(total).value == pytest.approx(expected, rel=1e-6)


def test_evaluation_is_in_eval_mode_and_without_gradients(work):
    more = """
        def predict(self, x):
            assert not self.training and not torch.is_grad_enabled()
            return self.model(x)
    """
    text = work.plan(model="nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.9))", more=more)
    node = work.node(work.rows(9), work.rows(9))
    node.handle(work.train(text))  # leaves the plan in training mode
    request = work.evaluate(text, metrics=("loss", "mse"))
    first = node.handle(request)
    assert isinstance(first, EvaluateReply), first
    assert first.metrics == node.handle(request).metrics
    assert first.metrics["loss"].value == pytest.approx(first.metrics["mse"].value, rel=1e-5)


def test_a_loss_alone_does_not_ask_for_predictions(work):
    more = """
        def predict(self, x):
            raise AssertionError
    """
    node = work.node(work.rows(9), work.rows(9))
    assert isinstance(node.handle(work.evaluate(work.plan(more=more), metrics=("loss",))), EvaluateReply)


def test_testing_step_is_the_loss_where_there_is_one(work):
    more = """
        def testing_step(self, x, y):
            return torch.tensor(2.5)
    """
    node = work.node(work.rows(9), work.rows(9))
    assert node.handle(work.evaluate(work.plan(more=more))).metrics["loss"].value == 2.5


@pytest.mark.parametrize(
    ("returned", "what"),
    [("(self.model(x) - y) ** 2", r"a tensor of shape \(4, 1\)"), ("0.5", "float"), ("None", "None")],
)
def test_a_testing_step_that_gives_no_scalar(work, returned, what):
    more = f"""
        def testing_step(self, x, y):
            return {returned}
    """
    reply = work.node(work.rows(9), work.rows(9)).handle(work.evaluate(work.plan(more=more)))
    assert isinstance(reply, Failure)
    assert (reply.code, reply.stage) == ("evaluation", "evaluate")
    assert "testing_step must return the batch's loss as a scalar tensor, it returned" in reply.what
    assert re.search(what, reply.what)


def test_predictions_that_are_not_finite_are_told(work):
    more = """
        def predict(self, x):
            return self.model(x) / 0 * 0
    """
    node = work.node(work.rows(9), work.rows(9))
    reply = node.handle(work.evaluate(work.plan(more=more), metrics=("mse",)))
    assert (reply.code, reply.stage) == ("evaluation", "evaluate")


def test_predictions_that_are_no_tensor(work):
    more = """
        def predict(self, x):
            return {"risk": self.model(x)}
    """
    node = work.node(work.rows(9), work.rows(9))
    reply = node.handle(work.evaluate(work.plan(more=more), metrics=("mse",)))
    assert "expected a tensor of targets or predictions, got dict" in reply.what
    assert "predict() return one tensor" in reply.to_do


def test_a_node_without_test_data(work):
    reply = work.node(work.rows(9)).handle(work.evaluate(work.plan()))
    assert (reply.code, reply.what) == ("dataset", "this node has no test data")
    assert "(train, test) pairs" in reply.to_do


def test_an_empty_test_set_has_no_value(work):
    node = work.node(work.rows(9), TensorDataset(torch.ones(0, 3), torch.ones(0, 1)))
    reply = node.handle(work.evaluate(work.plan(), metrics=("loss", "mse")))
    assert isinstance(reply, EvaluateReply), reply
    assert reply.num_samples == 0
    assert all(math.isnan(metric.value) for metric in reply.metrics.values())


def test_half_precision_is_evaluated_in_single():
    for dtype in (torch.float16, torch.bfloat16):
        found = to_numpy(torch.tensor([0.5, 2.0], dtype=dtype, requires_grad=True))
        assert (found.dtype, found.tolist()) == (np.float32, [0.5, 2.0])
    assert to_numpy(torch.tensor([1, 2])).dtype == np.int64
    with pytest.raises(EvaluationError, match="got list"):
        to_numpy([1.0])


def test_a_function_of_the_data_managers_is_drawn_once(work, monkeypatch):
    """Its interval takes 200 calls of the function; they are paid once."""
    calls = []

    def metric(y_true, y_pred):
        calls.append(len(y_true))
        return float(np.abs(y_true - y_pred).mean())

    node = work.node(work.rows(9), work.rows(9))
    monkeypatch.setattr(type(node.registry.datasets()[0].kind), "module", lambda *_: SimpleNamespace(metric=metric))
    reply = node.handle(work.evaluate(work.plan(), metrics=None))
    assert isinstance(reply, EvaluateReply), reply
    assert set(reply.metrics) == {"metric"}
    assert len(calls) <= 202
