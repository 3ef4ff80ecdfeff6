"""The rules of a policy, each with a name, that a request may break.

A refusal names the rule, gives the figures, and says what to do. What concerns a request is told to its researcher
before anything runs (`check_items`); what concerns others is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from polyclinic.errors import PolicyInvalid, PolicyRefused
from polyclinic.messages.replies import CheckItem
from polyclinic.messages.requests import ApprovalRequest, EvaluateRequest, TrainRequest, WorkRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.hours import Hours
from polyclinic.node.policy import ANY, UNLIMITED, DatasetRules, Policy
from polyclinic.node.registry import RegisteredDataset

POLICY_FILE_RULE = "policy-file"
_ASK = "ask the node's data manager"


@dataclass(frozen=True)
class Usage:
    """What a researcher has used of a dataset so far.

    Args:
        rounds: that were trained.
        seconds: of work.
        experiment_rounds: those of the rounds that were of the experiment that asks.
    """

    rounds: int = 0
    seconds: float = 0.0
    experiment_rounds: int = 0


@dataclass(frozen=True)
class Refusal:
    """A rule that a request breaks: its name, the figures, and what to do."""

    rule: str
    why: str
    to_do: str


@dataclass(frozen=True)
class _Verdict:
    """What a rule says of a request; ``to_do`` is for one that is broken."""

    rule: str
    kept: bool
    why: str
    to_do: str = ""


@dataclass(frozen=True)
class _Case:
    policy: Policy
    researcher_id: str
    request: WorkRequest
    dataset: RegisteredDataset
    used: Usage
    now: datetime

    @property
    def rules(self) -> DatasetRules:
        return self.policy.of_dataset(self.dataset.dataset_id)

    @property
    def trains(self) -> bool:
        """Whether training is asked for, now or in what is planned."""
        return not isinstance(self.request, EvaluateRequest)

    @property
    def purpose(self) -> str:
        return f"purpose {self.request.purpose!r}" if self.request.purpose else "no purpose"


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
    found = _verdicts(_Case(policy, researcher_id, request, dataset, used, now))
    return [Refusal(one.rule, one.why, one.to_do) for one in found if not one.kept]


def check_items(
    policy: Policy,
    *,
    researcher_id: str,
    request: WorkRequest,
    dataset: RegisteredDataset,
    used: Usage,
    now: datetime,
) -> tuple[CheckItem, ...]:
    """The policy as far as it concerns this request, for `exp.check()`: a row for each rule that is broken, and one
    with those that are kept."""
    found = list(_verdicts(_Case(policy, researcher_id, request, dataset, used, now)))
    broken = [
        CheckItem(name=f"policy: {one.rule}", ok=False, detail=f"{one.why}; {one.to_do}")
        for one in found
        if not one.kept
    ]
    kept = "; ".join(f"{one.rule}: {one.why}" for one in found if one.kept)
    return (*broken, CheckItem(name="policy", ok=True, detail=kept))


def of_broken_file(_err: PolicyInvalid) -> Refusal:
    """Why a node does nothing while its policy cannot be read. What the file says stays at the hospital."""
    return Refusal(
        POLICY_FILE_RULE,
        "the node's policy cannot be read, and so the node does nothing",
        f"{_ASK} to mend it: polyclinic node policy show tells them what is wrong",
    )


def refused(found: Sequence[Refusal], node_name: str) -> PolicyRefused:
    """The error that names the rules."""
    whys = "; ".join(f"{one.rule}: {one.why}" for one in found)
    to_do = "; ".join(dict.fromkeys(one.to_do for one in found))
    rules = [one.rule for one in found]
    return PolicyRefused(
        f"the policy of node {node_name!r} refuses this ({whys})", to_do=to_do, rules=rules, stage="policy"
    )


def rows_in_update(args: TrainingArgs, num_train: int) -> int:
    """How many rows a round's update is made of at most."""
    batches = 1 if args.dry_run else args.num_updates
    return num_train if batches is None else min(num_train, batches * args.batch_size)


# ---- the rules, in the order in which they are told; one that limits nothing is not told


def _verdicts(case: _Case) -> Iterator[_Verdict]:
    yield from _of_researcher(case)
    yield from _of_purpose(case)
    if not isinstance(case.request, ApprovalRequest):
        yield from _of_hours(case)
    if case.trains:
        yield _of_training_rows(case)
        yield from _of_rounds(case)
    yield from _of_work_hours(case)
    yield from _of_privacy(case)
    yield from _of_what_leaves(case)


