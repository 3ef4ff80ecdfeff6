"""A policy in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from polyclinic.errors import nearest
from polyclinic.node.policy import ANY, UNLIMITED, DatasetRules, Policy, ResearcherRules

Kind = Literal["usual", "stricter", "looser", "changed"]


@dataclass(frozen=True)
class Sentence:
    """What a policy says of one thing.

    Args:
        about: what it is about, for the first column of a table.
        kind: how it is compared with the defaults; "changed": it is no matter of strict or loose.
    """

    about: str
    text: str
    kind: Kind = "usual"


def in_words(policy: Policy) -> list[Sentence]:
    """All that the policy says."""
    return [
        *_of_plans(policy),
        *_of_researchers(policy),
        _of_hours(policy),
        *_of_what_leaves(policy),
        *_of_dataset("every dataset", policy.every_dataset, DatasetRules()),
        *(
            sentence
            for name, rules in policy.datasets.items()
            for sentence in _of_dataset(f"dataset {name}", rules, policy.every_dataset)
            if sentence.kind != "usual"
        ),
        _of_resources(policy),
    ]


def doubts(policy: Policy, dataset_ids: Iterable[str], researcher_ids: Iterable[str] | None) -> list[str]:
    """What may be a slip of the pen: names that nothing here has.

    Args:
        dataset_ids: of the datasets that are registered.
        researcher_ids: of the researchers that the node trusts; None: it trusts all.
    """
    known, people = list(dataset_ids), list(policy.researchers if researcher_ids is None else researcher_ids)
    named = {name for rules in policy.researchers.values() for name in rules.datasets} - {ANY}
    found = [
        f"no dataset {name!r} is registered here ({nearest(name, known)})"
        for name in [*policy.datasets, *sorted(named - policy.datasets.keys())]
        if name not in known
    ]
    found += [
        f"researcher {name!r} is not trusted here ({nearest(name, people)})"
        for name in policy.researchers
        if name not in people
    ]
    return found


def _of_plans(policy: Policy) -> Iterator[Sentence]:
    if policy.approval == "required":
        yield Sentence("plans", "run only after the data manager's yes")
    else:
        yield Sentence("plans", "run without the data manager's yes", "looser")
    if policy.sandbox == "bubblewrap":
        yield Sentence("sandbox", "plans see their dataset only, and no network")
    else:
        yield Sentence("sandbox", "only limits: plans may read files and reach the network", "looser")


def _of_researchers(policy: Policy) -> Iterator[Sentence]:
    if policy.only_listed_researchers:
        listed = ", ".join(policy.researchers) or "nobody"
        yield Sentence("researchers", f"only those listed here: {listed}", "stricter")
    else:
        yield Sentence("researchers", "all that the node trusts")
    for name, rules in policy.researchers.items():
        text = f"datasets: {_names(rules.datasets)}; purposes: {_names(rules.purposes)}"
        yield Sentence(f"researcher {name}", text, "usual" if rules == ResearcherRules() else "stricter")


def _of_hours(policy: Policy) -> Sentence:
    kind: Kind = "usual" if policy.hours == type(policy.hours)() else "stricter"
    return Sentence("hours of the day", f"work may begin at {policy.hours}", kind)


def _of_what_leaves(policy: Policy) -> Iterator[Sentence]:
    leaves, usual = policy.leaves, Policy().leaves
    for about, now, before in (
        ("models", leaves.parameters, usual.parameters),
        ("losses", leaves.losses, usual.losses),
        ("logs", leaves.logs, usual.logs),
        ("tracebacks", leaves.tracebacks, usual.tracebacks),
    ):
        kind: Kind = "usual" if now == before else "looser" if now else "stricter"
        yield Sentence(about, "leave" if now else "stay here", kind)
    any_metric = ANY in leaves.metrics
    names = "any that is asked for leaves" if any_metric else f"that leave: {_names(leaves.metrics)}"
    yield Sentence("metrics", names, "usual" if any_metric else "stricter")
    kind = _compared(leaves.reply_mb, usual.reply_mb, more_is_stricter=False)
    yield Sentence("a reply", f"has at most {leaves.reply_mb:g} MB", kind)


def _of_dataset(about: str, rules: DatasetRules, usual: DatasetRules) -> Iterator[Sentence]:
    for text, now, before in (
        ("rows at least in an update", rules.minimum_training_rows, usual.minimum_training_rows),
        ("rows at least for metrics", rules.minimum_test_rows, usual.minimum_test_rows),
    ):
        yield Sentence(about, f"{now} {text}", _compared(now, before, more_is_stricter=True))
    kind: Kind = "usual" if rules.purposes == usual.purposes else "changed"
    yield Sentence(about, f"purposes: {_names(rules.purposes)}", kind)
    for unit, now_most, before_most in (
        ("rounds", rules.maximum_rounds, usual.maximum_rounds),
        ("hours of work", rules.maximum_hours, usual.maximum_hours),
    ):
        most = "unlimited" if now_most == UNLIMITED else f"at most {now_most:g}"
        kind = _compared(_number(now_most), _number(before_most), more_is_stricter=False)
        yield Sentence(about, f"{unit} for each researcher: {most}", kind)
    wanted = "nothing more" if rules.privacy == "none" else f"{rules.privacy}, which no plan offers yet"
    order = ("none", "secure-aggregation", "differential-privacy")
    kind = _compared(order.index(rules.privacy), order.index(usual.privacy), more_is_stricter=True)
    yield Sentence(about, f"privacy demanded: {wanted}", kind)


def _of_resources(policy: Policy) -> Sentence:
    limits = policy.resources
    cores = "all" if limits.cpu_cores is None else f"{limits.cpu_cores:g}"
    text = (
        f"{limits.memory_gb:g} GB of memory, {cores} cores, {limits.processes} processes, {limits.open_files} open "
        f"files, files of {limits.file_gb:g} GB, {limits.wall_hours:g} hours, {limits.output_mb:g} MB of output"
    )
    return Sentence("a plan at work", text, "usual" if limits == type(limits)() else "changed")


def _compared(now: float, before: float, *, more_is_stricter: bool) -> Kind:
    if now == before:
        return "usual"
    return "stricter" if (now > before) == more_is_stricter else "looser"


def _number(most: float | str) -> float:
    return float("inf") if isinstance(most, str) else most


def _names(names: Sequence[str]) -> str:
    return "any" if ANY in names else ", ".join(names) or "none"
