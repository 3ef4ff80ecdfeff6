"""What nodes are at: what is said of it, who hears it, and that no result depends on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, InProcessFederation, Observer, ProcessFederation, TorchTrainingPlan
from polyclinic.federation.federation import Federation
from polyclinic.federation.node_state import NodeState, Watchers, clock, state_of_work
from polyclinic.federation.places import create_nodes
from polyclinic.messages.requests import SearchRequest
from polyclinic.node.stop import Progress


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (NodeState("n", "receiving"), "receiving"),
        (NodeState("n", "waiting"), "waiting"),
        (NodeState("n", "waiting", 1, ("",)), "waiting, 1 before it (you)"),
        (NodeState("n", "waiting", 3, ("bob", "", "eve")), "waiting, 3 before it (bob, you, eve)"),
        (NodeState("n", "waiting", 40, ("a", "b", "c", "d")), "waiting, 40 before it (a, b, c, …)"),
        (NodeState("n", "training", progress=Progress(5, 20, 0.12345)), "training, batch 5 of 20, loss 0.123"),
        (NodeState("n", "training", progress=Progress(5, 0, 2.0)), "training, batch 5, loss 2"),
        (NodeState("n", "training", progress=Progress(5, 20, float("nan"))), "training, batch 5 of 20"),
        (NodeState("n", "offline"), "offline"),
    ],
)
def test_the_words_for_a_reader(state: NodeState, words: str) -> None:
    assert state.describe() == words


def test_the_time_of_absence_has_its_day_if_that_is_not_today() -> None:
    now = time.time()
    assert NodeState("n", "offline", since=now).describe() == f"offline since {time.strftime('%H:%M')}"
    assert clock(now - 3 * 86400).startswith(time.strftime("%Y-%m-%d ", time.localtime(now - 3 * 86400)))


def test_watchers_hear_of_their_experiment_while_they_watch() -> None:
    class Asked(SearchRequest):
        experiment_id: str

    watchers, heard = Watchers(), []
    mine, other = Asked(request_id="r", experiment_id="mine"), Asked(request_id="r", experiment_id="other")
    with watchers.watch("mine", heard.append), watchers.watch("mine", heard.append):
        assert (watchers.of(mine), watchers.of(other), watchers.of(SearchRequest(request_id="r"))) == (1, 0, 0)
        watchers.tell(mine, NodeState("n", "sending"))
        watchers.tell(other, NodeState("n", "done"))
    watchers.tell(mine, NodeState("n", "done"))
    assert heard == [NodeState("n", "sending")] * 2
    assert not watchers.of(mine)


def test_work_that_has_no_word_of_its_own() -> None:
    assert state_of_work(SearchRequest(request_id="r")) == "working"


class Slow(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        time.sleep(self.model_args["seconds"])
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


class Seeing(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, NodeState]] = []

    def node_state(self, *, node: str, state: NodeState, **_: Any) -> None:
        self.seen.append((node, state))


def run(federation: Federation, folder: Path, *observers: Observer, seconds: float = 0.09) -> Experiment:
    found = Experiment(
        Slow,
        model_args={"seconds": seconds},
        tags=["heart"],
        federation=federation,
        training_args={"batch_size": 8, "num_updates": 6},
        round_limit=1,
        folder=folder,
        observers=observers,
    )
    found.run()
    return found


@pytest.mark.parametrize("make", [InProcessFederation.at, lambda place: ProcessFederation(place, 1)], ids=["here", "1"])
def test_a_training_tells_how_far_it_is(make: Any, tmp_path: Path) -> None:
    create_nodes(tmp_path / "nodes", "fed_heart_disease", tags=["heart"], centers=[0])
    federation, seeing = make(tmp_path / "nodes"), Seeing()
    found = run(federation, tmp_path / "run", seeing)
    # Six batches take more than twice as long as a training that tells nothing.
    assert seeing.seen
    for node, state in seeing.seen:
        assert (node, state.node_id, state.state) == ("Cleveland", "cleveland", "training")
        assert state.progress is not None
        assert 1 <= state.progress.batch <= 6
        assert state.progress.num_batches == 6
        assert state.progress.loss == float(f"{state.progress.loss:.3g}")
    batches = [state.progress.batch for _, state in seeing.seen if state.progress]
    assert batches == sorted(set(batches))
    # Nobody watches, and it is quick: the same bits.
    other = run(federation, tmp_path / "other", seconds=0.0).model().state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in found.model().state_dict().items())
    federation.close()
