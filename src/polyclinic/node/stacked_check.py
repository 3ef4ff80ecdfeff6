"""Whether a plan's nodes can be trained as one stack: its step must be a function of parameters and batch alone.

What can be seen without running it is looked at first. Then one step of a few nodes is taken in both ways.
"""

from __future__ import annotations

import random
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from polyclinic.aggregators import make_local_rule
from polyclinic.aggregators.fed_prox import ProximalTerm
from polyclinic.messages.requests import TrainRequest
from polyclinic.node.experiment_state import Kept
from polyclinic.node.keeping import keeps_something
from polyclinic.node.local_training import local_round, take_steps
from polyclinic.node.stacked_optimizer import Declined, stacked_optimizer
from polyclinic.node.stacked_step import Batch, StackedStep
from polyclinic.node.stop import Stop
from polyclinic.plans.torch_plan import TorchTrainingPlan
from polyclinic.plans.workbench import Workbench
from polyclinic.randomness import derive, seeded

# How far the two ways may lie apart after one step, absolutely and relatively.
TOLERANCE = 1e-6

# Audit events (https://docs.python.org/3/library/audit_events.html) of code that does more than compute.
_DEEDS = ("open", "os.", "shutil.", "socket.", "sqlite3.", "subprocess.", "tempfile.", "time.sleep")


def check_request(request: TrainRequest, workbench: Workbench) -> None:
    """What can be said before anything runs.

    Raises:
        Declined: what stands against it.
    """
    if keeps_something(request):
        raise Declined("the nodes keep something from round to round (optimizer, buffers, layers, or a local rule's)")
    if request.local_rule is not None and request.local_rule.name != ProximalTerm.name:
        raise Declined(f"the local rule {request.local_rule.name} is not supported (FedProx's is)")
    if workbench.device.type != "cpu":
        raise Declined(f"stacks are for the CPU only, the device is {workbench.device}")
    if type(workbench.plan).training_data is not TorchTrainingPlan.training_data:
        raise Declined("the plan's training_data may give each node other samples in every round")
    stacked_optimizer(workbench.plan.optimizer)


def try_one_step(
    request: TrainRequest, workbench: Workbench, batches: Sequence[Batch], known: StackedStep | None = None
) -> StackedStep:
    """Takes one step for a few nodes on the plain path and in a stack, and compares.

    Args:
        batches: one for each node, of equal shapes.
        known: the plan's step as it was found earlier, which is used again if it fits.

    Returns:
        The plan's step for stacks.

    Raises:
        Declined: what goes wrong in a stack, or differs.
    """
    seed = derive(request.seed, "stacked trial")
    plain, fitting, problem = [], [], None
    for batch in batches:
        try:
            plain.append(_plain_step(request, workbench, batch, seed))
            fitting.append(batch)
        except _StepFailed as err:
            problem = err  # of this node, as a rule: a value that is missing or out of range
    if not plain:
        raise Declined(f"the plan's step fails: {problem}")
    trained = _trained(workbench, request)
    step = known if known and known.trained.keys() == trained else StackedStep(workbench.plan, trained)
    losses, rows = [loss for loss, _ in plain], torch.stack([_row(state, step) for _, state in plain])
    _begin(request, workbench)
    table, constants = step.row().expand(len(fitting), -1).clone(), step.constants()
    start = table[0].clone()
    optimizer = stacked_optimizer(workbench.plan.optimizer)
    together = tuple(torch.stack(column) for column in zip(*fitting, strict=True))
    try:
        with seeded(seed), torch.no_grad():
            gradients, found = step.trial(table, constants, together)
            adjust(gradients, table, start, request)
            optimizer.step(table, gradients, *optimizer.tables(table))
    except Exception as err:
        raise Declined(_why(err)) from err
    expected = torch.tensor(losses, dtype=found.dtype)
    for what, ours, theirs in (("loss", found, expected), ("parameters", table, rows)):
        if not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
            off = (ours - theirs).abs().max().item()
            raise Declined(f"in a trial, the {what} after one step differed by {off:.2g} from the plain path")
    return step


def adjust(gradients: torch.Tensor, table: torch.Tensor, start: torch.Tensor, request: TrainRequest) -> None:
    """What comes between gradients and the optimizer: the local rule and ``clip_norm``; all tables (nodes, values)."""
    if request.local_rule is not None and (mu := ProximalTerm(request.local_rule.numbers).mu):
        gradients.add_(table - start, alpha=mu)
    if (clip_norm := request.training_args.clip_norm) is not None:
        # As torch.nn.utils.clip_grad_norm_ does.
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((clip_norm / (norms + 1e-6)).clamp(max=1.0))


