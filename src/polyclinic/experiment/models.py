"""Which round's model is meant, and the torch module that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from polyclinic.errors import ConfigError
from polyclinic.experiment.record import ExperimentSpec, RoundRecord
from polyclinic.plans.source import PlanSource, load_plan_class
from polyclinic.plans.workbench import build
from polyclinic.randomness import seeded


def best_round(records: Sequence[RoundRecord]) -> int:
    """The best round. Scores of test metrics and of losses are not compared with each other."""
    tested = [r for r in records if r.tested]
    scored = [r for r in tested or records if r.score is not None and not math.isnan(r.score)]
    return max(scored, key=lambda r: r.score or 0.0, default=records[-1]).round


def round_number(which: str | int, records: Sequence[RoundRecord]) -> int:
    """The number of the "last" or "best" round, or the number itself.

    Raises:
        ConfigError: another word.
    """
    if isinstance(which, str) and which not in ("last", "best"):
        raise ConfigError(f"there is no model {which!r}", to_do='ask for "last", "best" or a round\'s number')
    return best_round(records) if which == "best" else records[-1].round if which == "last" else int(which)


def as_module(plan: PlanSource, spec: ExperimentSpec, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The plan's model (the plan itself, if it has none) with these weights, in eval mode."""
    with seeded(spec.seed):  # the weights are replaced; the caller's generators stay as they are
        built = build(load_plan_class(plan), spec.model_args)
    built.load_state_dict(state)
    module = getattr(built, "model", built)
    return (module if isinstance(module, torch.nn.Module) else built).eval()
