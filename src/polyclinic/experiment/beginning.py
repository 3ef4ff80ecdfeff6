"""What happens once, when an experiment is made: its settings are checked, its plan is built and made to travel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from polyclinic.errors import ConfigError
from polyclinic.node.registry import identifier
from polyclinic.plans.source import PlanSource, add_dependencies, extract_source, load_plan_class
from polyclinic.plans.workbench import build, check_class
from polyclinic.randomness import derive, seeded

State = dict[str, torch.Tensor]


def check_settings(lists: Mapping[str, object], numbers: Mapping[str, float | None]) -> None:
    """Raises ConfigError for a text where a list belongs, and for a number that is not above 0."""
    for label, value in lists.items():
        if isinstance(value, str):
            raise ConfigError(f"{label} is a list, got the text {value!r}", to_do=f"write {label}=[{value!r}]")
    for label, number in numbers.items():
        if number is not None and not number > 0:
            raise ConfigError(f"{label} must be above 0, got {number}")


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
