"""The lines below a progress bar."""

from __future__ import annotations

from polyclinic.experiment.node_lines import MOST, NodeLines
from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.node.stop import Progress


def done(node: str) -> TrainReply:
    return TrainReply(request_id="r", node_id=node, num_samples=1, num_updates=1, loss=0.25, seconds=0.0)


def test_there_are_none_where_no_node_says_what_it_is_at() -> None:
    lines = NodeLines()
    lines.begin(["a", "b"])
    assert lines.replied("a", done("a")) == ""
    assert lines.lines() == []


def test_nodes_are_in_the_order_of_the_round_and_replies_are_lines_too() -> None:
    lines = NodeLines()
    lines.begin(["long name", "b", "c"])
    lines.state("b", NodeState("b", "training", progress=Progress(3, 0, 1.234567)))
    assert lines.lines() == ["  b  training, batch 3, loss 1.23"]
    lines.replied("long name", done("long name"))
    lines.replied("c", Failure(request_id="r", node_id="c", code="deadline", stage="wait", what="late"))
    assert lines.lines() == [
        "  long name  done, loss 0.25",
        "  b          training, batch 3, loss 1.23",
        "  c          failed: deadline",
    ]
    lines.begin(["b", "c"])
    assert [line.split()[0] for line in lines.lines()] == ["b", "c"]


def test_many_nodes_are_counted() -> None:
    lines, nodes = NodeLines(), [f"n{number:02}" for number in range(MOST + 5)]
    lines.begin(nodes)
    for number, node in enumerate(nodes):
        lines.state(node, NodeState(node, "waiting" if number % 2 else "receiving"))
    assert len(lines.lines()) == MOST
    assert lines.lines()[-1] == "  and 6 more: 3 waiting, 3 receiving"


def test_a_node_that_was_missed_comes_back_with_a_reply_too() -> None:
    lines = NodeLines()
    lines.begin(["a"])
    assert lines.state("a", NodeState("a", "offline")) == "a is offline; what it is asked waits for it"
    assert lines.state("a", NodeState("a", "offline")) == ""
    assert lines.replied("a", done("a")) == "a is there again"
    assert lines.replied("a", done("a")) == ""


def test_a_node_that_counts_as_failed_has_not_come_back() -> None:
    lines = NodeLines()
    lines.begin(["a"])
    lines.state("a", NodeState("a", "offline"))
    assert lines.replied("a", Failure(request_id="r", node_id="a", code="deadline", stage="wait", what="late")) == ""
    assert lines.state("a", NodeState("a", "receiving")) == "a is there again"
