"""What nodes say of themselves while they work, on its way to whoever watches. Nothing else depends on it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping

from polyclinic.errors import PolyclinicError
from polyclinic.federation.node_state import OFFLINE, STATES, WAITING, NodeState, Watchers
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.directory import Directory
from polyclinic.federation.over_nats.encryption import decrypt
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.messages.requests import Request
from polyclinic.node.stop import Progress


def state_in(data: bytes, node_id: str, me: Identity, directory: Directory) -> tuple[str, NodeState] | None:
    """The request's id and the state in what a node says to a researcher; None if it says nothing that is understood.
    The researcher's own requests are named "" among those before."""
    try:
        told = json.loads(decrypt(data, me.keys, directory.require(node_id).key))
        before = tuple("" if who == me.party_id else str(who)[:200] for who in told.get("before", ()))
        progress = None if told.get("progress") is None else _progress(*told["progress"])
        state = NodeState(node_id, str(told["state"]), int(told.get("num_before", 0)), before, progress)
        return (str(told["request_id"]), state) if state.state in STATES else None
    except (PolyclinicError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _progress(batch: object, num_batches: object, loss: object) -> Progress:
    if not (isinstance(batch, int) and isinstance(num_batches, int) and isinstance(loss, int | float)):
        raise TypeError
    return Progress(batch, num_batches, float(loss) if math.isfinite(loss) else math.nan)


class Showing:
    """Tells those who watch one sending what has changed.

    Args:
        directory: to see who is away.
        requests: by node id.
        states: the latest that each node said of itself; looked at, not changed.
    """

    def __init__(
        self, watchers: Watchers, directory: Directory, requests: Mapping[str, Request], states: Mapping[str, NodeState]
    ) -> None:
        self._watchers, self._directory = watchers, directory
        self._requests, self._states = requests, states
        self._shown: dict[str, NodeState] = {}
        self._unheard_until = 0.0

    def look(self, node_ids: list[str], *, connected: bool) -> None:
        """To be called several times a second.

        Args:
            node_ids: that are waited for.
            connected: whether the hub is reached; where it is not, nothing is known of the nodes.
        """
        now = time.monotonic()
        if not connected:
            self._unheard_until = now + subjects.HEARTBEAT_TTL_SECONDS
        for node_id in node_ids:
            request = self._requests[node_id]
            if not self._watchers.of(request):
                continue
            state = self._state(node_id, may_be_away=now > self._unheard_until)
            if state is not None and self._shown.get(node_id) != state:
                self._shown[node_id] = state
                self._watchers.tell(request, state)

    def _state(self, node_id: str, *, may_be_away: bool) -> NodeState | None:
        known = self._directory.nodes.get(node_id)
        if known is None or known.is_there:
            back = NodeState(node_id, WAITING) if node_id in self._shown else None
            return self._states.get(node_id) or back
        return NodeState(node_id, OFFLINE, since=known.last_heard) if may_be_away else None
