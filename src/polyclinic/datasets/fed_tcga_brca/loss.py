"""The negative Cox log partial likelihood of a mini-batch, over the number of its samples.

With s the scores, E the events (0 or 1) and the batch sorted by falling time,

    loss = 1/n * sum_i E_i * ( log sum_{j <= i} exp(s_j) - s_i )

where {j <= i} are those still at risk at time i. Ties are not treated: of two patients with the same time the
one that comes first in the batch counts as still at risk for the other, and not the other way round.

With ties, for full cohorts and for strata: `polyclinic.datasets.cox`.

Cox, Regression models and life-tables, JRSS B 1972. As in FLamby, the mean is over samples, not over events.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BaselineLoss(nn.Module):
    """(batch, 1) scores and (batch, 2) targets (event, time) -> scalar; 0 for a batch without an event."""

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        event, time = target[:, 0], target[:, 1]
        order = torch.argsort(time, descending=True, stable=True)
        s = scores.reshape(-1)[order]
        at_risk = torch.logcumsumexp(s, dim=0)
        return (event[order].to(s.dtype) * (at_risk - s)).mean()
