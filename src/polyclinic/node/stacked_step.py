"""One step of a plan for many nodes at once.

The nodes' trained parameters are the rows of one table, (nodes, values). `torch.func` makes of the plan's step a
function of a row and a batch that gives the loss and its gradient, and `vmap` makes of that one for all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.func import functional_call, grad_and_value, vmap

from polyclinic.node.recording import NotRecorded, record
from polyclinic.plans.torch_plan import TorchTrainingPlan

Batch = tuple[torch.Tensor, ...]
Gradients = Callable[[torch.Tensor, Mapping[str, torch.Tensor], Batch], tuple[torch.Tensor, torch.Tensor]]

# vmap goes through the plan's Python at each step, which takes several times as long as the operations. Recording them
# takes as long as a few steps.
_RECORD_AFTER = 4


class StackedStep:
    """A plan's step, differentiated and mapped over nodes.

    Args:
        plan: its other parameters and its buffers are constants of the step.
        trained: names of the parameters in a row; all of one dtype.
    """

    def __init__(self, plan: TorchTrainingPlan, trained: Collection[str]) -> None:
        self._step = _Step(plan)
        self.trained = {name: p for name, p in plan.named_parameters() if name in trained}
        self._sizes = [p.numel() for p in self.trained.values()]
        self._recorded: dict[tuple[object, ...], Gradients] = {}
        self._constants: dict[str, torch.Tensor] = {}
        self._uses: Counter[tuple[object, ...]] = Counter()
        # Where one tensor has several names, each of them must be in the state.
        by_tensor = {id(p): name for name, p in self.trained.items()}
        self._row_names = {name: by_tensor.get(id(t)) for name, t in plan.state_dict(keep_vars=True).items()}

    def row(self) -> torch.Tensor:
        """The trained parameters' values now, (values,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.trained.values()])

    def constants(self) -> dict[str, torch.Tensor]:
        """All other tensors of the plan, copied, by name."""
        plan = self._step.plan
        named = [*plan.named_parameters(), *plan.named_buffers()]
        found = {name: t.detach().clone() for name, t in named if name not in self.trained}
        # A recording must not outlive what its Python may have made of the constants.
        last, self._constants = self._constants, found
        if not (last.keys() == found.keys() and all(torch.equal(last[name], t) for name, t in found.items())):
            self._recorded.clear()
        return found

    def states(self, table: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Each node's state, as views of the table; constants are shared."""
        columns = zip(self.trained, torch.split(table, self._sizes, dim=1), strict=True)
        views = {n: c.reshape(len(c), *self.trained[n].shape).unbind() for n, c in columns}
        plan = self._step.plan
        own = {id(t): constants[n] for n, t in [*plan.named_parameters(), *plan.named_buffers()] if n in constants}
        live = plan.state_dict(keep_vars=True)
        shared = {name: own[id(live[name])] for name, source in self._row_names.items() if source is None}
        order = [(name, source) for name, source in self._row_names.items()]
        return [
            {name: shared[name] if source is None else views[source][k] for name, source in order}
            for k in range(len(table))
        ]

    def gradients(
        self, rows: torch.Tensor, constants: Mapping[str, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients (nodes, values) and losses (nodes,) of a batch each; ``batch`` is (nodes, batch size, …).

        Random draws inside of the step differ from node to node.
        """
        key = (len(rows), *((t.shape, t.dtype) for t in batch))
        if key not in self._recorded:
            self._uses[key] += 1
            mapped = self._mapped("different")
            if self._uses[key] <= _RECORD_AFTER:
                return mapped(rows, constants, batch)
            self._recorded[key] = _recorded(mapped, rows, constants, batch)
        return self._recorded[key](rows, constants, batch)

    def trial(
        self, rows: torch.Tensor, constants: Mapping[str, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `gradients`, but every node draws the same random numbers, which are those of a single node's step."""
        return self._mapped("same")(rows, constants, batch)

    def _mapped(self, randomness: str) -> Gradients:
        mapped: Gradients = vmap(grad_and_value(self._loss), in_dims=(0, None, 0), randomness=randomness)
        return mapped

    def _loss(self, row: torch.Tensor, constants: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        parts = zip(self.trained.items(), torch.split(row, self._sizes), strict=True)
        tensors = {name: part.view(p.shape) for (name, p), part in parts} | dict(constants)
        loss: torch.Tensor = functional_call(self._step, {f"plan.{name}": t for name, t in tensors.items()}, batch)
        return loss.reshape(())


def _recorded(
    gradients: Gradients, rows: torch.Tensor, constants: Mapping[str, torch.Tensor], batch: Batch
) -> Gradients:
    """The same without the plan's Python, for these shapes; unchanged where a step reads numbers out of constants."""
    names = list(constants)

    def flat(rows: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return gradients(rows, dict(zip(names, others, strict=False)), others[len(names) :])

    try:
        fast = record(flat, (rows, *constants.values(), *batch))
    except NotRecorded:
        return gradients
    return lambda rows, constants, batch: fast(rows, *constants.values(), *batch)  # type: ignore[return-value]


class _Step(torch.nn.Module):
    """`functional_call` calls a module; this one's call is the plan's step."""

    def __init__(self, plan: TorchTrainingPlan) -> None:
        super().__init__()
        self.plan = plan

    def forward(self, *batch: Any) -> torch.Tensor:
        return self.plan.training_step(*batch)
