"""One node's part of an evaluation: the model's metrics on the node's own data, and counts that add up over nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from polyclinic.errors import EvaluationError, type_name
from polyclinic.messages.replies import EvaluateReply, MetricValue
from polyclinic.messages.requests import EvaluateRequest
from polyclinic.metrics import CustomMetric, Metric, Rows, get_metric, join_rows
from polyclinic.node.batches import load_batches
from polyclinic.node.local_training import as_arguments, to_device
from polyclinic.node.stop import Stop
from polyclinic.plans.workbench import Workbench
from polyclinic.randomness import derive, seeded


def choose_metrics(names: tuple[str, ...] | None, module: ModuleType | None, classes: tuple[str, ...]) -> list[Metric]:
    """The metrics that were asked for; or the dataset's own, or what fits its target.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    own = _own_metric(module)
    if names is not None:
        return [own if own and name == own.name else get_metric(name) for name in names]
    if own:
        return [own]
    return [get_metric(name) for name in (("loss", "accuracy") if classes else ("loss",))]


def evaluate(
    workbench: Workbench,
    dataset: Dataset[Any],
    collate_fn: Callable[[Any], Any] | None,
    metrics: list[Metric],
    request: EvaluateRequest,
    *,
    node_id: str,
    stop: Stop,
) -> EvaluateReply:
    """Runs the request's model over the data, without gradients.

    Raises:
        EvaluationError: if a metric cannot be computed from what the plan predicts.
    """
    began = time.perf_counter()
    num_samples = len(dataset)  # type: ignore[arg-type]
    with seeded(derive(request.seed, "evaluate", request.round, node_id)), torch.inference_mode():
        workbench.plan.eval()
        rows = _all_rows(workbench, dataset, collate_fn, metrics, request, num_samples, stop)
    values: dict[str, MetricValue] = {}
    tensors: dict[str, torch.Tensor] = {}
    for metric in metrics:
        counts = metric.counts(rows[metric.name])
        estimate = metric.node_estimate(rows[metric.name], counts)
        values[metric.name] = MetricValue(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            higher_is_better=metric.higher_is_better,
            exact=estimate.exact,
        )
        tensors |= {f"{metric.name}/{key}": torch.from_numpy(np.asarray(array)) for key, array in counts.items()}
    return EvaluateReply(
        request_id=request.request_id,
        node_id=node_id,
        num_samples=num_samples,
        metrics=values,
        seconds=time.perf_counter() - began,
        tensors=tensors,
    )


def _all_rows(
    workbench: Workbench,
    dataset: Dataset[Any],
    collate_fn: Callable[[Any], Any] | None,
    metrics: list[Metric],
    request: EvaluateRequest,
    num_samples: int,
    stop: Stop,
) -> dict[str, Rows]:
    """Each metric's rows over the whole dataset, in its order."""
    found: dict[str, list[Rows]] = {metric.name: [] for metric in metrics}
    batches = load_batches(
        dataset,
        [torch.arange(num_samples)] if num_samples else [],
        batch_size=request.training_args.batch_size,
        collate_fn=collate_fn,
        num_workers=request.training_args.num_workers,
        seed=0,
    )
    plan, predicts = workbench.plan, any(metric.name != "loss" for metric in metrics)
    for batch in batches:
        stop.check()
        arguments = as_arguments(to_device(batch, workbench.device))
        target = to_numpy(arguments[-1])
        predicted = to_numpy(plan.predict(*arguments[:-1])) if predicts else target
        for metric in metrics:
            if metric.name == "loss":
                found["loss"].append(metric.rows(target, _scalar(plan.testing_step(*arguments), type(plan).__name__)))
            else:
                found[metric.name].append(metric.rows(target, predicted))
    return {name: join_rows(parts) for name, parts in found.items()}


def _own_metric(module: ModuleType | None) -> Metric | None:
    """The metric that comes with a federated dataset: one whose pooled value is exact, or its plain function."""
    if module is None:
        return None
    metric: Metric | None = getattr(module, "METRIC", None)
    return metric or CustomMetric("metric", module.metric)


def _scalar(loss: Any, plan_name: str) -> Any:
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type_name(loss)
        raise EvaluationError(
            f"{plan_name}.testing_step must return the batch's loss as a scalar tensor, it returned {what}",
            to_do="reduce the loss, for example with .mean()",
        )
    return to_numpy(loss).reshape(())


def to_numpy(value: Any) -> Any:
    """A tensor as a numpy array; half precision as float32, which numpy and the metrics know better.

    Raises:
        EvaluationError: if it is no tensor.
    """
    if not isinstance(value, torch.Tensor):
        raise EvaluationError(
            f"expected a tensor of targets or predictions, got {type_name(value)}",
            to_do="let the dataset yield (inputs…, target) and predict() return one tensor",
        )
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
