"""What may be read in a reply that leaves: short texts, and nothing that a library, or the plan, says in an error.

Such a text may quote a patient's values: "could not convert 'Jane Doe' to float". Those of Polyclinic's own errors do
not.
"""

from __future__ import annotations

import builtins
import math
import re
from dataclasses import replace

from polyclinic import errors
from polyclinic.errors import PolyclinicError
from polyclinic.messages.replies import CheckItem, CheckReply, Failure
from polyclinic.messages.requests import WorkRequest
from polyclinic.node.policy import Policy
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.rules import rows_in_update
from polyclinic.node.stop import Progress

MAX_TEXT = 500
_MAX_BATCHES = 1_000_000_000
_MAX_TRACEBACK = 100_000
_CODES = frozenset(
    found.code for found in vars(errors).values() if isinstance(found, type) and issubclass(found, PolyclinicError)
)
_KNOWN_ERRORS = frozenset(
    {name for name, found in vars(builtins).items() if isinstance(found, type) and issubclass(found, BaseException)}
    | {name for name, found in vars(errors).items() if isinstance(found, type)}
    | {"JSONDecodeError", "LinAlgError", "OutOfMemoryError", "UnpicklingError", "ValidationError"}
)
# What stands behind the first colon of these is what some other library, or the plan itself, has said.
_QUOTING = frozenset({"training", "node", "diverged", "plan"})
# "ValueError: …", at the beginning or in the middle.
_QUOTED = re.compile(r"(?:^|\b)([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Iteration)|^[A-Z]\w*):\s")
_STAGES = frozenset({"approval", "build", "check", "evaluate", "process", "receive", "send", "train", "wait"})
_REFERENCE = re.compile(r"[0-9a-f]{8}")


def failure_as_told(policy: Policy, request: WorkRequest, reply: Failure) -> Failure:
    """As it may leave: its texts may come from the plan, or quote what some library says of a patient's values."""
    code = reply.code if reply.code in _CODES else "node"
    what, to_do, traceback = reply.what, reply.to_do, ""
    reference = reply.reference if _REFERENCE.fullmatch(reply.reference) else ""
    if policy.leaves.tracebacks:
        traceback = reply.traceback[:_MAX_TRACEBACK]
    elif code in _QUOTING and ":" in what:
        what = f"{_named(what.partition(':')[0])}; the rest is in the node's failures.txt under reference {reference}"
    if not policy.leaves.logs:
        what, to_do = f"what went wrong is not said; it is in the node's failures.txt under reference {reference}", ""
    return Failure(
        request_id=request.request_id,
        node_id=reply.node_id,
        code=code,
        stage=reply.stage if reply.stage in _STAGES else "work",
        what=short(what),
        to_do=short(to_do),
        reference=reference,
        traceback=traceback,
    )


def check_as_told(policy: Policy, request: WorkRequest, reply: CheckReply, dataset: RegisteredDataset) -> CheckReply:
    """As it may leave: of what failed, only what Polyclinic itself says."""
    args = request.training_args.model_copy(update={"dry_run": True})
    least = policy.of_dataset(dataset.dataset_id).minimum_training_rows
    # The loss of a batch of few is a loss of these few.
    losses = policy.leaves.losses and rows_in_update(args, dataset.found.num_train) >= least

    def shown(item: CheckItem) -> str:
        if item.ok:
            return "one batch was trained" if item.name == "one step" and not losses else short(item.detail)
        if not policy.leaves.logs:
            return "why is not said: the node's policy keeps it"
        return short(item.detail if policy.leaves.tracebacks else _without_quotes(item.detail))

    items = tuple(item.model_copy(update={"detail": shown(item)}) for item in reply.items)
    return reply.model_copy(update={"items": items})


def progress_as_told(policy: Policy, request: WorkRequest, dataset: RegisteredDataset, progress: Progress) -> Progress:
    """How far a training is, as it may be told: the loss to three digits, once it is the mean over enough rows."""
    rows = progress.batch * request.training_args.batch_size
    enough = rows >= policy.of_dataset(dataset.dataset_id).minimum_training_rows
    told = without_loss(progress)
    if not (policy.leaves.losses and enough and math.isfinite(progress.loss)):
        return told
    return replace(told, loss=float(f"{progress.loss:.3g}"))


def without_loss(progress: Progress) -> Progress:
    """How far a training is, and no more; a worker may say any number."""
    batch, num_batches = (min(max(number, 0), _MAX_BATCHES) for number in (progress.batch, progress.num_batches))
    return Progress(batch, num_batches, math.nan)


def _without_quotes(text: str) -> str:
    """Without what another library, or the plan, says in an error."""
    found = _QUOTED.search(text)
    return text if found is None else f"{_named(text[: found.end(1)])}; what it says stays at the hospital"


def _named(text: str) -> str:
    """With an error's name at its end only if it is one that everybody knows: a plan may call its own anything."""
    *before, last = text.split(" ")
    own = re.fullmatch(r"[A-Z]\w*", last) and last not in _KNOWN_ERRORS
    return " ".join([*before, "an error of the plan's own"]) if own else text


def short(text: str) -> str:
    """At most `MAX_TEXT` characters, none of which steers a terminal or hides itself."""
    cut = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in cut)
