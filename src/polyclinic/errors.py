"""Every error that Polyclinic raises on purpose.

::

    PolyclinicError
    ├── ConfigError             config              a setting that is unknown, missing or contradicts another
    │   └── PolicyInvalid       policy-file         a node's policy that cannot be read; the node refuses all work
    ├── PlanError               plan                a training plan that cannot be built or run
    │   └── PlanSourceError     plan-source         a part of a plan that cannot travel to the nodes
    ├── MessageError            message             bytes that are no message of ours
    │   └── OtherVersion        other-version       a message of a version that is not read here
    ├── DatasetError            dataset             data that cannot be read or do not fit what was declared
    │   ├── DatasetChanged      dataset-changed     data that vanished or changed since they were registered
    │   └── DownloadError       download            a download that cannot be finished or verified
    ├── NodeError               node                a node that does not exist or cannot work
    │   ├── NodeInUse           node-in-use         another program holds this node's folder
    │   ├── SandboxError        sandbox             a plan that cannot be contained, or went over a limit
    │   ├── LeavingRefused      leaving             a reply that is not what was asked for, and stays at the hospital
    │   └── JournalBroken       journal             a journal whose rows are not as they were written
    ├── FederationError         federation          the nodes cannot be reached as asked
    │   ├── NoMatchingNodes     no-matching-nodes   no node, or not the right nodes, hold the tags
    │   ├── HubError            hub                 the hub cannot be made, started or changed as asked
    │   ├── JoinRefused         join-refused        a join token that the hub does not take
    │   ├── NotTrusted          not-trusted         a node whose data manager has not said yes to this researcher
    │   ├── NotApproved         not-approved        a plan that a data manager has not said yes to
    │   └── PolicyRefused       policy              a request that a rule of a node's policy is against
    ├── TrainingError           training            local training that cannot go on
    │   ├── Diverged            diverged            a loss or a weight became NaN or infinite, and not by the data
    │   └── DeadlinePassed      deadline            the round's deadline passed before the node was done
    ├── EvaluationError         evaluation          a metric that these predictions do not allow
    ├── AggregationError        aggregation         updates that do not fit together
    ├── RoundFailed             round-failed        too few nodes answered in a round
    ├── RunFolderError          run-folder          the run folder cannot be written or is not this experiment's
    └── Cancelled               cancelled           stopped on request

The second column is the error's ``code``: it travels in replies, and ``docs/errors/<code>.md`` tells what to do.
Messages name columns, shapes, counts and files; never a patient's values.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

_LIBRARIES = frozenset({"builtins", "monai", "numpy", "pandas", "torch"})


class PolyclinicError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: one sentence that names the thing at fault.
        to_do: one sentence that tells the reader what to do next.
        where: the place, innermost wins, for example ``node="va", round=3, stage="train"``.
    """

    code: ClassVar[str] = "polyclinic"

    def __init__(self, what: str, *, to_do: str = "", **where: object) -> None:
        super().__init__(what)
        self.what = what
        self.to_do = to_do
        self.where: dict[str, object] = where

    def __str__(self) -> str:
        place = ", ".join(f"{key} {value}" for key, value in self.where.items())
        return self.what + (f" ({place})" if place else "") + (f"\n  What to do: {self.to_do}" if self.to_do else "")


class ConfigError(PolyclinicError):
    code = "config"


class PolicyInvalid(ConfigError):
    code = "policy-file"


class PlanError(PolyclinicError):
    code = "plan"


class PlanSourceError(PlanError):
    code = "plan-source"


class MessageError(PolyclinicError):
    code = "message"


class OtherVersion(MessageError):
    code = "other-version"


class DatasetError(PolyclinicError):
    code = "dataset"


class DatasetChanged(DatasetError):
    code = "dataset-changed"


class DownloadError(DatasetError):
    code = "download"


class NodeError(PolyclinicError):
    code = "node"


class NodeInUse(NodeError):
    code = "node-in-use"


class SandboxError(NodeError):
    code = "sandbox"


class LeavingRefused(NodeError):
    code = "leaving"


class JournalBroken(NodeError):
    code = "journal"


class FederationError(PolyclinicError):
    code = "federation"


class NoMatchingNodes(FederationError):
    code = "no-matching-nodes"


class HubError(FederationError):
    code = "hub"


class JoinRefused(FederationError):
    code = "join-refused"


class NotTrusted(FederationError):
    code = "not-trusted"


class NotApproved(FederationError):
    code = "not-approved"


class PolicyRefused(FederationError):
    """In addition, the names of the ``rules``."""

    code = "policy"

    def __init__(self, what: str, *, to_do: str = "", rules: Iterable[str] = (), **where: object) -> None:
        super().__init__(what, to_do=to_do, **where)
        self.rules = tuple(rules)


class TrainingError(PolyclinicError):
    code = "training"


class Diverged(TrainingError):
    code = "diverged"


class DeadlinePassed(TrainingError):
    code = "deadline"


class EvaluationError(PolyclinicError):
    code = "evaluation"


class AggregationError(PolyclinicError):
    code = "aggregation"


class RoundFailed(PolyclinicError):
    """In addition, the ``codes`` of the errors that nodes failed with."""

    code = "round-failed"

    def __init__(self, what: str, *, to_do: str = "", codes: Iterable[str] = (), **where: object) -> None:
        super().__init__(what, to_do=to_do, **where)
        self.codes = frozenset(codes)


class RunFolderError(PolyclinicError):
    code = "run-folder"


class Cancelled(PolyclinicError):
    code = "cancelled"


@contextmanager
def during(**where: object) -> Iterator[None]:
    """Adds the place to an error of ours on its way up; the innermost place wins."""
    try:
        yield
    except PolyclinicError as err:
        err.where = where | err.where
        raise


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not among the known ones: the nearest one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"


def type_name(value: object) -> str:
    """The name of a value's type, if it is one of Python's or of a library: a plan may call its own anything."""
    if value is None:
        return "None"
    kind = type(value)
    known = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    return kind.__name__ if known and kind.__module__.partition(".")[0] in _LIBRARIES else "an object of its own"


def reject_unknown(given: Iterable[str], allowed: Iterable[str], *, kind: str = "setting") -> None:
    """Raises ConfigError for the first key that is not allowed, with the nearest allowed one."""
    known = set(allowed)
    for key in sorted(set(given) - known, key=str):
        raise ConfigError(f"unknown {kind} {key!r}", to_do=nearest(str(key), known))