def _of_researcher(case: _Case) -> Iterator[_Verdict]:
    trusted = case.policy.of_researcher(case.researcher_id)
    if trusted is None:
        yield _Verdict("researchers", False, f"{case.researcher_id} is not listed at this node", f"{_ASK} to list you")
        return
    if ANY not in trusted.datasets:
        named = case.dataset.dataset_id in trusted.datasets
        why = f"{case.researcher_id} may {'' if named else 'not '}use dataset {case.dataset.dataset_id}"
        yield _Verdict("researcher-datasets", named, why, f"{_ASK} for it, or leave this node out")
    if ANY not in trusted.purposes:
        fits = case.request.purpose in trusted.purposes
        why = f"{case.purpose} was given, {case.researcher_id} is trusted for: {_listed(trusted.purposes)}"
        yield _Verdict("researcher-purposes", fits, why, _say_purpose(trusted.purposes))


def _of_purpose(case: _Case) -> Iterator[_Verdict]:
    purposes = case.rules.purposes
    if ANY not in purposes:
        why = f"{case.purpose} was given, the dataset is for: {_listed(purposes)}"
        yield _Verdict("purposes", case.request.purpose in purposes, why, _say_purpose(purposes))


def _of_hours(case: _Case) -> Iterator[_Verdict]:
    hours = case.policy.hours
    if hours != Hours():
        why = f"it is {hours.here(case.now):%H:%M} there, work may begin at {hours}"
        to_do = f"go on with it from {hours.next_begin(case.now)}"
        yield _Verdict("hours-of-the-day", hours.allow(case.now), why, to_do)


def _of_training_rows(case: _Case) -> _Verdict:
    name, least, num_train = "minimum-training-rows", case.rules.minimum_training_rows, case.dataset.found.num_train
    if num_train < least:
        why = f"the dataset has {num_train} training rows, at least {least} are needed"
        return _Verdict(name, False, why, "leave this node out of the experiment")
    rows = rows_in_update(case.request.training_args, num_train)
    why = f"an update is made of {rows} rows, at least {least} are needed"
    return _Verdict(name, rows >= least, why, "use a larger batch_size, more num_updates, or epochs")


def _of_rounds(case: _Case) -> Iterator[_Verdict]:
    most, used = case.rules.maximum_rounds, case.used
    if most == UNLIMITED:
        return
    planned = 1
    if not isinstance(case.request, TrainRequest):
        planned = max(1, (case.request.round_limit or 1) - used.experiment_rounds)
    why = f"{case.researcher_id} has used {used.rounds} of {most} rounds, and asks for {planned} more"
    kept = used.rounds + planned <= int(most)
    yield _Verdict("rounds-per-researcher", kept, why, f"ask for fewer rounds, or {_ASK} for more")


def _of_work_hours(case: _Case) -> Iterator[_Verdict]:
    most, hours = case.rules.maximum_hours, case.used.seconds / 3600
    if most != UNLIMITED:
        why = f"{case.researcher_id} has used {hours:.1f} of {float(most):.1f} hours"
        yield _Verdict("hours-per-researcher", hours < float(most), why, f"{_ASK} for more")


def _of_privacy(case: _Case) -> Iterator[_Verdict]:
    if case.rules.privacy != "none":
        why = f"the dataset demands {case.rules.privacy}, which this experiment does not offer"
        yield _Verdict("privacy", False, why, f"leave this node out of the experiment, or {_ASK} for an exception")


def _of_what_leaves(case: _Case) -> Iterator[_Verdict]:
    leaves, request = case.policy.leaves, case.request
    if case.trains and not leaves.parameters:
        to_do = "leave this node out of the training; it may still evaluate"
        yield _Verdict("parameters-leave", False, "trained models do not leave this node", to_do)
    asked = (request.metrics or ()) if isinstance(request, EvaluateRequest) else ()
    kept_back = [name for name in asked if not leaves.metric(name)]
    allowed = "any metric" if ANY in leaves.metrics else _listed(leaves.metrics)
    allowed += "" if leaves.losses else ", and no losses"
    why = f"{_listed(kept_back)} may not leave; what may: {allowed}" if kept_back else f"what may leave: {allowed}"
    if kept_back or ANY not in leaves.metrics or not leaves.losses:
        yield _Verdict("metrics-leave", not kept_back, why, "ask for other metrics")
    rows, least = _rows_judged(case), case.rules.minimum_test_rows
    held = ": its metrics stay there" if rows < least else ""
    # Not broken by fewer: the node takes part, and says nothing of how good the model is on so few.
    yield _Verdict("minimum-test-rows", True, f"{rows} rows, at least {least} are needed for metrics{held}")


def _rows_judged(case: _Case) -> int:
    on_train = isinstance(case.request, EvaluateRequest) and case.request.split == "train"
    return case.dataset.found.num_train if on_train else case.dataset.found.num_test


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"


def _say_purpose(purposes: Sequence[str]) -> str:
    return f"say what it is for: Experiment(…, purpose={purposes[0]!r})" if purposes else _ASK
