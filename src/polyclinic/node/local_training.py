"""One node's part of a round: the plan's steps on the node's own data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from polyclinic.aggregators import make_local_rule
from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep
from polyclinic.compression import compress
from polyclinic.errors import Diverged, PlanError, TrainingError, type_name
from polyclinic.messages.requests import TrainRequest
from polyclinic.node.batches import batches_in_round, load_batches
from polyclinic.node.experiment_state import ExperimentState, Kept
from polyclinic.node.keeping import require_local_layers, take_up, to_keep
from polyclinic.node.stop import Stop
from polyclinic.node.streams import Streams
from polyclinic.plans.workbench import State, Workbench
from polyclinic.randomness import derive

# On a GPU each look at a loss waits for the device, so there it is looked at only every so many batches.
_LOOK_EVERY = {"cpu": 1}
_LOOK_EVERY_ON_DEVICE = 16

# The pass over the data whose losses and steps are reported.
TRAIN = "train"
DERIVED = Streams()


@dataclass(frozen=True)
class LocalResult:
    """What came of a node's training; ``state`` are live tensors, valid until the workbench is used again."""

    state: State
    num_samples: int
    num_updates: int
    loss: float
    seconds: float
    notes: tuple[str, ...]


def train(
    workbench: Workbench,
    dataset: Dataset[Any],
    collate_fn: Callable[[Any], Any] | None,
    request: TrainRequest,
    *,
    node_id: str,
    kept: ExperimentState | None,
    stop: Stop,
    streams: Streams = DERIVED,
) -> LocalResult:
    """Trains the request's model for one round.

    Args:
        kept: what the node keeps over rounds; None if the request asks to keep nothing.
        streams: where random numbers come from.

    Raises:
        PlanError: the plan's step does not give a scalar loss.
        Diverged: a loss or the resulting model is not finite.
        TrainingError: the data are not finite, or there are none; or the deadline passed.
        ConfigError: the local rule does not work with this plan.
        Cancelled: on request.
    """
    began = time.perf_counter()
    args, plan = request.training_args, workbench.plan
    with streams.training(request, node_id):
        workbench.reset(args.learning_rate(request.round))
        workbench.load(request.tensors)
        require_local_layers(workbench, request.local_layers)
        taken_up, notes = take_up(workbench, kept, request)
        rule = make_local_rule(request.local_rule) if request.local_rule else None
        if rule:
            rule.begin(local_round(workbench, request, taken_up))
        data = plan.training_data(dataset)
        num_samples = len(data)  # type: ignore[arg-type]
        num_batches = batches_in_round(num_samples, args)
        losses: list[float] = []
        for name in rule.passes if rule else (TRAIN,):
            batches = load_batches(
                data,
                streams.order(num_samples, request, node_id),
                batch_size=args.batch_size,
                collate_fn=collate_fn,
                num_workers=args.num_workers,
                seed=derive(request.seed, "workers", request.round, node_id),
            )
            found = _one_pass(workbench, batches, args.clip_norm, rule, name, stop, num_batches)
            losses = found if name == TRAIN else losses
    workbench.free_gradients()
    state = workbench.state()
    _require_finite(state)
    leaving = {name: t for name, t in state.items() if name not in request.local_layers}
    leaving, lost = compress(args.update_compression, leaving, request.tensors, taken_up.part("lost"))
    if kept:
        kept.save(request.round, to_keep(workbench, request, rule, lost))
    return LocalResult(
        state=leaving,
        num_samples=num_samples,
        num_updates=len(losses),
        loss=math.fsum(losses) / len(losses),
        seconds=time.perf_counter() - began,
        notes=notes,
    )


def _one_pass(
    workbench: Workbench,
    batches: Any,
    clip_norm: float | None,
    rule: LocalRuleStep | None,
    name: str,
    stop: Stop,
    num_batches: int,
) -> list[float]:
    """The losses of one pass over the data, with what the local rule does in it."""
    workbench.plan.train()
    if rule is None:
        return take_steps(workbench, batches, clip_norm, None, stop, num_batches)
    rule.begin_pass(name)
    losses = take_steps(workbench, batches, clip_norm, rule.adjust_gradients, stop, num_batches)
    rule.end_pass(name, len(losses))
    return losses


