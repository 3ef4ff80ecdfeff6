"""What an experiment asks of a node."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from polyclinic.messages.message import Identifier, Message, Part
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.messages.version import later


class PlanText(Part):
    """A training plan as it travels: one readable Python text, and the name of the class in it."""

    text: str
    class_name: str


class LocalRule(Part):
    """What an aggregator changes in local training, by name: nodes know the rules, no code travels for them."""

    name: str
    numbers: dict[str, float] = {}


class Request(Message):
    request_id: Identifier


class SearchRequest(Request):
    """Which datasets do you hold that have all of these tags?"""

    kind: Literal["search-request/1"] = "search-request/1"
    tags: tuple[str, ...] = ()


class WorkRequest(Request):
    """What training, evaluation and checks have in common."""

    experiment_id: Identifier
    dataset_id: Identifier
    plan: PlanText
    model_args: dict[str, Any]
    training_args: TrainingArgs
    seed: int
    local_rule: LocalRule | None = None
    local_layers: tuple[str, ...] = ()  # tensors that the node keeps for itself
    message: str = later(1, "", droppable=True, max_length=10_000)  # for the data manager who decides
    purpose: str = later(1, "", droppable=True, max_length=200)  # a word that the node's policy may ask for
    round_limit: int | None = later(1, None, droppable=True, ge=1)  # rounds in all that the experiment asks for


class ApprovalRequest(WorkRequest):
    """May this plan be trained on this dataset? Nothing is run, and there are no tensors."""

    kind: Literal["approval-request/1"] = "approval-request/1"


class CheckRequest(WorkRequest):
    """Can you run this plan on this dataset? Answered by building it and taking one step on one batch,
    from the model in ``tensors``."""

    kind: Literal["check-request/1"] = "check-request/1"


class TrainRequest(WorkRequest):
    """Train the model in ``tensors`` for one round, and send it back."""

    kind: Literal["train-request/1"] = "train-request/1"
    round: Annotated[int, Field(ge=1)]


class EvaluateRequest(WorkRequest):
    """Evaluate the model in ``tensors``, which is that of after ``round``. No metrics named: the dataset's own.

    ``personal``: where the local rule keeps a model of the node's own, evaluate that one. ``fine_tune``: train the
    model for so many batches on the node's training data before, and forget it afterwards.
    """

    kind: Literal["evaluate-request/1"] = "evaluate-request/1"
    round: Annotated[int, Field(ge=0)]
    split: Literal["train", "test"]
    metrics: tuple[str, ...] | None = None
    personal: bool = True
    fine_tune: Annotated[int, Field(ge=0)] = 0
