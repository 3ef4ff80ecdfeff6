"""How a node trains in one round: the researcher's ``training_args``, validated, as they travel in a request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polyclinic.errors import ConfigError, reject_unknown
from polyclinic.messages.version import later


class LearningRateSchedule(BaseModel):
    """The learning rate as a function of the round, counted from 1.

    ``step``: times ``factor`` after each ``every`` rounds. ``exponential``: times ``factor`` each round.
    ``cosine``: from ``lr`` down to ``lr * final`` over ``rounds`` rounds, constant afterwards
    (Loshchilov & Hutter, SGDR, ICLR 2017, arXiv:1608.03983, without restarts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["step", "exponential", "cosine"]
    every: Annotated[int, Field(ge=1)] = 1
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    rounds: Annotated[int, Field(ge=1)] = 1
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def scale(self, round_index: int) -> float:
        """What the learning rate is multiplied by in this round."""
        done = round_index - 1
        if self.kind == "step":
            return float(self.factor ** (done // self.every))
        if self.kind == "exponential":
            return float(self.factor**done)
        part = min(done / self.rounds, 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * part)) / 2


class TrainingArgs(BaseModel):
    """One round of local training.

    Exactly one of ``epochs`` (passes over the node's data) and ``num_updates`` (batches) is given.
    ``num_updates`` goes on through the data over the rounds: the next round starts at the batch where the last one
    ended, and a new random order is drawn after each pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: Annotated[int, Field(ge=1, description="samples in a batch")] = 32
    lr: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="learning rate; default: the plan's optimizer's own")
    ] = None
    epochs: Annotated[int | None, Field(ge=1)] = None
    num_updates: Annotated[int | None, Field(ge=1)] = None
    optimizer_state: Annotated[
        Literal["fresh", "kept"],
        Field(description="the optimizer's moments: fresh each round, or kept at the node"),
    ] = "fresh"
    buffers: Annotated[
        Literal["averaged", "local"],
        Field(description="BatchNorm statistics: averaged, or each node keeps its own"),
    ] = "averaged"
    local_layers: Annotated[
        tuple[str, ...],
        Field(description='layers that each node keeps for itself, by name: "model.head.*"; they are never sent'),
    ] = ()
    update_compression: Literal["none", "half", "int8"] = later(
        1, "none", description="how a node sends its update: as it is, or its change in 16 or 8 bits a number"
    )
    device: Annotated[str, Field(description='"auto" (CUDA where there is one), "cpu", "cuda:0", …')] = "auto"
    clip_norm: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="gradients are scaled down to this norm")
    ] = None
    lr_schedule: LearningRateSchedule | None = None
    seed: Annotated[int | None, Field(ge=0, description="default: the experiment's")] = None
    num_workers: Annotated[int, Field(ge=0, description="processes that load batches at a node")] = 0
    drop_last: Annotated[bool, Field(description="leave out the last, smaller batch of a pass")] = False
    dry_run: Annotated[bool, Field(description="one batch only")] = False
    test_every: Annotated[int, Field(ge=0, description="evaluate each so many rounds; 0: never")] = 0

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if (self.epochs is None) == (self.num_updates is None):
            raise ValueError(
                f"training_args needs exactly one of epochs and num_updates, got epochs={self.epochs} and "
                f"num_updates={self.num_updates}\n"
                "give epochs (passes over each node's data) or num_updates (batches), and leave the other out"
            )
        if self.lr_schedule is not None and self.lr is None:
            raise ValueError("lr_schedule needs lr, the learning rate that it scales\nadd lr, for example lr=0.01")
        return self

    @classmethod
    def parse(cls, given: Mapping[str, Any] | TrainingArgs) -> TrainingArgs:
        """The validated arguments.

        Raises:
            ConfigError: an unknown key (with the nearest known one), a value out of range, not exactly one of
                ``epochs`` and ``num_updates``, or a schedule without ``lr``.
        """
        if isinstance(given, TrainingArgs):
            return given
        reject_unknown(given, cls.model_fields, kind="training argument")
        try:
            return cls.model_validate(dict(given))
        except ValidationError as err:
            first = err.errors(include_url=False)[0]
        if not first["loc"]:
            what, _, to_do = str(first["ctx"]["error"]).partition("\n")
            raise ConfigError(what, to_do=to_do)
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"training argument {name!r}: {first['msg']}, got {first['input']!r}")

    def learning_rate(self, round_index: int) -> float | None:
        """The learning rate of this round, or None for the plan's own."""
        if self.lr is None or self.lr_schedule is None:
            return self.lr
        return self.lr * self.lr_schedule.scale(round_index)
