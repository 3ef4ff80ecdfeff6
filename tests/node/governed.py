"""Requests, replies and datasets for the tests of what stands between a request and the data."""

from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import EvaluateRequest, PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.dataset_kinds.kind import Found, get_kind
from polyclinic.node.registry import RegisteredDataset

SECRET = "Jane Doe 1949-05-01"


def dataset(**found):
    """The dataset "heart" of 100 training and 40 test rows."""
    kind = get_kind("tabular")
    facts = {"num_train": 100, "num_test": 40, "fingerprint": "", **found}
    return RegisteredDataset("heart", "Heart", ("heart",), kind, kind.Params.model_construct(), Found(**facts))


def request(kind=TrainRequest, *, args=None, **fields):
    """A request about it; an evaluation is of the test part, by the dataset's own metrics."""
    if kind in (TrainRequest, EvaluateRequest):
        fields = {"round": 1, **fields}
    if kind is EvaluateRequest:
        fields = {"split": "test", **fields}
    return kind(
        request_id="r",
        experiment_id="e",
        dataset_id="heart",
        plan=PlanText(text="", class_name="Plan"),
        model_args={},
        training_args=TrainingArgs.parse(args or {"epochs": 1}),
        seed=1,
        **fields,
    )


def trained(**fields):
    """The answer to a `TrainRequest`, without its tensors."""
    told = {"request_id": "r", "node_id": "n", "num_samples": 90, "num_updates": 3, "loss": 0.5, "seconds": 1.0}
    return TrainReply(**told | fields)