def _begin(request: TrainRequest, workbench: Workbench) -> None:
    workbench.reset(request.training_args.learning_rate(request.round))
    workbench.load(request.tensors)
    workbench.plan.train()


def _plain_step(
    request: TrainRequest, workbench: Workbench, batch: Batch, seed: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the state after one step; watches what else the step does."""
    plan = workbench.plan
    _begin(request, workbench)
    rule = make_local_rule(request.local_rule) if request.local_rule else None
    if rule:
        rule.begin(local_round(workbench, request, Kept()))
    with seeded(seed):
        before, buffers = _surroundings(workbench), {name: b.clone() for name, b in plan.named_buffers()}
        with _watched() as deeds:
            try:
                adjust_gradients = rule.adjust_gradients if rule else None
                losses = take_steps(workbench, [batch], request.training_args.clip_norm, adjust_gradients, Stop())
            except (Exception, SystemExit) as err:
                if not deeds:
                    raise _StepFailed(_first_line(err)) from err
        if deeds:
            raise Declined(f"the plan's step does more than compute (Python's event {deeds[0]!r})")
        after = _surroundings(workbench)
    for name, value in before.items():
        if repr(value) != repr(after[name]):
            raise Declined(f"the plan's step changes {name}")
    for name, buffer in plan.named_buffers():
        if name not in buffers or not torch.equal(buffers[name], buffer):
            raise Declined(f"the plan's step changes the buffer {name!r}, as BatchNorm does")
    return losses[0], {name: t.clone() for name, t in workbench.state().items()}


def _trained(workbench: Workbench, request: TrainRequest) -> set[str]:
    """The parameters that the last step has trained."""
    plan = workbench.plan
    of_optimizer = {id(p) for p in plan.optimizer.param_groups[0]["params"]}
    moved = {name: p for name, p in plan.named_parameters() if p.grad is not None}
    trained = {name for name, p in moved.items() if id(p) in of_optimizer}
    workbench.free_gradients()
    if len({moved[name].dtype for name in trained}) != 1:
        raise Declined("the trained parameters are of several dtypes, or there are none")
    if request.training_args.clip_norm is not None and trained != moved.keys():
        raise Declined("clip_norm counts gradients of parameters that the optimizer does not have")
    return trained


def _row(state: dict[str, torch.Tensor], step: StackedStep) -> torch.Tensor:
    return torch.cat([state[name].reshape(-1) for name in step.trained])


def _surroundings(workbench: Workbench) -> dict[str, Any]:
    """What a step must leave as it was."""
    groups = workbench.plan.optimizer.param_groups
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    return {
        "attributes of the plan": workbench.attributes(),
        "settings of the optimizer": [{k: v for k, v in group.items() if k != "params"} for group in groups],
        "Python's random generator": hash(random.getstate()),
        "numpy's random generator": (hash(numpy_state[1].tobytes()), numpy_state[2:]),
    }


def _why(err: Exception) -> str:
    if "data-dependent control flow" in str(err) or "aten::equal" in str(err):
        return "the plan's step makes a number of a tensor (.item()), or branches on its values (data-dependent flow)"
    return f"the plan's step fails in a stack: {_first_line(err)}"


def _first_line(err: BaseException) -> str:
    return f"{type(err).__name__}: {str(err).strip().partition(chr(10))[0][:200]}"


class _StepFailed(Exception):
    """What a step raised, in a line."""


class _NotInATrial(Exception):
    """Keeps a trial from doing what only the training itself may do."""


_watching: dict[int, list[str]] = {}


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Prevents what this thread does besides computing, and lists it. Imports are let through."""
    if not _hooked:
        # There is no taking it away again; without a trial it costs one look into an empty dict an event.
        sys.addaudithook(_hook)
        _hooked.append(True)
    deeds = _watching[threading.get_ident()] = []
    try:
        yield deeds
    finally:
        del _watching[threading.get_ident()]


_hooked: list[bool] = []


def _hook(event: str, _arguments: tuple[object, ...]) -> None:
    if not _watching or not event.startswith(_DEEDS):
        return
    deeds = _watching.get(threading.get_ident())
    if deeds is not None and not _importing(sys._getframe(1)):
        deeds.append(event)
        raise _NotInATrial(event)


def _importing(frame: types.FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
