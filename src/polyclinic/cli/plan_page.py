"""What a data manager reads of a request before deciding: what is asked, remarks, differences, the plan's text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.approvals import Approvals
from polyclinic.node.asked import Asked
from polyclinic.node.node import Node
from polyclinic.node.plan_reading import difference, imports, remarks, shown

_COMES_BACK = (
    "after each round the trained model ({layers}), its mean training loss and the number of samples; "
    "when the model is judged, metrics and the counts they are made of"
)


def print_plan(node: Node, approvals: Approvals, asked: Asked, console: Console | None = None) -> None:
    """Prints all of it."""
    console = console or Console()
    text = approvals.text(asked.plan_sha256)
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(node, asked, text):
        if value:
            facts.add_row(Text(label, style="bold"), Text(value))
    console.print(facts)
    for other in _same_name(approvals, asked):
        console.print(
            f"Another plan has the same name and another text: {other.id} ({other.standing}), "
            f"SHA-256 {other.plan_sha256[:8]}…",
            style="bold yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
    _title(console, "Worth a look (a help for the reader, and no protection)")
    found = remarks(text)
    for remark in found:
        console.print(f"  line {remark.line}: {remark.what}", style="yellow", markup=False, soft_wrap=True)
    if not found:
        console.print("  nothing that training seldom needs was noticed")
    if before := _approved_before(approvals, asked):
        _title(console, f"What is different from {before.id}, which was approved before")
        lines = "\n".join(difference(approvals.text(before.plan_sha256), text))
        console.print(Syntax(lines, "diff", theme="ansi_dark", word_wrap=True))
    _title(console, "The text of the plan")
    console.print(Syntax(shown(text), "python", theme="ansi_dark", line_numbers=True, word_wrap=True))


def _facts(node: Node, asked: Asked, text: str) -> list[tuple[str, str]]:
    arguments = asked.arguments
    length = " ".join(f"{key}={arguments[key]}" for key in ("epochs", "num_updates") if arguments.get(key))
    own = [shown(name) for name in arguments.get("local_layers", ())]
    rounds = f"{asked.asked_rounds or 'not said'}"
    if asked.rounds is not None:
        rounds = f"{asked.used} of {asked.rounds} used"
    until = "" if asked.until is None else f", until {asked.until.astimezone():%Y-%m-%d %H:%M}"
    layers = f"all but {', '.join(own)}" if own else "all its tensors"
    who = f"every trusted researcher; comes with Polyclinic {asked.installed}"
    if not asked.installed:
        who = f"{shown(asked.researcher)}, public key {asked.key}"
    return [
        ("request", f"{asked.id}, {asked.standing}{until}, asked for at {asked.since.astimezone():%Y-%m-%d %H:%M}"),
        ("note", shown(asked.note)),
        ("plan", f"{shown(asked.class_name)}, SHA-256 of the text {hashlib.sha256(text.encode()).hexdigest()}"),
        ("researcher", who),
        ("message", shown(asked.message)),
        ("purpose", shown(str(arguments.get("purpose", "")))),
        *(("dataset", _dataset(node, name)) for name in asked.datasets),
        ("rounds", rounds),
        ("a round", _round(arguments, length)),
        ("model_args", _json(arguments.get("model_args"))),
        ("local rule", _json(arguments.get("local_rule")) if arguments.get("local_rule") else ""),
        ("other arguments", "may be any" if asked.any_arguments or asked.installed else ""),
        ("comes back", _COMES_BACK.format(layers=layers)),
        ("imports", ", ".join(map(shown, imports(text))) or "nothing"),
    ]


def _round(arguments: dict[str, Any], length: str) -> str:
    """Epochs or updates, and what else differs from the defaults."""
    if "training_args" not in arguments:
        return ""
    usual = {name: field.default for name, field in TrainingArgs.model_fields.items()}
    given = {k: v for k, v in arguments["training_args"].items() if v != usual[k] and (v or usual[k])}
    tuned = f"; when judged, fine_tune={arguments['fine_tune']}" if arguments.get("fine_tune") else ""
    return " ".join([length, *(f"{key}={_json(value)}" for key, value in given.items())]) + tuned


def _dataset(node: Node, dataset_id: str) -> str:
    for dataset in node.registry.datasets():
        if dataset.dataset_id == dataset_id:
            found = dataset.found
            return f"{dataset_id}: {dataset.name}, {found.num_train} rows to train on, {found.num_test} to test on"
    return f"{shown(dataset_id)}: is not registered any more"


def _same_name(approvals: Approvals, asked: Asked) -> list[Asked]:
    """Requests for plans of this name with another text, the latest of each."""
    others = {
        other.plan_sha256: other
        for other in approvals.all()
        if other.class_name == asked.class_name and other.plan_sha256 != asked.plan_sha256
    }
    return list(others.values())


def _approved_before(approvals: Approvals, asked: Asked) -> Asked | None:
    """The plan of this name that was approved last, if it has another text."""
    approved = [other for other in _same_name(approvals, asked) if other.state == "approved" and other.decided]
    return max(approved, key=lambda other: other.decided or other.since, default=None)


def _json(value: Any) -> str:
    return shown(json.dumps(value, ensure_ascii=False))


def _title(console: Console, words: str) -> None:
    console.print()
    console.print(words, style="bold", markup=False, soft_wrap=True)
