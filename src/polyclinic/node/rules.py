"""The rules of a policy, each with a name, that a request may break."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from polyclinic.errors import PolicyInvalid, PolicyRefused
from polyclinic.messages.replies import CheckItem
from polyclinic.messages.requests import WorkRequest
from polyclinic.node.policy import Policy
from polyclinic.node.registry import RegisteredDataset


@dataclass(frozen=True)
class Usage:
    """What a researcher has used of a dataset so far.

    Args:
        rounds: that were trained.
        seconds: of work.
    """

    rounds: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Refusal:
    """A rule that a request breaks: its name, the figures, and what to do."""

    rule: str
    why: str
    to_do: str


def refusals(
    policy: Policy,
    *,
    researcher_id: str,
    request: WorkRequest,
    dataset: RegisteredDataset,
    used: Usage,
    now: datetime,
) -> list[Refusal]:
    """The rules that this request breaks; none: it may go on.

    Args:
        now: with its time zone.
    """
    raise NotImplementedError


def check_items(
    policy: Policy,
    *,
    researcher_id: str,
    request: WorkRequest,
    dataset: RegisteredDataset,
    used: Usage,
    now: datetime,
) -> tuple[CheckItem, ...]:
    """The policy as far as it concerns this request, for `exp.check()`: one line a rule that is broken, and one line
    with those that are kept."""
    raise NotImplementedError


def of_broken_file(err: PolicyInvalid) -> Refusal:
    """Why a node does nothing while its policy cannot be read. The file's place and content stay at the hospital."""
    raise NotImplementedError


def refused(found: Sequence[Refusal], node_name: str) -> PolicyRefused:
    """The error that names the rules."""
    raise NotImplementedError
