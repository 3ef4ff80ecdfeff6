"""What a node keeps of an experiment between rounds, and how it is put back.

==============  =========================================================================
``optimizer/``  the optimizer's moments, with ``optimizer_state="kept"``
``local/``      tensors that never leave: local layers, and buffers with ``buffers="local"``
``rule/``       what the aggregator's local rule needs in its next round
``personal/``   the rule's personal model, where it differs from what is sent
``lost/``       what compressing the update has lost so far
==============  =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polyclinic.aggregators import LOCAL_RULES
from polyclinic.aggregators.aggregator import LocalRuleStep
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import TrainRequest, WorkRequest
from polyclinic.node.experiment_state import ExperimentState, Kept, pack_optimizer, unpack_optimizer
from polyclinic.plans.workbench import State, Workbench


def keeps_something(request: WorkRequest) -> bool:
    """Whether the node must keep anything of this experiment."""
    args, rule = request.training_args, request.local_rule
    if (
        args.optimizer_state == "kept"
        or args.buffers == "local"
        or request.local_layers
        or args.update_compression != "none"
    ):
        return True
    return rule is not None and rule.name in LOCAL_RULES and LOCAL_RULES[rule.name].keeps


def take_up(workbench: Workbench, state: ExperimentState | None, request: TrainRequest) -> tuple[Kept, tuple[str, ...]]:
    """Goes on with what this node kept of earlier rounds; returns it, and notes for the researcher."""
    if state is None:
        return Kept(), ()
    kept = state.load(before=request.round)
    if kept is None:
        lost = ("this node has kept nothing of earlier rounds, and starts afresh",)
        return Kept(), () if request.round == 1 else lost
    args = request.training_args
    if args.optimizer_state == "kept":
        unpack_optimizer(workbench.plan.optimizer, kept.part("optimizer"))
        for group, lr in ((g, args.learning_rate(request.round)) for g in workbench.plan.optimizer.param_groups):
            if lr is not None:
                group["lr"] = lr
    put_back(workbench, kept.part("local"))
    return kept, ()


def to_keep(
    workbench: Workbench, request: TrainRequest, rule: LocalRuleStep | None, lost: Mapping[str, torch.Tensor]
) -> State:
    """What the node keeps after this round.

    Args:
        lost: by compressing the update.
    """
    kept: State = {}
    if request.training_args.optimizer_state == "kept":
        kept |= {f"optimizer/{name}": t for name, t in pack_optimizer(workbench.plan.optimizer).items()}
    own = set(request.local_layers)
    if request.training_args.buffers == "local":
        own |= {name for name, _ in workbench.plan.named_buffers()}
    kept |= {f"local/{name}": t for name, t in workbench.state().items() if name in own}
    if rule:
        kept |= {f"rule/{name}": t for name, t in rule.kept().items()}
        kept |= {f"personal/{name}": t for name, t in rule.personal().items()}
    return kept | {f"lost/{name}": t for name, t in lost.items()}


def put_back(workbench: Workbench, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies tensors that a node kept into the plan; those that the plan does not have any more are left out."""
    own = workbench.state()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in own:
                own[name].copy_(tensor)


def require_local_layers(workbench: Workbench, names: tuple[str, ...]) -> None:
    """Raises ConfigError if the plan lacks one of the tensors that are to stay at the node."""
    if odd := sorted(set(names) - workbench.state().keys()):
        raise ConfigError(f"the plan has no tensor {odd[0]!r}, which is to stay at the nodes")
