"""What leaves the hospital is looked at before it does: exactly what was asked for, and nothing else.

The worker that ran a plan is not believed. Names, shapes and types of tensors must be those that the request asks for;
models must be finite; texts are short, and what a foreign error says stays here. Torch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic.errors import LeavingRefused, MessageError
from polyclinic.messages.replies import CheckReply, EvaluateReply, Failure, Reply, TrainReply
from polyclinic.messages.requests import CheckRequest, EvaluateRequest, TrainRequest, WorkRequest
from polyclinic.node.declared import Declared, counts_of, differences, metrics_asked, tensors_of_training
from polyclinic.node.leaving_texts import check_as_told, failure_as_told, short
from polyclinic.node.policy import Policy
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.tensor_file import Entry, Left, UnfitValues, copy_checked, read_header

__all__ = ["Left", "check"]

_MAX_NOTES = 20
_MAX_NAMED = 5
# Of a number in a reply: digits without end could be anything.
_MAX_COUNT = 1 << 53
_CHECKS = frozenset({"versions", "data", "plan", "one step"})
_ANSWERS: dict[type[WorkRequest], type[Reply]] = {
    TrainRequest: TrainReply,
    EvaluateRequest: EvaluateReply,
    CheckRequest: CheckReply,
}


def check(
    policy: Policy,
    request: WorkRequest,
    reply: Reply,
    tensors: Path | None,
    *,
    sent: Path | None,
    dataset: RegisteredDataset,
    into: Path,
) -> tuple[Reply, tuple[Left, ...]]:
    """Lets a reply leave, without what the policy keeps back.

    Args:
        tensors: the file of the reply's tensors; None: it has none.
        sent: the file of the request's tensors, which the worker cannot change; None: it has none.
        into: where the tensors that may leave are written, out of reach of the worker, who could change them still.
            Where none may leave, no file is written.

    Returns:
        The reply as it may leave, and its tensors, each with the SHA-256 of its data.

    Raises:
        LeavingRefused: it is not what was asked for; says what is wrong, and never a value.
        OSError: a file cannot be read or written.
    """
    if isinstance(reply, Failure):
        return failure_as_told(policy, request, reply), ()
    if type(reply) is not _ANSWERS.get(type(request)) or reply.request_id != request.request_id:
        raise _refused(["it is no answer to what was asked"])
    _require_numbers(reply)
    entries = _entries(policy, tensors)
    if isinstance(request, TrainRequest) and isinstance(reply, TrainReply):
        return _trained(policy, request, reply, entries, _Files(tensors, sent, into))
    if isinstance(request, EvaluateRequest) and isinstance(reply, EvaluateReply):
        return _evaluated(policy, request, reply, entries, _Files(tensors, sent, into), dataset)
    if entries:
        raise _refused(["it has tensors, and none were asked for"])
    assert isinstance(reply, CheckReply)
    if {item.name for item in reply.items} - _CHECKS or len(reply.items) > len(_CHECKS):
        raise _refused(["it has checks that were not asked for"])
    return check_as_told(policy, request, reply, dataset), ()


@dataclass(frozen=True)
class _Files:
    tensors: Path | None
    sent: Path | None
    into: Path

    def let_out(
        self, entries: Mapping[str, Entry], names: Collection[str], *, finite: bool, at_least_0: bool
    ) -> tuple[Left, ...]:
        """Writes these tensors where they may leave from."""
        if self.tensors is None or not names:
            return ()
        try:
            return copy_checked(self.tensors, entries, names, self.into, finite=finite, at_least_0=at_least_0)
        except UnfitValues as err:
            raise _refused([str(err)]) from None


def _trained(
    policy: Policy, request: TrainRequest, reply: TrainReply, entries: Mapping[str, Entry], files: _Files
) -> tuple[Reply, tuple[Left, ...]]:
    # A plan may have chosen some rows of the dataset.
    if reply.num_samples < (least := policy.of_dataset(request.dataset_id).minimum_training_rows):
        raise _refused([f"it is made of {reply.num_samples} rows, not {least} or more (rule minimum-training-rows)"])
    if not policy.leaves.parameters:
        raise _refused(["trained models may not leave this node (rule parameters-leave)"])
    if not math.isfinite(reply.loss):
        raise _refused(["its loss is not finite"])
    declared = tensors_of_training(request, _header_of(files.sent))
    _require_none(differences(declared, entries))
    left = files.let_out(entries, declared.keys(), finite=True, at_least_0=False)
    notes = tuple(short(note) for note in reply.notes[:_MAX_NOTES]) if policy.leaves.logs else ()
    loss = reply.loss if policy.leaves.losses else math.nan
    return reply.model_copy(update={"notes": notes, "loss": loss}), left


def _evaluated(
    policy: Policy,
    request: EvaluateRequest,
    reply: EvaluateReply,
    entries: Mapping[str, Entry],
    files: _Files,
    dataset: RegisteredDataset,
) -> tuple[Reply, tuple[Left, ...]]:
    asked = metrics_asked(request, dataset)
    if undeclared := len(reply.metrics.keys() - set(asked)):
        raise _refused([f"{undeclared} metrics were not asked for"])
    declared = {metric: _counts(metric, entries, dataset) for metric in asked}
    _require_none(differences({name: one for counts in declared.values() for name, one in counts.items()}, entries))
    rows = dataset.found.num_train if request.split == "train" else dataset.found.num_test
    if min(rows, reply.num_samples) < policy.of_dataset(dataset.dataset_id).minimum_test_rows:
        return reply.model_copy(update={"metrics": {}, "num_samples": 0}), ()
    allowed = [metric for metric in asked if policy.leaves.metric(metric)]
    names = [name for metric in allowed for name in declared[metric]]
    # Sums may be infinite or no number, as the metric of a model that diverged is; counts are never negative.
    left = files.let_out(entries, names, finite=False, at_least_0=True)
    return reply.model_copy(update={"metrics": {n: v for n, v in reply.metrics.items() if n in allowed}}), left


def _counts(metric: str, entries: Mapping[str, Entry], dataset: RegisteredDataset) -> dict[str, Declared]:
    """The counts that a metric may have: of those that it may, the ones whose names are there."""
    possible = [{f"{metric}/{name}": one for name, one in counts.items()} for counts in counts_of(metric, dataset)]
    return next((one for one in possible if one and one.keys() <= entries.keys()), {})


def _entries(policy: Policy, path: Path | None) -> dict[str, Entry]:
    if path is None:
        return {}
    if (megabytes := path.stat().st_size / 1e6) > policy.leaves.reply_mb:
        raise _refused([f"it has {megabytes:,.1f} MB, at most {policy.leaves.reply_mb:,.1f} MB may leave"])
    return _header_of(path)


def _header_of(path: Path | None) -> dict[str, Entry]:
    try:
        return {} if path is None else read_header(path)
    except MessageError as err:
        raise _refused([f"its tensors are no safetensors file: {err.what}"]) from None


def _require_numbers(reply: Reply) -> None:
    numbers = [value for value in vars(reply).values() if type(value) in (int, float)]
    if any(type(value) is int and abs(value) > _MAX_COUNT for value in numbers):
        raise _refused(["it counts more than there is"])
    if not math.isfinite(getattr(reply, "seconds", 0.0)):
        raise _refused(["it took no finite time"])


def _require_none(problems: Iterable[str]) -> None:
    if found := list(problems):
        raise _refused(found)


def _refused(problems: list[str]) -> LeavingRefused:
    more = f"; and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
    return LeavingRefused(
        f"a reply was stopped at the hospital: {'; '.join(problems[:_MAX_NAMED])}{more}",
        to_do="look whether researcher and node have the same version of Polyclinic; if they do, the plan gives back "
        "something else than its model and metrics",
        stage="leaving",
    )
