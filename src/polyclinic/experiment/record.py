"""What an experiment is, and what is remembered of each of its rounds; both as JSON in the run folder."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from polyclinic.messages.replies import Failure
from polyclinic.messages.requests import LocalRule, PlanText
from polyclinic.messages.training_args import TrainingArgs

FORMAT_VERSION = 1
POOLED = "pooled"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class ExperimentSpec(_Stored):
    """Everything that decides an experiment's result, besides the data."""

    format_version: int = FORMAT_VERSION
    experiment_id: str
    name: str
    tags: tuple[str, ...]
    nodes: tuple[str, ...] | None
    class_name: str
    plan_sha256: str
    model_args: dict[str, Any]
    training_args: TrainingArgs
    round_limit: int
    aggregator: str
    aggregator_settings: dict[str, Any]
    min_nodes: int | None
    deadline_seconds: float | None
    seed: int
    keep_all_rounds: bool
    buffers: tuple[str, ...] = ()
    local_layers: tuple[str, ...] = ()
    message: str = ""
    purpose: str = ""
    created: str
    versions: dict[str, str]

    def facts(self) -> dict[str, object]:
        """What a reader wants to know first."""
        return {
            "plan": self.class_name,
            "tags": ", ".join(self.tags),
            "aggregator": f"{self.aggregator} {self.aggregator_settings}",
        }

    def work(self, plan: PlanText, local_rule: LocalRule | None) -> dict[str, Any]:
        """What all requests of the experiment have in common."""
        return {
            "request_id": "to be set",
            "dataset_id": "to be set",
            "experiment_id": self.experiment_id,
            "plan": plan,
            "model_args": self.model_args,
            "training_args": self.training_args,
            "seed": self.seed if self.training_args.seed is None else self.training_args.seed,
            "local_rule": local_rule,
            "local_layers": self.local_layers,
            "message": self.message,
            "purpose": self.purpose,
            "round_limit": self.round_limit,
        }


class HistoryRow(_Stored):
    """One figure. ``node`` is a node's name, or "pooled"; ``bytes`` are those that moved for it, both ways."""

    round: int
    node: str
    split: str
    metric: str
    value: float
    num_samples: int
    seconds: float
    bytes: int


class FailureRow(_Stored):
    """A node that did not contribute to a round."""

    node: str
    code: str
    stage: str
    what: str
    to_do: str = ""

    @classmethod
    def of(cls, failure: Failure, node: str) -> FailureRow:
        return cls(node=node, code=failure.code, stage=failure.stage, what=failure.what, to_do=failure.to_do)


class RoundRecord(_Stored):
    """A completed round. Round 0 is the initial model."""

    round: int
    started: str
    seconds: float
    nodes: tuple[str, ...]
    rows: tuple[HistoryRow, ...] = ()
    failures: tuple[FailureRow, ...] = ()
    notes: tuple[str, ...] = ()
    # What the best round is chosen by: the first pooled test metric where the round was tested, else the training
    # loss. Higher is better.
    score: float | None = None
    tested: bool = False
