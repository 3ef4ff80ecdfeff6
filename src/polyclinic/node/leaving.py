"""What leaves the hospital is looked at before it does: exactly what was asked for, and nothing else.

The worker that ran a plan is not believed. Names, shapes and types of tensors must be those that the request asks for;
models must be finite; texts are short, and what a foreign error says stays here. Torch is not needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from polyclinic import errors
from polyclinic.errors import LeavingRefused, MessageError, PolyclinicError
from polyclinic.messages.replies import CheckItem, CheckReply, EvaluateReply, Failure, Reply, TrainReply
from polyclinic.messages.requests import CheckRequest, EvaluateRequest, TrainRequest, WorkRequest
from polyclinic.node.declared import Declared, counts_of, differences, metrics_asked, tensors_of_training
from polyclinic.node.policy import Policy
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.rules import rows_in_update
from polyclinic.node.tensor_file import Entry, Left, UnfitValues, copy_checked, read_header

__all__ = ["Left", "check"]

MAX_TEXT = 500
_MAX_NOTES = 20
_MAX_TRACEBACK = 100_000
_MAX_NAMED = 5
# Of a number in a reply: digits without end could be anything.
_MAX_COUNT = 1 << 53
_CODES = frozenset(
    found.code for found in vars(errors).values() if isinstance(found, type) and issubclass(found, PolyclinicError)
)
# What stands behind the first colon of these is what some other library, or the plan itself, has said.
_QUOTING = frozenset({"training", "node", "diverged", "plan"})
_CHECKS = frozenset({"versions", "data", "plan", "one step"})
# "ValueError: …", at the beginning or in the middle.
_QUOTED = re.compile(r"(?:^|\b)([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Iteration)|^[A-Z]\w*):\s")
_STAGE = re.compile(r"[a-z ]{1,20}")
_REFERENCE = re.compile(r"[0-9a-f]{8}")
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
    into: Path | None = None,
) -> tuple[Reply, tuple[Left, ...]]:
    """Lets a reply leave, without what the policy keeps back.

    Args:
        tensors: the file of the reply's tensors; None: it has none.
        sent: the file of the request's tensors; None: it has none.
        into: where the tensors that may leave are written, out of the worker's reach, who could change them still.
            Default: they replace the file ``tensors``. Where none may leave, there is no file.

    Returns:
        The reply as it may leave, and its tensors, each with the SHA-256 of its data.

    Raises:
        LeavingRefused: it is not what was asked for; says what is wrong, and never a value.
        OSError: a file cannot be read or written.
    """
    if isinstance(reply, Failure):
        return _failure(policy, request, reply), ()
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
    return _checked(policy, request, reply, dataset), ()


@dataclass(frozen=True)
class _Files:
    tensors: Path | None
    sent: Path | None
    into: Path | None

    def let_out(
        self, entries: Mapping[str, Entry], names: Collection[str], *, finite: bool, at_least_0: bool
    ) -> tuple[Left, ...]:
        """Writes these tensors where they may leave from."""
        if self.tensors is None:
            return ()
        if not names:
            if self.into is None:
                self.tensors.unlink()
            return ()
        partial = self.into or self.tensors.with_suffix(".leaving")
        try:
            left = copy_checked(self.tensors, entries, names, partial, finite=finite, at_least_0=at_least_0)
        except UnfitValues as err:
            raise _refused([str(err)]) from None
        if self.into is None:
            partial.replace(self.tensors)
        return left


def _trained(
    policy: Policy, request: TrainRequest, reply: TrainReply, entries: Mapping[str, Entry], files: _Files
) -> tuple[Reply, tuple[Left, ...]]:
    if not policy.leaves.parameters:
        raise _refused(["trained models may not leave this node (rule parameters-leave)"])
    if not math.isfinite(reply.loss):
        raise _refused(["its loss is not finite"])
    declared = tensors_of_training(request, _header_of(files.sent))
    _require_none(differences(declared, entries))
    left = files.let_out(entries, declared.keys(), finite=True, at_least_0=False)
    notes = tuple(_short(note) for note in reply.notes[:_MAX_NOTES]) if policy.leaves.logs else ()
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
        files.let_out(entries, (), finite=False, at_least_0=True)
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


def _checked(policy: Policy, request: WorkRequest, reply: CheckReply, dataset: RegisteredDataset) -> CheckReply:
    if undeclared := len({item.name for item in reply.items} - _CHECKS) or len(reply.items) > len(_CHECKS):
        raise _refused([f"{int(undeclared)} checks were not asked for"])
    args = request.training_args.model_copy(update={"dry_run": True})
    least = policy.of_dataset(dataset.dataset_id).minimum_training_rows
    # The loss of a batch of few is a loss of these few.
    losses = policy.leaves.losses and rows_in_update(args, dataset.found.num_train) >= least

    def shown(item: CheckItem) -> str:
        if item.ok:
            return "one batch was trained" if item.name == "one step" and not losses else _short(item.detail)
        if not policy.leaves.logs:
            return "why is not said: the node's policy keeps it"
        return _short(item.detail if policy.leaves.tracebacks else _without_quotes(item.detail))

    items = tuple(item.model_copy(update={"detail": shown(item)}) for item in reply.items)
    return reply.model_copy(update={"items": items})


def _failure(policy: Policy, request: WorkRequest, reply: Failure) -> Failure:
    """As it may leave: its texts may come from the plan, or quote what some library says of a patient's values."""
    code = reply.code if reply.code in _CODES else "node"
    what, to_do, traceback = reply.what, reply.to_do, ""
    reference = reply.reference if _REFERENCE.fullmatch(reply.reference) else ""
    if policy.leaves.tracebacks:
        traceback = reply.traceback[:_MAX_TRACEBACK]
    elif code in _QUOTING and ":" in what:
        what = f"{what.partition(':')[0]}; the rest is in the node's log under reference {reference}"
    if not policy.leaves.logs:
        what, to_do = f"what went wrong is not said; it is in the node's log under reference {reference}", ""
    return Failure(
        request_id=request.request_id,
        node_id=reply.node_id,
        code=code,
        stage=reply.stage if _STAGE.fullmatch(reply.stage) else "work",
        what=_short(what),
        to_do=_short(to_do),
        reference=reference,
        traceback=traceback,
    )


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


def _without_quotes(text: str) -> str:
    """Without what another library, or the plan, says in an error."""
    found = _QUOTED.search(text)
    return text if found is None else f"{text[: found.end(1)]}; what it says stays at the hospital"


def _short(text: str) -> str:
    cut = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in cut)
