"""Many nodes' part of a round at once: one stack of models, and one step for all of them.

The steps are those of `local_training`, on the same batches. Without random draws in the plan's step the models agree
with the plain path's up to rounding; with them (dropout) they are other draws of the same distribution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polyclinic.messages.requests import TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.batches import rows_of
from polyclinic.node.local_training import DERIVED, LocalResult
from polyclinic.node.node import Node
from polyclinic.node.stacked_batches import StackedBatches
from polyclinic.node.stacked_check import adjust
from polyclinic.node.stacked_optimizer import Declined, stacked_optimizer
from polyclinic.node.stacked_step import StackedStep
from polyclinic.node.stop import Stop
from polyclinic.node.streams import Streams
from polyclinic.plans.workbench import Workbench


@dataclass(frozen=True)
class StackedNode:
    """A node in a stack.

    Attributes:
        node_id: its id.
        rows: the tensors that hold its samples.
        streams: where its random numbers come from.
    """

    node_id: str
    rows: tuple[torch.Tensor, ...]
    streams: Streams

    @property
    def num_samples(self) -> int:
        """Its training samples."""
        return self.rows[0].shape[0]

    @property
    def kind(self) -> tuple[tuple[torch.dtype, torch.Size], ...]:
        """What the nodes of a stack have in common: the dtype and shape of a sample."""
        return tuple((t.dtype, t.shape[1:]) for t in self.rows)

    def batch_values(self, args: TrainingArgs) -> int:
        """Values in a batch."""
        return args.batch_size * sum(t[:1].numel() for t in self.rows)

    def round_samples(self, args: TrainingArgs) -> int:
        """Samples in all batches of a round, about."""
        return args.num_updates * args.batch_size if args.num_updates else (args.epochs or 1) * self.num_samples


def stacked_node(node: Node, request: TrainRequest, first: StackedNode | None) -> StackedNode:
    """A node with its data, to go in a stack with the first one.

    Raises:
        Declined: its data are not there, or cannot be in the stack.
    """
    args = request.training_args
    try:
        dataset, collate_fn = node.training_data(request)
    except Exception as err:
        raise Declined(str(err)) from err
    rows = rows_of(dataset) if collate_fn is None else None
    if rows is None:
        raise Declined("its samples are not the rows of tensors in memory")
    found = StackedNode(node.node_id, rows, node.streams or DERIVED)
    if found.num_samples < (args.batch_size if args.drop_last else 1):
        raise Declined("it has too few samples for a batch")
    if first is not None and found.kind != first.kind:
        raise Declined("its samples have another shape or dtype than the first node's")
    return found


def not_finite(nodes: Sequence[StackedNode]) -> set[int]:
    """The numbers of the nodes whose data hold values that are not finite: some losses raise an error for them."""
    found: set[int] = set()
    for column in zip(*(node.rows for node in nodes), strict=True):
        # One look at all of them is cheaper than one at each.
        if column[0].is_floating_point() and not torch.isfinite(torch.cat(column)).all():
            found |= {number for number, rows in enumerate(column) if not torch.isfinite(rows).all()}
    return found


def train_stacked(
    workbench: Workbench, step: StackedStep, nodes: Sequence[StackedNode], request: TrainRequest, stop: Stop
) -> list[LocalResult | None]:
    """Trains the request's model for one round at each of the nodes.

    Args:
        nodes: by id: the orders of their samples are drawn one node after the other.
        request: for no node in particular.

    Returns:
        What came of each node; None for one whose loss or model is not finite. The tensors are views of the stack.

    Raises:
        Cancelled, DeadlinePassed: between two steps.
        Exception: whatever the plan's step raises, which then concerns all nodes.
    """
    began = time.perf_counter()
    args = request.training_args
    # A plan that draws numbers in its steps draws for the whole stack from the first node's stream.
    with nodes[0].streams.training(request, nodes[0].node_id), torch.no_grad():
        workbench.reset(args.learning_rate(request.round))
        workbench.load(request.tensors)
        workbench.plan.train()
        constants = step.constants()
        orders = [_order(node, request, stop) for node in nodes]
        batches = StackedBatches([node.rows for node in nodes], orders, args.batch_size)
        table, losses = _steps(workbench, step, batches, constants, request, stop)
    finite = torch.isfinite(table).all(dim=1).numpy() & np.isfinite(losses).all(axis=1)
    seconds = (time.perf_counter() - began) / len(nodes)
    return [
        LocalResult(
            state=state,
            num_samples=node.num_samples,
            num_updates=int(updates),
            loss=math.fsum(of_node[:updates].tolist()) / int(updates),
            seconds=seconds,
            notes=(),
        )
        if fine
        else None
        for node, state, of_node, updates, fine in zip(
            nodes, step.states(table, constants), losses, batches.num_updates, finite, strict=True
        )
    ]


def _order(node: StackedNode, request: TrainRequest, stop: Stop) -> list[torch.Tensor]:
    stop.check()
    return list(node.streams.order(node.num_samples, request, node.node_id))


def _steps(
    workbench: Workbench,
    step: StackedStep,
    batches: StackedBatches,
    constants: dict[str, torch.Tensor],
    request: TrainRequest,
    stop: Stop,
) -> tuple[torch.Tensor, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """All steps of all nodes: the table of their parameters, and their losses, (nodes, steps), padded with zeros."""
    optimizer = stacked_optimizer(workbench.plan.optimizer)
    start, count = step.row(), len(batches.num_updates)
    table = start.expand(count, -1).clone()
    tables = [table, *optimizer.tables(table)]
    losses = np.zeros((count, int(batches.num_updates.max())))
    for together in batches:
        stop.check()
        n = len(together.nodes)
        if n == count:
            gradients, found = step.gradients(table, constants, batches.load(together))
            adjust(gradients, table, start, request)
            optimizer.step(table, gradients, *tables[1:])
        else:
            padded = together.padded(count)
            parts = [whole[padded.nodes] for whole in tables]
            gradients, found = step.gradients(parts[0], constants, batches.load(padded))
            adjust(gradients, parts[0], start, request)
            optimizer.step(parts[0], gradients, *parts[1:])
            for whole, part in zip(tables, parts, strict=True):
                whole[together.nodes] = part[:n]
        losses[together.nodes, together.steps] = found[:n].numpy()
    return table, losses