def local_round(workbench: Workbench, request: TrainRequest, kept: Kept) -> LocalRound:
    """What a local rule is told of a workbench that holds the global model."""
    return LocalRound(
        parameters=dict(workbench.plan.named_parameters()),
        sent=request.tensors,
        optimizer=workbench.plan.optimizer,
        round=request.round,
        kept=kept.part("rule"),
        kept_personal=kept.part("personal"),
        kept_round=kept.round,
        local_layers=frozenset(request.local_layers),
        live=workbench.state,
    )


def take_steps(
    workbench: Workbench,
    batches: Any,
    clip_norm: float | None,
    adjust_gradients: Callable[[], None] | None,
    stop: Stop,
    num_batches: int = 0,
) -> list[float]:
    """The loop itself: the losses of all batches. The last batch's gradients are left in the plan's parameters.

    ``num_batches`` is only told to whoever watches; 0: not known.
    """
    plan, optimizer = workbench.plan, workbench.plan.optimizer
    on_cpu = workbench.device.type == "cpu"
    look_every = _LOOK_EVERY.get(workbench.device.type, _LOOK_EVERY_ON_DEVICE)
    losses: list[float] = []
    waiting: list[torch.Tensor] = []
    for batch in batches:
        stop.check()
        arguments = as_arguments(batch if on_cpu else to_device(batch, workbench.device))
        try:
            loss = plan.training_step(*arguments)
        except Exception as err:
            _blame_what_is_not_finite(err, len(losses) + len(waiting) + 1, arguments, workbench.state())
            raise
        if not losses and not waiting:
            require_scalar(loss, type(plan).__name__)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if adjust_gradients:
            adjust_gradients()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(plan.parameters(), clip_norm)
        optimizer.step()
        waiting.append(loss.detach())
        if len(waiting) >= look_every:
            _look(waiting, losses, arguments)
            stop.after_batch(losses, num_batches)
    if waiting:
        _look(waiting, losses, ())
    return losses


def _look(waiting: list[torch.Tensor], losses: list[float], arguments: tuple[Any, ...]) -> None:
    values = [loss.item() for loss in waiting]
    waiting.clear()
    losses.extend(values)
    for number, value in enumerate(values, len(losses) - len(values) + 1):
        if not math.isfinite(value):
            bad = [i for i, a in enumerate(arguments) if _not_finite(a)]
            if bad:
                raise TrainingError(
                    f"the loss of batch {number} is {value}, and entry {bad[0]} of the batch is not finite itself",
                    to_do="look for missing values in this node's data",
                )
            raise Diverged(
                f"the loss of batch {number} is {value}",
                to_do="lower lr, set clip_norm, or look at the plan's loss for a logarithm or a division",
            )


def _blame_what_is_not_finite(err: Exception, number: int, arguments: tuple[Any, ...], state: State) -> None:
    """Some losses raise an error of their own where others return nan: torch's binary cross entropy does."""
    failed = f"batch {number} failed with {type(err).__name__}: {err}"
    for place, argument in enumerate(arguments):
        if _not_finite(argument):
            raise TrainingError(
                f"{failed}; entry {place} of the batch is not finite itself",
                to_do="look for missing values in this node's data",
            ) from err
    for name, tensor in state.items():
        if _not_finite(tensor):
            raise Diverged(
                f"{failed}; by then {name!r} holds values that are not finite", to_do="lower lr, or set clip_norm"
            ) from err


def require_scalar(loss: object, plan_name: str) -> None:
    """Raises PlanError if a plan's step gave anything else than a scalar that can be trained."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type_name(loss)
        raise PlanError(
            f"{plan_name}.training_step must return the batch's loss as a scalar tensor, it returned {what}",
            to_do="reduce the loss, for example with .mean()",
        )
    if not loss.requires_grad:
        raise PlanError(
            f"{plan_name}.training_step returned a loss without a gradient",
            to_do="compute it from the model's output, without .detach(), .item() or torch.no_grad()",
        )


def as_arguments(batch: Any) -> tuple[Any, ...]:
    """What a step is called with: a batch's entries, or the batch itself if it is no tuple."""
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(to_device(value, device) for value in batch)
    return batch


def _not_finite(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


def _require_finite(state: State) -> None:
    for name, tensor in state.items():
        # A sum is cheaper than a test of each value, but may overflow; only then each value is looked at.
        if tensor.is_floating_point() and not math.isfinite(tensor.sum().item()) and _not_finite(tensor):
            raise Diverged(
                f"after the last step, {name!r} holds values that are not finite", to_do="lower lr, or set clip_norm"
            )
