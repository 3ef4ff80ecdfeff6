"""The built plans of this process: few, because each holds a model."""

from __future__ import annotations

import json
from collections import OrderedDict

import torch

from polyclinic.errors import ConfigError
from polyclinic.messages.requests import WorkRequest
from polyclinic.plans.source import PlanSource, load_plan_class
from polyclinic.plans.workbench import Workbench
from polyclinic.randomness import derive

_AT_MOST = 2


class Workbenches:
    """Builds each plan once, and keeps the latest ones. Shared by all nodes of a process."""

    def __init__(self) -> None:
        self._built: OrderedDict[tuple[str, ...], Workbench] = OrderedDict()

    def get(self, request: WorkRequest) -> Workbench:
        """The workbench for a request's plan.

        Raises:
            PlanError: if the plan cannot be built.
            ConfigError: if its device is not there.
        """
        source = PlanSource(text=request.plan.text, class_name=request.plan.class_name)
        device = pick_device(request.training_args.device)
        key = (source.sha256, source.class_name, json.dumps(request.model_args, sort_keys=True), str(device))
        if key not in self._built:
            while len(self._built) >= _AT_MOST:
                self._built.popitem(last=False)
            plan_class = load_plan_class(source)
            # Weights are overwritten by those that are sent; the seed keeps what else a plan draws the same everywhere.
            seed = derive(request.seed, "build")
            self._built[key] = Workbench(plan_class, request.model_args, seed=seed, device=device)
        self._built.move_to_end(key)
        return self._built[key]


def pick_device(name: str) -> torch.device:
    """The torch device for ``training_args["device"]``; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        raise ConfigError(f"device {name!r} is not there at this node", to_do='use device="auto"') from err
    return device
