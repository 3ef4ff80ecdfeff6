"""What was asked for, and whether an approval covers it: the rows of a node's database, and how they are compared."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import JSON, Text
from sqlalchemy.orm import Mapped, mapped_column

import polyclinic
from polyclinic.messages.requests import EvaluateRequest, PlanText, WorkRequest
from polyclinic.node.database import Base

State = Literal["pending", "approved", "rejected", "revoked"]
EVERY_RESEARCHER = "*"

# Of the arguments, what stays bound where all others may be any: the purpose, and what of a model leaves the hospital.
_ALWAYS_BOUND = ("local_layers", "purpose")


class PlanRow(Base):
    """A plan that somebody asked for, word by word."""

    __tablename__ = "plans"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    class_name: Mapped[str]
    text: Mapped[str] = mapped_column(Text)


class AskedRow(Base):
    """See `Asked`. Times are in seconds since 1970."""

    __tablename__ = "approvals"

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    revision: Mapped[int] = mapped_column(default=0)  # counts the decisions
    digest: Mapped[str] = mapped_column(index=True)  # of what is asked for
    plan_sha256: Mapped[str] = mapped_column(index=True)
    researcher: Mapped[str]
    key: Mapped[str]
    datasets: Mapped[list[str]] = mapped_column(JSON)
    arguments: Mapped[dict[str, Any]] = mapped_column(JSON)
    any_arguments: Mapped[bool] = mapped_column(default=False)
    asked_rounds: Mapped[int | None]
    rounds: Mapped[int | None]
    used: Mapped[int] = mapped_column(default=0)
    message: Mapped[str] = mapped_column(Text, default="")
    since: Mapped[float]
    decided: Mapped[float | None]
    until: Mapped[float | None]
    note: Mapped[str] = mapped_column(Text, default="")
    installed: Mapped[str] = mapped_column(default="")


@dataclass(frozen=True)
class Asked:
    """One thing that was asked for, and what was said to it. Times are in UTC.

    Args:
        id: short, to be typed.
        revision: counts the decisions.
        plan_sha256: see `plan_digest`.
        researcher: their id; `EVERY_RESEARCHER`: of a plan that comes with the installation.
        key: their public key.
        arguments: see `arguments_of`; of an installed plan only those that are bound.
        any_arguments: they may be others.
        asked_rounds: asked for; None: not said.
        rounds: granted.
        used: rounds that were trained under the approval.
        since: when it was first asked for.
        decided: when the data manager said a word.
        until: when an approval ends.
        note: what the data manager said.
        installed: the version of Polyclinic that the plan comes with; "" for others.
    """

    id: str
    state: State
    revision: int
    plan_sha256: str
    class_name: str
    researcher: str
    key: str
    datasets: tuple[str, ...]
    arguments: dict[str, Any]
    any_arguments: bool
    asked_rounds: int | None
    rounds: int | None
    used: int
    message: str
    since: datetime
    decided: datetime | None
    until: datetime | None
    note: str
    installed: str

    @property
    def standing(self) -> str:
        """Its state in a word; what was approved once and does not hold any longer is "ended"."""
        if self.state != "approved":
            return self.state
        over = self.until is not None and self.until <= datetime.now(UTC)
        used_up = self.rounds is not None and self.used >= self.rounds
        return "ended" if over or used_up else "approved"


def plan_digest(plan: PlanText) -> str:
    """The SHA-256 of a plan's text and class name, hexadecimal."""
    # As JSON, so that no name and text run together as those of another plan do.
    return hashlib.sha256(json_text([plan.class_name, plan.text]).encode()).hexdigest()


def arguments_of(request: WorkRequest) -> dict[str, Any]:
    """All that a plan is given, as JSON values; epochs, num_updates and fine_tune apart, which are upper bounds."""
    training_args = request.training_args.model_dump(mode="json")
    return {
        "model_args": request.model_args,
        "epochs": training_args.pop("epochs"),
        "num_updates": training_args.pop("num_updates"),
        "training_args": training_args,
        "fine_tune": request.fine_tune if isinstance(request, EvaluateRequest) else 0,
        "local_rule": None if request.local_rule is None else request.local_rule.model_dump(mode="json"),
        "local_layers": list(request.local_layers),
        "purpose": request.purpose,
    }


def covers(
    row: AskedRow, researcher: str, key: str, request: WorkRequest, asked: Mapping[str, Any], *, trains: bool
) -> bool:
    """Whether this is an approval of what is asked."""
    if row.state != "approved" or not goes_on(row.until) or row.rounds is None:
        return False
    if (row.researcher, row.key) != (researcher, key) and not (
        row.researcher == EVERY_RESEARCHER and row.installed == polyclinic.__version__
    ):
        return False
    if request.dataset_id not in row.datasets or (trains and row.used >= row.rounds):
        return False
    if request.round_limit is not None and request.round_limit > max(row.rounds, row.asked_rounds or 0):
        return False
    bound = {name: row.arguments[name] for name in _ALWAYS_BOUND} if row.any_arguments else row.arguments
    return all(_within(name, asked[name], value) for name, value in bound.items())


def _within(name: str, asked: Any, granted: Any) -> bool:
    if name in ("epochs", "num_updates", "fine_tune"):
        return asked is None if granted is None else asked is not None and asked <= granted
    # As texts, because Python takes 1, 1.0 and True for the same.
    return json_text(asked) == json_text(granted)


def goes_on(until: float | None) -> bool:
    return until is not None and time.time() < until


def json_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def asked_in(row: AskedRow, class_name: str) -> Asked:
    def when(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return Asked(
        id=row.id,
        state=cast("State", row.state),
        revision=row.revision,
        plan_sha256=row.plan_sha256,
        class_name=class_name,
        researcher=row.researcher,
        key=row.key,
        datasets=tuple(row.datasets),
        arguments=row.arguments,
        any_arguments=row.any_arguments,
        asked_rounds=row.asked_rounds,
        rounds=row.rounds,
        used=row.used,
        message=row.message,
        since=datetime.fromtimestamp(row.since, UTC),
        decided=when(row.decided),
        until=when(row.until),
        note=row.note,
        installed=row.installed,
    )
