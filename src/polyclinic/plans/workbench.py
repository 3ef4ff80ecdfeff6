"""A built plan that a process trains again and again: for other rounds, and for other nodes.

Building a plan costs memory and time, so a process builds it once. What one node's training leaves in it must not
reach the next: tensors are overwritten, the optimizer is reset, and plain attributes are put back.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.errors import AggregationError, PlanError, PolyclinicError
from polyclinic.plans.torch_plan import TorchTrainingPlan
from polyclinic.randomness import seeded

State = dict[str, torch.Tensor]

# What every module has; the rest of its attributes are the author's.
_MODULE_ATTRIBUTES = frozenset(vars(torch.nn.Module()))
_PLAIN = (int, float, str, bool, bytes, complex, type(None))


class Workbench:
    """One built plan. Not for two threads at once.

    Args:
        plan_class: the researcher's class.
        model_args: handed to its ``__init__``.
        seed: of the initial weights; the global generators are left as they were.
        device: where to train.

    Raises:
        PlanError: if the plan cannot be built, or lacks a training_step, parameters or an optimizer.
    """

    def __init__(
        self, plan_class: type, model_args: Mapping[str, Any], *, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        with seeded(seed):
            self.plan = build(plan_class, model_args)
        self.device = torch.device(device)
        self.plan.to(self.device)
        optimizer = self.plan.optimizer
        self._groups = [_copy_of_group(group) for group in optimizer.param_groups]
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in self.plan.parameters()]
        self._attributes = [(module, *_author_attributes(module)) for module in self.plan.modules()]

    def state(self) -> State:
        """The live tensors by name: parameters and buffers. They change with the next training."""
        return {name: tensor.detach() for name, tensor in self.plan.state_dict(keep_vars=True).items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies the tensors in.

        Raises:
            AggregationError: if names or shapes are not the plan's; nothing was copied then.
        """
        own = self.plan.state_dict(keep_vars=True)
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())
            raise AggregationError(f"the model that was sent is not the plan's: tensors {', '.join(odd[:5])} differ")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise AggregationError(
                    f"tensor {name!r} has shape {tuple(tensors[name].shape)}, the plan's has {tuple(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def reset(self, learning_rate: float | None) -> None:
        """Puts the optimizer and the plan's plain attributes back as they were when it was built."""
        optimizer = self.plan.optimizer
        optimizer.state.clear()
        del optimizer.param_groups[len(self._groups) :]
        for group, initial in zip(optimizer.param_groups, self._groups, strict=True):
            # The same dict, which a scheduler of the author's may hold; but with nothing that training added to it.
            group.clear()
            group.update(_copy_of_group(initial))
            if learning_rate is not None:
                group["lr"] = learning_rate
        for parameter, requires_grad in self._requires_grad:
            parameter.requires_grad_(requires_grad)
        for module, names, plain in self._attributes:
            _restore(module, names, plain)

    def free_gradients(self) -> None:
        """Gradients take as much memory as the model; between trainings nobody needs them."""
        for parameter in self.plan.parameters():
            parameter.grad = None


def build(plan_class: type, model_args: Mapping[str, Any]) -> TorchTrainingPlan:
    """The plan, built and checked.

    Raises:
        PlanError: what is missing, and what to write.
    """
    check_class(plan_class)
    name = plan_class.__name__
    try:
        takes_arguments = len(inspect.signature(plan_class).parameters) > 0
        plan: TorchTrainingPlan = plan_class(dict(model_args)) if takes_arguments else plan_class()
    except PolyclinicError:
        raise
    except Exception as err:
        raise PlanError(
            f"{name}(model_args) failed: {type(err).__name__}: {err}", to_do="check model_args against the plan"
        ) from err
    if not isinstance(getattr(plan, "optimizer", None), torch.optim.Optimizer):
        raise PlanError(
            f"{name} has no optimizer",
            to_do="set self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1), or another, in __init__",
        )
    if isinstance(plan.optimizer, torch.optim.LBFGS):
        raise PlanError(
            f"{name} uses LBFGS, which computes the loss several times a step; rounds compute it once",
            to_do="use another optimizer, for example torch.optim.SGD or torch.optim.Adam",
        )
    if not any(p.requires_grad for p in plan.parameters()):
        raise PlanError(f"{name} has no parameters to train", to_do="set self.model to a torch module in __init__")
    return plan


def check_class(plan_class: type) -> None:
    """What can be said of a plan before it is built.

    Raises:
        PlanError: it is no training plan, or has no training_step.
    """
    name = getattr(plan_class, "__name__", str(plan_class))
    if not (isinstance(plan_class, type) and issubclass(plan_class, TorchTrainingPlan)):
        raise PlanError(f"{name} is no training plan", to_do=f"write class {name}(TorchTrainingPlan)")
    if plan_class.training_step is TorchTrainingPlan.training_step:
        raise PlanError(
            f"{name} has no training_step", to_do="write training_step(self, x, y) that returns the batch's loss"
        )


def _copy_of_group(group: dict[str, Any]) -> dict[str, Any]:
    """A parameter group with the same parameters, and settings (some are tensors) that nobody else holds."""
    return {k: list(v) if k == "params" else copy.deepcopy(v) for k, v in group.items()}


def _author_attributes(module: torch.nn.Module) -> tuple[frozenset[str], dict[str, Any]]:
    """The names a module has, and those of its author's attributes that are plain data."""
    attributes = vars(module)
    plain = {k: copy.deepcopy(v) for k, v in attributes.items() if k not in _MODULE_ATTRIBUTES and _is_plain(v)}
    return frozenset(attributes), plain


def _is_plain(value: object) -> bool:
    """Whether a copy of the value is as good as the value: a list of modules, for one, is not."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN)


def _restore(module: torch.nn.Module, names: frozenset[str], plain: dict[str, Any]) -> None:
    now = vars(module)
    for name in now.keys() - names:
        del now[name]
    for name, value in plain.items():
        if isinstance(value, _PLAIN):
            now[name] = value
        else:
            now[name] = copy.deepcopy(value)
