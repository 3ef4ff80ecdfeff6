"""What a node answers. A failure is an answer too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polyclinic.messages.message import Identifier, Message, Part


class Reply(Message):
    request_id: Identifier
    node_id: Identifier


class DatasetInfo(Part):
    """What a researcher sees of a registered dataset: names and counts."""

    dataset_id: Identifier
    name: str
    dataset_kind: str
    tags: tuple[str, ...]
    num_train: int
    num_test: int
    shape: tuple[int, ...] = ()
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    problem: str = ""  # why it cannot be used now: it vanished or changed


class SearchReply(Reply):
    kind: Literal["search-reply/1"] = "search-reply/1"
    node_name: str
    datasets: tuple[DatasetInfo, ...]


class ApprovalReply(Reply):
    """What the data manager has said. What a policy refuses is a `Failure` instead.

    ``asked``: the short id under which the data manager finds it; ``since``: when that was asked for first, in seconds
    since 1970; ``what``, ``to_do``: for the researcher, where it is not approved.
    """

    kind: Literal["approval-reply/1"] = "approval-reply/1"
    state: Literal["approved", "pending", "rejected", "revoked"]
    asked: str = ""
    since: float = 0.0
    what: str = ""
    to_do: str = ""


class CheckItem(Part):
    name: str
    ok: bool
    detail: str


class CheckReply(Reply):
    kind: Literal["check-reply/1"] = "check-reply/1"
    items: tuple[CheckItem, ...]


class TrainReply(Reply):
    """The node's model after its local training, in ``tensors``.

    ``loss`` is the mean over the round's updates; ``num_samples`` the training samples that a mean is weighted by.
    """

    kind: Literal["train-reply/1"] = "train-reply/1"
    num_samples: Annotated[int, Field(ge=1)]
    num_updates: Annotated[int, Field(ge=1)]
    loss: float
    seconds: float
    notes: tuple[str, ...] = ()


class MetricValue(Part):
    """One metric over one node's data, with its 95 % interval; exact=False where no counts exist that add up."""

    value: float
    low: float
    high: float
    higher_is_better: bool
    exact: bool = True


class EvaluateReply(Reply):
    """``tensors`` holds each metric's counts, as ``metric/count`` -> array: they add up over nodes."""

    kind: Literal["evaluate-reply/1"] = "evaluate-reply/1"
    num_samples: Annotated[int, Field(ge=0)]
    metrics: dict[str, MetricValue]
    seconds: float


class Failure(Reply):
    """The node could not do it: an error code, the stage it was in, and a reference into what the node keeps of it."""

    kind: Literal["failure/1"] = "failure/1"
    code: str
    stage: str
    what: str
    to_do: str = ""
    reference: str = ""
    traceback: str = ""
