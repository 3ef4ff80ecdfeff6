"""Checks of algorithms' settings: at the researcher, and as numbers of a local rule at a node."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, SupportsFloat

from polyclinic.errors import ConfigError, reject_unknown
from polyclinic.messages.replies import TrainReply

Weights = Literal["num_samples", "uniform"]


def checked_weights(weights: Weights) -> Weights:
    """The weights as they are.

    Raises:
        ConfigError: for other weights.
    """
    if weights not in ("num_samples", "uniform"):
        raise ConfigError(f"unknown weights {weights!r}", to_do='give "num_samples" or "uniform"')
    return weights


def weight_of(update: TrainReply, weights: Weights) -> int:
    """How much an update counts in a weighted mean."""
    return update.num_samples if weights == "num_samples" else 1


def number(
    algorithm: object,
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    example: float,
) -> float:
    """A setting as a float.

    Args:
        algorithm: the object whose setting it is, or its class's name.

    Raises:
        ConfigError: it is no finite number within these bounds; says what to write.
    """
    title = algorithm if isinstance(algorithm, str) else type(algorithm).__name__
    found = float(value) if isinstance(value, SupportsFloat) else math.nan
    bounds = [
        (f"above {above}", above is None or found > above),
        (f"of at least {at_least}", at_least is None or found >= at_least),
        (f"below {below}", below is None or found < below),
    ]
    if not math.isfinite(found) or not all(kept for _, kept in bounds):
        text = " and ".join(text for text, _ in bounds if not text.endswith("None"))
        raise ConfigError(f"{title} needs a finite {name} {text}", to_do=f"write {title}({name}={example})")
    return found


def whole(algorithm: object, name: str, value: object, *, at_least: int, example: int) -> int:
    """A setting as an int.

    Raises:
        ConfigError: it is no whole number of at least so much; says what to write.
    """
    found = number(algorithm, name, value, at_least=at_least, example=example)
    if not found.is_integer():
        title = algorithm if isinstance(algorithm, str) else type(algorithm).__name__
        raise ConfigError(f"{title} needs a whole {name}, got {value!r}", to_do=f"write {title}({name}={example})")
    exact: Any = value  # not by way of a float, which has no place for large seeds
    return int(exact)


def require_numbers(rule: str, numbers: Mapping[str, float], known: Collection[str]) -> None:
    """Raises ConfigError if a local rule's numbers are not the ones it knows: another version's, for example."""
    reject_unknown(numbers, known, kind=f"number of the local rule {rule!r},")
    if missing := sorted(set(known) - set(numbers)):
        raise ConfigError(
            f"the local rule {rule!r} came without {', '.join(missing)}",
            to_do="install the researcher's version of Polyclinic at this node",
        )
