"""A model judged at every node on its own data, and on all of them together.

Nodes send each metric's value and counts that add up (see `polyclinic.metrics`); the pooled value is computed from
the sums, so it is that of the concatenated data, although nobody has them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

from polyclinic.errors import Cancelled, EvaluationError
from polyclinic.experiment.failures import advice, named_together, with_tracebacks
from polyclinic.experiment.participants import Participant
from polyclinic.experiment.record import POOLED, FailureRow, HistoryRow
from polyclinic.experiment.rounds import RoundSettings, for_each, in_node_order, moved
from polyclinic.experiment.tables import render_table
from polyclinic.federation.federation import Federation
from polyclinic.messages.replies import EvaluateReply, Failure
from polyclinic.messages.requests import EvaluateRequest
from polyclinic.metrics import Counts, Estimate, add_counts, metric_of_counts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model.

    Attributes:
        nodes: by node name, then by metric: value, 95 % interval, number of samples.
        pooled: by metric, over all nodes' data together.
        round: after which round the model was taken.
        split: "test" or "train".
        failures: nodes that could not evaluate.
    """

    nodes: dict[str, dict[str, Estimate]]
    pooled: dict[str, Estimate]
    round: int
    split: Literal["train", "test"]
    failures: tuple[FailureRow, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, compare=False, repr=False)
    bytes: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    higher_is_better: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    @property
    def metrics(self) -> list[str]:
        """The metrics' names, in the order asked for."""
        return list(self.pooled)

    def __str__(self) -> str:
        return render_table(
            ["", *self.metrics, "samples"], self._cells(), title=f"{self.split} data, model after round {self.round}"
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ["", *self.metrics, "samples"])
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._cells())
        caption = f"{self.split} data, model after round {self.round}; [95 % interval]"
        return f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"

    def to_pandas(self) -> pd.DataFrame:
        """One row a node and metric: node, metric, value, low, high, num_samples, error_bound, exact."""
        import pandas as pd

        rows = [
            {"node": node, "metric": metric, **vars(estimate)}
            for node, estimates in [*self.nodes.items(), (POOLED, self.pooled)]
            for metric, estimate in estimates.items()
        ]
        return pd.DataFrame(rows)

    def rows(self) -> list[HistoryRow]:
        """As rows of the history."""
        return [
            HistoryRow(
                round=self.round,
                node=node,
                split=self.split,
                metric=metric,
                value=estimate.value,
                num_samples=estimate.num_samples,
                seconds=self.seconds.get(node, 0.0),
                bytes=self.bytes.get(node, 0),
            )
            for node, estimates in [*self.nodes.items(), (POOLED, self.pooled)]
            for metric, estimate in estimates.items()
        ]

    def score(self) -> float:
        """The first metric's pooled value, turned so that higher is better."""
        name = self.metrics[0]
        return self.pooled[name].value * (1 if self.higher_is_better[name] else -1)

    def _cells(self) -> list[list[str]]:
        table = []
        for node, estimates in [*self.nodes.items(), (POOLED, self.pooled)]:
            samples = max((e.num_samples for e in estimates.values()), default=0)
            table.append([node, *(_cell(estimates.get(m)) for m in self.metrics), str(samples)])
        table += [[row.node, *[f"failed: {row.what}"] * bool(self.metrics)] for row in self.failures]
        return table


def evaluate_nodes(
    request: EvaluateRequest,
    participants: Sequence[Participant],
    federation: Federation,
    settings: RoundSettings,
) -> Evaluation:
    """Asks all participants to evaluate ``request.tensors``.

    Args:
        request: for no node in particular.

    Raises:
        EvaluationError: fewer than ``min_nodes`` nodes could.
        Cancelled: on request.
    """
    began = time.monotonic()
    names = {p.node_id: p.name for p in participants}
    deadline = None if settings.deadline_seconds is None else began + settings.deadline_seconds
    replies: list[EvaluateReply] = []
    failures: list[Failure] = []
    with closing(in_node_order(federation.send(for_each(request, participants), deadline), names)) as arriving:
        for reply in arriving:
            if isinstance(reply, Failure):
                if reply.code == Cancelled.code:
                    raise Cancelled("the evaluation was stopped on request", to_do="ask again when you like")
                failures.append(reply)
            else:
                assert isinstance(reply, EvaluateReply)
                replies.append(reply)
    needed = len(names) if settings.min_nodes is None else min(settings.min_nodes, len(names))
    if len(replies) < needed or not replies:
        error = EvaluationError(
            f"the model could not be evaluated{named_together(failures, names)}", to_do=advice(failures)
        )
        raise with_tracebacks(error, failures, names)
    return Evaluation(
        nodes={names[r.node_id]: _estimates(r) for r in replies},
        pooled=_pool(replies),
        round=request.round,
        split=request.split,
        failures=tuple(FailureRow.of(f, names[f.node_id]) for f in failures),
        seconds={names[r.node_id]: r.seconds for r in replies},
        bytes={names[r.node_id]: moved(request.tensors, r.tensors) for r in replies},
        higher_is_better={m: v.higher_is_better for r in replies for m, v in r.metrics.items()},
    )


def _estimates(reply: EvaluateReply) -> dict[str, Estimate]:
    return {
        name: Estimate(
            value=value.value, low=value.low, high=value.high, num_samples=reply.num_samples, exact=value.exact
        )
        for name, value in reply.metrics.items()
    }


def _pool(replies: Sequence[EvaluateReply]) -> dict[str, Estimate]:
    pooled = {}
    for name in dict.fromkeys(name for reply in replies for name in reply.metrics):
        total: Counts = {}
        for reply in replies:
            total = add_counts(total, _counts(reply, name))
        pooled[name] = metric_of_counts(name, total).estimate(total)
    return pooled


def _counts(reply: EvaluateReply, metric: str) -> Counts:
    prefix = f"{metric}/"
    return {
        name.removeprefix(prefix): tensor.numpy() for name, tensor in reply.tensors.items() if name.startswith(prefix)
    }


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    about = "" if estimate.exact and not estimate.error_bound else "≈"
    return f"{about}{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
