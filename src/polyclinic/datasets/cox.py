"""Cox's partial likelihood with ties, for a batch or a full cohort, and Breslow's baseline hazard.

With scores s, events E, and R(t) all who are watched at time t (their own time is t or later), the negative log partial
likelihood over n, the number of samples, is

    Breslow:  1/n Σ_i E_i ( log Σ_{j in R(t_i)} exp(s_j) - s_i )
    Efron:    the same, where the l-th of the d events at one time (l = 0 … d-1) has, in place of the sum,
              Σ_{j in R(t)} exp(s_j) - l/d Σ_{j: event at t} exp(s_j)

Without ties the two are equal. Gradients are PyTorch's.

What adds up over centers, and what does not. A patient's term compares with all who are watched at that time, so the
likelihood of a pooled cohort is no sum over centers: it needs scores and times of all patients in one place. What
federated training minimises is the *stratified* likelihood, in which each patient is compared with those of the same
center, and each center may have a baseline hazard of its own: that one is a sum over centers. If each node takes its
full cohort as one batch, then by the 1/n above one step of plain SGD, averaged by numbers of samples (`FedAverage`), is
exactly a step on the pooled stratified likelihood. With several local steps, or with Adam, it is not, as for any loss.
In a mini-batch patients are compared within the batch only: noisier, the fewer the events.

Cox, JRSS B 34 (1972) 187-220; Breslow, Biometrics 30 (1974) 89-99; Efron, JASA 72 (1977) 557-565.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from polyclinic.errors import ConfigError, TrainingError
from polyclinic.metrics.survival_times import survival_times, time_bins

Ties = Literal["efron", "breslow"]


class CoxLoss(nn.Module):
    """(batch, 1) or (batch,) scores and (batch, 2) targets (event, time) -> scalar; 0 for a batch without an event.

    Args:
        ties: "efron" or "breslow".

    Raises:
        ConfigError: another way to treat ties.
    """

    def __init__(self, ties: Ties = "efron") -> None:
        super().__init__()
        if ties not in ("efron", "breslow"):
            raise ConfigError(f"there is no way to treat ties called {ties!r}", to_do='choose "efron" or "breslow"')
        self.ties: Ties = ties

    def forward(self, scores: Tensor, target: Tensor, strata: Tensor | None = None) -> Tensor:
        """The loss; with ``strata`` (batch,), for example center numbers, compared within each stratum only.

        Raises:
            TrainingError: targets without the columns event (0 or 1) and time.
        """
        check_targets(scores, target)
        if strata is None:
            return partial_likelihood(scores.reshape(-1), target, self.ties) / len(target)
        losses = [
            partial_likelihood(scores.reshape(-1)[strata == stratum], target[strata == stratum], self.ties)
            for stratum in torch.unique(strata)
        ]
        return torch.stack(losses).sum() / len(target)


def partial_likelihood(scores: Tensor, target: Tensor, ties: Ties) -> Tensor:
    """The negative log partial likelihood: a sum over events. (n,) scores and (n, 2) targets."""
    order = torch.argsort(target[:, 1], descending=True, stable=True)
    s, event, time = scores[order], target[order, 0] > 0, target[order, 1]
    # Watched at a time are all up to the last one of that time, in falling order.
    _, group, sizes = torch.unique_consecutive(time, return_inverse=True, return_counts=True)
    at_risk = torch.logcumsumexp(s, dim=0)[sizes.cumsum(0) - 1]
    s, group = s[event], group[event]
    terms = at_risk[group]
    if ties == "efron":
        num_events = torch.bincount(group, minlength=len(sizes))
        first = num_events.cumsum(0) - num_events
        share = (torch.arange(len(s), device=s.device) - first[group]).to(s.dtype) / num_events[group]
        # exp(s) over the sum of all watched lies in (0, 1], so nothing overflows, whatever the scores.
        tied = torch.zeros_like(at_risk).index_add(0, group, torch.exp(s - terms))
        terms = terms + torch.log1p(-share * tied[group])
    return (terms - s).sum()


def check_targets(scores: Tensor, target: Tensor) -> None:
    """TrainingError unless targets are (n, 2), events 0 or 1 first, and there is a score for each."""
    if target.ndim != 2 or target.shape[1] != 2 or scores.numel() != len(target):
        raise TrainingError(
            f"scores have shape {tuple(scores.shape)} and targets {tuple(target.shape)}",
            to_do="give one score a sample, and targets (n, 2): event (0 or 1), then time",
        )
    if not bool(((target[:, 0] == 0) | (target[:, 0] == 1)).all()):
        raise TrainingError(
            "the first column of the targets has values that are neither 0 nor 1",
            to_do="put the event (0 or 1) in the first column and the time in the second",
        )


class BaselineHazard(nn.Module):
    """Breslow's cumulative baseline hazard H(t) on a grid of time, so that a Cox model predicts survival curves.

    With d_b events in bin b of time and R_b the sum of exp(score) over all who are watched at the bin's start,
    H(t) = Σ_b d_b / R_b over the bins up to t, and S(t | x) = exp(-H(t) exp(score)). Breslow's estimator itself takes R
    at each event's own time; at a bin's start a few more are watched, so this H is a little too small, by less than the
    share of patients who leave within a bin, which is 3 to 6 % of its time wide.

    It needs no times to leave a center: d_b and R_b add up. Both are buffers, over the center's number of samples, so
    `FedAverage`, which weights by numbers of samples, makes them those of all centers together.

    Args:
        horizon: up to when curves are predicted, in the unit of the times. The grid is that of the survival metrics.
    """

    events: Tensor
    watched: Tensor

    def __init__(self, horizon: float) -> None:
        super().__init__()
        self.bins = torch.from_numpy(time_bins(horizon).copy())
        self.times = torch.from_numpy(survival_times(horizon))
        self.register_buffer("events", torch.zeros(len(self.bins), dtype=torch.float64))
        self.register_buffer("watched", torch.zeros(len(self.bins), dtype=torch.float64))

    @torch.no_grad()
    def observe(self, scores: Tensor, target: Tensor) -> None:
        """Takes d and R of a whole cohort, in place of those before: (n, 1) or (n,) scores, (n, 2) targets.

        In eval mode it does nothing, so that a `training_step` which serves as `testing_step` learns nothing from
        test data.

        Raises:
            TrainingError: targets without the columns event (0 or 1) and time.
        """
        check_targets(scores, target)
        if not self.training:
            return
        bins = self.bins.to(target.device)
        when = torch.searchsorted(bins, target[:, 1].to(bins.dtype).contiguous())
        empty = torch.zeros(len(bins) + 1, dtype=bins.dtype, device=bins.device)
        risk = empty.index_add(0, when, scores.reshape(-1).to(bins.dtype).exp())
        died = empty.index_add(0, when, target[:, 0].to(bins.dtype))
        self.events.copy_(died[:-1] / len(target))
        self.watched.copy_(risk.flip(0).cumsum(0).flip(0)[:-1] / len(target))

    def cumulative(self) -> Tensor:
        """(10,) H at `survival_times`; 0 before anything was observed."""
        steps = torch.where(self.events > 0, self.events / self.watched, 0.0).cumsum(0)
        # The bins end at the ten times, so each is found as it stands.
        return steps[torch.searchsorted(self.bins, self.times).to(steps.device)]

    def survival(self, scores: Tensor) -> Tensor:
        """(n, 10) the probability of living beyond each of `survival_times`, of (n, 1) or (n,) scores."""
        return torch.exp(-self.cumulative() * scores.reshape(-1, 1).to(self.events.dtype).exp())
