"""What stands between a request of a trusted researcher and a hospital's data: policy, approval, journal.

The long-lived node of a real federation asks here before anything runs, and tells what came of it. In process, and in
worker processes of one's own machine, the researcher is the data manager, and nothing of this is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from polyclinic.messages.replies import Reply
from polyclinic.messages.requests import WorkRequest
from polyclinic.node.node import Node


@dataclass(frozen=True)
class Admission:
    """A request that may run.

    Args:
        approval: the short id of what the data manager has said yes to; "" where the policy asks for no approval.
        plan_sha256: of the plan's text and class name.
    """

    researcher: str
    key: str
    approval: str
    plan_sha256: str


class Governance:
    """The governance of one node.

    Args:
        node: with a folder; its database holds approvals and journal, its folder the policy.
        sign: signs with the node's key, for the journal; None: the node has not joined a hub.
    """

    def __init__(self, node: Node, sign: Callable[[bytes], bytes] | None = None) -> None:
        self._node = node
        self._sign = sign

    def admit(self, researcher: str, key: str, request: WorkRequest) -> Admission:
        """Lets a request run, or says why not. What needs an approval and has none becomes pending.

        Args:
            researcher: whose signature was checked.
            key: the public key that it was checked with.

        Raises:
            PolicyRefused: a rule of the policy is against it; names the rule.
            NotApproved: it waits for the data manager, or was rejected or revoked.
        """
        raise NotImplementedError

    def stands(self, admission: Admission) -> bool:
        """Whether what was admitted may still run: False once its approval is revoked or its time is over."""
        raise NotImplementedError

    def started(self, admission: Admission, request: WorkRequest) -> None:
        """The work begins."""
        raise NotImplementedError

    def left(
        self, admission: Admission, request: WorkRequest, reply: Reply, tensors: Path | None, seconds: float
    ) -> Reply:
        """Looks at what would leave, and writes down what does; the reply may be a `Failure` instead."""
        raise NotImplementedError
