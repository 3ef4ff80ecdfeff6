"""What happens once, when an experiment is made: its settings are checked, its plan is built and made to travel."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from polyclinic.aggregators import Aggregator
from polyclinic.aggregators.layer_names import matching, with_other_names
from polyclinic.errors import ConfigError, nearest
from polyclinic.experiment.record import ExperimentSpec
from polyclinic.experiment.versions import versions
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


@dataclass(frozen=True)
class Beginning:
    """A plan that was built once at the researcher, from its text as at the nodes.

    Attributes:
        plan: its text.
        state: the initial model; all parameters and buffers.
        buffers: the names of those tensors of it that are no parameters.
        local_layers: the names of those tensors of it that each node keeps for itself.
    """

    plan: PlanSource
    state: State
    buffers: tuple[str, ...]
    local_layers: tuple[str, ...]


def build_plan(
    model_class: type,
    model_args: dict[str, Any],
    seed: int,
    aggregator: Aggregator,
    patterns: Sequence[str] = (),
    initial: Mapping[str, torch.Tensor] | None = None,
) -> Beginning:
    """The plan's text and its initial model.

    Args:
        patterns: names of local layers, see `matching`; the aggregator's come in addition.
        initial: tensors to begin with instead of those that the plan draws; others of the plan stay as drawn.

    Raises:
        PlanError: it cannot be built, or cannot travel.
        ConfigError: model_args are not JSON values; a pattern fits no layer, or nothing is left to share; ``initial``
            does not fit.
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
    state = {name: tensor.detach().clone() for name, tensor in plan.state_dict().items()}
    if initial is not None:
        _begin_with(state, initial)
    own = with_other_names(matching(patterns, state) | set(aggregator.local_layers(plan)), plan)
    if own >= state.keys():
        raise ConfigError("all layers are local: there is nothing to train together", to_do="name fewer local layers")
    parameters = {name for name, _ in plan.named_parameters(remove_duplicate=False)}
    aggregator.setup(buffers := tuple(name for name in state if name not in parameters))
    return Beginning(source, state, buffers, tuple(name for name in state if name in own))


def describe(begun: Beginning, aggregator: Aggregator, **settings: Any) -> ExperimentSpec:
    """Everything that decides the result of an experiment that begins now.

    Args:
        settings: the fields of `ExperimentSpec` that the researcher gave.

    Raises:
        ConfigError: a value that is none; names the setting.
    """
    with unfit_values_named():
        return ExperimentSpec(
            experiment_id=uuid.uuid4().hex,
            class_name=begun.plan.class_name,
            plan_sha256=begun.plan.sha256,
            aggregator=type(aggregator).__name__,
            aggregator_settings=aggregator.settings,
            buffers=begun.buffers,
            local_layers=begun.local_layers,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=versions(),
            **settings,
        )


def _begin_with(state: State, initial: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in initial.items():
        if name not in state:
            raise ConfigError(f"initial_state has a tensor {name!r}, the plan has not", to_do=nearest(name, state))
        ours, theirs = tuple(state[name].shape), tuple(tensor.shape)
        if ours != theirs:
            raise ConfigError(f"initial_state's tensor {name!r} has shape {theirs}, the plan's has {ours}")
        state[name].copy_(tensor)


def new_folder(name: str) -> Path:
    """``runs/<name>-<time>``, with a number behind it if two begin in the same second."""
    first = Path("runs").absolute() / f"{identifier(name)}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path
