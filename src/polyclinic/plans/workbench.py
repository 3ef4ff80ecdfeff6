"""A built plan that a process trains again and again: for other rounds, and for other nodes.

Building a plan costs memory and time, so a process builds it once. What one node's training leaves in it must not
reach the next: tensors are overwritten, the optimizer is reset, and attributes are put back.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
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
        self._attributes = [_Attributes(module) for module in self.plan.modules()]

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
        """Puts the optimizer and the plan's attributes back as they were when it was built; `load` does the rest."""
        for attributes in self._attributes:
            attributes.put_back()
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

    def attributes(self) -> list[dict[str, Any]]:
        """What the author's attributes of the plan and its modules are now, to be compared with later.

        Plain data (numbers, texts, lists of them) are copied; any other object is told by its id and its version.
        """
        own = ({n: v for n, v in vars(m).items() if n not in _MODULE_ATTRIBUTES} for m in self.plan.modules())
        return [
            {n: copy.deepcopy(v) if _is_plain(v) else (id(v), getattr(v, "_version", 0)) for n, v in of_one.items()}
            for of_one in own
        ]

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


class _Attributes:
    """The attributes of one module that are its author's, as they were.

    Plain data are put back as copies. Every other attribute is the same object again; where that is a tensor, an array
    or a generator of random numbers, it also gets its old content back, and so do buffers that are not loaded.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._now = vars(module)
        self._names = frozenset(self._now)
        own = {name: value for name, value in self._now.items() if name not in _MODULE_ATTRIBUTES}
        copies = {name: copy.deepcopy(value) for name, value in own.items() if _is_plain(value)}
        # What cannot change, as a number or a tuple of texts, is its own copy.
        self._plain = {name: value for name, value in copies.items() if value is not own[name]}
        self._objects = {name: value for name, value in own.items() if name not in self._plain}
        unloaded = [module._buffers[name] for name in module._non_persistent_buffers_set]
        contents = map(_content, [*self._objects.values(), *unloaded])
        self._contents = [put_back for put_back in contents if put_back]

    def put_back(self) -> None:
        for name in self._now.keys() - self._names:
            del self._now[name]
        self._now.update(self._objects)
        for name, value in self._plain.items():
            self._now[name] = copy.deepcopy(value)
        for put_back in self._contents:
            put_back()


def _content(value: object) -> Callable[[], object] | None:
    """What puts the content that the object has now back into it; None: it has none that we know."""
    if isinstance(value, torch.Tensor):
        live, tensor = value.detach(), value.detach().clone()
        return lambda: live.copy_(tensor)
    if isinstance(value, np.ndarray) and value.flags.writeable:
        array = value.copy()
        return lambda: np.copyto(value, array)
    if isinstance(value, random.Random):
        state = value.getstate()
        return lambda: value.setstate(state)
    if isinstance(value, np.random.Generator):
        bits = copy.deepcopy(value.bit_generator.state)
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, torch.Generator):
        place = value.get_state()
        return lambda: value.set_state(place)
    return None


def _is_plain(value: object) -> bool:
    """Whether a copy of the value is as good as the value: a list of modules, for one, is not."""
    if isinstance(value, list | tuple | set | frozenset | deque):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return isinstance(value, _PLAIN)
