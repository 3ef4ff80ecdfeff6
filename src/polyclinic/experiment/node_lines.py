"""What the nodes of a round are at, a line for each, for progress bars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polyclinic.federation.node_state import OFFLINE, NodeState
from polyclinic.messages.replies import Failure, Reply, TrainReply

# More nodes than this are counted together.
MOST = 12


class NodeLines:
    """The lines of one run. There are none until a node says what it is at, as nodes at hospitals do."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._offline: set[str] = set()
        self._any = False

    def begin(self, nodes: Sequence[str]) -> None:
        """A round begins. What nodes were at before is shown until they say something new."""
        self._texts = {node: self._texts.get(node, "") for node in nodes}
        self._kinds = {node: self._kinds.get(node, "") for node in nodes}

    def state(self, node: str, state: NodeState) -> str:
        """Takes over a state; returns a sentence if the node has vanished, or has come back, and else an empty text."""
        self._any = True
        self._put(node, state.state, state.describe())
        if state.state == OFFLINE and node not in self._offline:
            self._offline.add(node)
            return f"{node} is {state.describe()}; what it is asked waits for it"
        return self._back(node) if state.state != OFFLINE else ""

    def replied(self, node: str, reply: Reply) -> str:
        """Takes over a reply; returns what `state` does."""
        if isinstance(reply, TrainReply):
            self._put(node, "done", f"done, loss {reply.loss:.4g}")
        elif isinstance(reply, Failure):
            self._put(node, "failed", f"failed: {reply.code}")
            return ""
        return self._back(node)

    def lines(self) -> list[str]:
        """The lines, in the order of the nodes."""
        if not self._any:
            return []
        texts = {node: text for node, text in self._texts.items() if text}
        shown = list(texts)[: MOST if len(texts) <= MOST else MOST - 1]
        width = max(map(len, shown), default=0)
        lines = [f"  {node:<{width}}  {texts[node]}" for node in shown]
        if rest := list(texts)[len(shown) :]:
            counts = Counter(self._kinds[node] for node in rest)
            lines.append(f"  and {len(rest)} more: " + ", ".join(f"{number} {kind}" for kind, number in counts.items()))
        return lines

    def _put(self, node: str, kind: str, text: str) -> None:
        self._texts[node], self._kinds[node] = text, kind

    def _back(self, node: str) -> str:
        if node not in self._offline:
            return ""
        self._offline.discard(node)
        return f"{node} is there again"
