"""What happens once, when an experiment is made: its settings are checked, its plan is built and made to travel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from polyclinic.aggregators import Aggregator
from polyclinic.errors import ConfigError
from polyclinic.node.registry import identifier
from polyclinic.plans.source import PlanSource, add_dependencies, extract_source, load_plan_class
from polyclinic.plans.workbench import build, check_class
from polyclinic.randomness import derive, seeded

State = dict[str, torch.Tensor]


def check_settings(lists: Mapping[str, object], numbers: Mapping[str, object]) -> None:
    """Raises ConfigError for a text where a list belongs, and for what is no number above 0."""
    for label, value in lists.items():
        if isinstance(value, str):
            raise ConfigError(f"{label} is a list, got the text {value!r}", to_do=f"write {label}=[{value!r}]")
    for label, number in numbers.items():
        if number is not None and not (isinstance(number, int | float) and number > 0):
            raise ConfigError(f"{label} must be a number above 0, got {number!r}")


def check_aggregator(aggregator: object) -> None:
    """Raises ConfigError for what is no aggregator; forgotten brackets are the usual reason."""
    if not isinstance(aggregator, Aggregator):
        raise ConfigError(f"aggregator is no Aggregator: {aggregator!r}", to_do="write aggregator=FedAverage()")


@contextmanager
def unfit_values_named() -> Iterator[None]:
    """Turns what pydantic says of a value into a ConfigError that names the setting."""
    try:
        yield
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{name}: {first['msg']}, got {first['input']!r}") from None


def build_plan(model_class: type, model_args: dict[str, Any], seed: int) -> tuple[PlanSource, State]:
    """The plan's text and its initial model, both made from the text, as at the nodes.

    Raises:
        PlanError: it cannot be built, or cannot travel.
        ConfigError: model_args are not JSON values.
    """
    try:
        if json.loads(json.dumps(model_args)) != model_args:
            raise TypeError
    except (TypeError, ValueError):
        raise ConfigError(
            "model_args must be JSON values: they travel to the nodes",
            to_do="use numbers, texts, true/false, None, lists, and dicts with text keys",
        ) from None
    check_class(model_class)
    source = extract_source(model_class)
    with seeded(derive(seed, "initial weights")):
        plan = build(load_plan_class(source), model_args)
    if plan.dependencies:
        source = add_dependencies(source, plan.dependencies)
        load_plan_class(source)
    return source, {name: tensor.detach().clone() for name, tensor in plan.state_dict().items()}


def new_folder(name: str) -> Path:
    """``runs/<name>-<time>``, with a number behind it if two begin in the same second."""
    first = Path("runs").absolute() / f"{identifier(name)}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path
