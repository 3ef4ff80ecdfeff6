"""Binary cross-entropy of the logit z and the label y:  mean over slides of  log(1 + exp(z)) - y z."""

from __future__ import annotations

from torch import nn


class BaselineLoss(nn.BCEWithLogitsLoss):
    """(batch, 1) logits and (batch, 1) labels, 0 or 1, of the same dtype -> scalar."""
