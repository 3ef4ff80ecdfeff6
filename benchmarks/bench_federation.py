"""What a real federation on this machine costs: a hub, nodes and a researcher, each a process of its own, over TLS.

    python benchmarks/bench_federation.py [small] [many] [large] [giant] [rest] [soak] [--rounds N] [--nodes N] ...

small   added time of a round of the 14-parameter model with 4 nodes, over in process: goals 30 ms, 95 % within 80 ms;
        at hospitals that ask nobody, and as they are by default, with approval and sandbox
many    the same with 50 nodes that ask nobody: goal 400 ms
large   a round of a 100 MB model with 4 nodes beside the same bytes through plain nats-py: goal 2.5 times that; and
        peak memory of each process, in models, on top of what it has before: goal 3
giant   the same with 1 GB and 2 nodes, for one round
rest    memory and processor of a node with nothing to do: goals 150 MB, 0.5 % of a core
soak    memory and store of the hub at round 50 and at the last of 500: goal flat

Other programs at work on the machine show in all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from torch import nn

import plain_nats
from polyclinic import Experiment, InProcessFederation, TorchTrainingPlan
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.federation.federation import Federation
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.try_out import OPEN, TryOut
from polyclinic.node.database_registry import DatabaseRegistry
from polyclinic.node.installed_plans import approve_baseline
from polyclinic.node.node import Node

SMALL = {"dataset": "fed_heart_disease"}


class Large(TorchTrainingPlan):
    """A linear model with ballast that is not trained: what is measured is moving and averaging."""

    def __init__(self, model_args: dict[str, int]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        layers = (nn.Parameter(torch.zeros(model_args["megabytes"] * 10_000), requires_grad=False) for _ in range(25))
        self.ballast = nn.ParameterList(layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


def experiment(federation: Federation, folder: Path, rounds: int, megabytes: int = 0) -> Experiment:
    """One update a round, so that little but the federation is measured; ``megabytes`` 0: the 14-parameter model."""
    return Experiment(
        Large if megabytes else BaselinePlan,
        model_args={"megabytes": megabytes} if megabytes else SMALL,
        tags=["heart"],
        federation=federation,
        training_args={"batch_size": 16, "lr": 0.003, "num_updates": 1},
        round_limit=rounds,
        folder=folder,
        observers=[],
    )


def seconds_of_rounds(federation: Federation, folder: Path, rounds: int, megabytes: int = 0) -> list[float]:
    """Of each round but the first, which loads what is needed."""
    made = experiment(federation, folder, rounds + 1, megabytes)
    made.run()
    return [record.seconds for record in made.records[2:]]


@contextmanager
def hospitals_with(nodes: int, *, policy: str = OPEN) -> Iterator[tuple[TryOut, list[str]]]:
    """Nodes with data on heart disease, which do not run yet and have approved its plan, and their ids."""
    with tempfile.TemporaryDirectory() as name, TryOut(Path(name), policy=policy) as hospitals:
        names = []
        for number in range(nodes):
            node = Node.create(hospitals.place, f"hospital-{number:02}")
            assert isinstance(node.registry, DatabaseRegistry)
            data = {"module": "fed_heart_disease", "center": number % 4, "options": {}}
            node.registry.add("federated", data, tags=["heart"], name="heart")
            approve_baseline(node, "fed_heart_disease", rounds=10_000)
            names.append(node.node_id)
        yield hospitals, names


def start(hospitals: TryOut, names: Sequence[str]) -> Path:
    """Starts a hub and the nodes, and returns the folder of a researcher's identity."""
    hospitals.start_hub()
    researcher = hospitals.join_researcher("ada")
    for node_id in names:
        hospitals.join_node(node_id, [researcher])
        hospitals.start_node(node_id, wait=False)
    for node_id in names:
        hospitals.wait_for_node(node_id)
    return researcher


def added(nodes: int, rounds: int, *, policy: str = OPEN) -> None:
    """Prints the added time of a round of the small model; ``policy`` "": the default one."""
    with hospitals_with(nodes, policy=policy) as (hospitals, names):
        here = InProcessFederation.at(hospitals.place)
        inside = statistics.median(seconds_of_rounds(here, hospitals.folder / "in", rounds))
        researcher = start(hospitals, names)
        federation = NatsFederation(researcher)
        outside = seconds_of_rounds(federation, hospitals.folder / "out", rounds)
        federation.close()
    more = sorted(1000 * (seconds - inside) for seconds in outside)
    what = f"14 parameters, {nodes} nodes{'' if policy else ' with approval and sandbox'}, {rounds} rounds"
    print(
        f"{what}: in process {1000 * inside:.0f} ms a round; added: median "
        f"{statistics.median(more):.0f} ms, 95 % within {more[int(0.95 * len(more))]:.0f} ms, least {more[0]:.0f} ms"
    )


def large(nodes: int, megabytes: int, rounds: int) -> None:
    """Prints the time of a round of a large model, beside plain nats-py, and the memory that it takes."""
    with hospitals_with(nodes) as (hospitals, names):
        researcher = start(hospitals, names)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        work = context.Process(target=_research, args=(researcher, hospitals.folder, rounds, megabytes, theirs))
        work.start()
        ours.recv()
        assert work.pid is not None
        watched = {"researcher": [work.pid], "hub": [_server(hospitals)], "node": [], "worker": []}
        for node_id in names:
            watched["node"].append(hospitals.processes[node_id].pid)
            watched["worker"] += [child.pid for child in psutil.Process(watched["node"][-1]).children()]
        peaks = Peaks(watched)
        ours.send("go")
        seconds = ours.recv()
        peaks.end()
        work.join()
        print(f"{megabytes} MB, {nodes} nodes: median {statistics.median(seconds):.2f} s, least {min(seconds):.2f} s")
        for who, (own, all_of_it) in peaks.found().items():
            print(f"  {who}: peak {own / megabytes:.2f} models its own, {all_of_it / megabytes:.2f} with mapped files")
        plain = plain_nats.seconds_of_rounds(hospitals.hub, nodes, megabytes, max(rounds, 2))
    print(
        f"  plain nats-py: median {statistics.median(plain):.2f} s, least {min(plain):.2f} s; ratio of the medians "
        f"{statistics.median(seconds) / statistics.median(plain):.2f}, of the least {min(seconds) / min(plain):.2f}"
    )


def _research(researcher: Path, folder: Path, rounds: int, megabytes: int, ready: Connection) -> None:
    """A researcher's program: the small model first, so that everything is imported."""
    federation = NatsFederation(researcher)
    experiment(federation, folder / "warm", 2).run()
    ready.send("ready")
    ready.recv()
    made = experiment(federation, folder / "large", rounds + 1, megabytes)
    made.run()
    ready.send([record.seconds for record in made.records[2 if rounds > 1 else 1 :]])
    federation.close()


class Peaks:
    """Memory of processes, looked at again and again; each figure is the largest of a kind's processes."""

    def __init__(self, watched: dict[str, list[int]]) -> None:
        self._watched = watched
        self._before = {pid: _memory(pid) for pids in watched.values() for pid in pids}
        self._peak = dict(self._before)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ending.wait(0.02):
            for pid, peak in self._peak.items():
                own, all_of_it = _memory(pid)
                self._peak[pid] = (max(peak[0], own), max(peak[1], all_of_it))

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def found(self) -> dict[str, tuple[float, float]]:
        """MB on top of what was there before: its own, and with mapped files, which the system takes back at need."""

        def more(pids: list[int], which: int) -> float:
            return max(self._peak[pid][which] - self._before[pid][which] for pid in pids)

        return {who: (more(pids, 0), more(pids, 1)) for who, pids in self._watched.items()}


def _memory(pid: int) -> tuple[float, float]:
    """MB of the process now: of its own, and with mapped files (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0, 0.0
    kB = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    own = kB.get("RssAnon", 0) + kB.get("RssShmem", 0)
    return own / 1e3, (own + kB.get("RssFile", 0)) / 1e3


def rest(nodes: int, seconds: float) -> None:
    """Prints what nodes take that have nothing to do."""
    with hospitals_with(nodes) as (hospitals, names):
        start(hospitals, names)
        processes = [psutil.Process(hospitals.processes[node_id].pid) for node_id in names]
        time.sleep(10)
        before = [process.cpu_times() for process in processes]
        time.sleep(seconds)
        used = [
            sum(now[:2]) - sum(then[:2])
            for now, then in zip((process.cpu_times() for process in processes), before, strict=True)
        ]
        memory = max(process.memory_info().rss for process in processes) / 1e6
    print(f"a node at rest: {memory:.0f} MB, {100 * max(used) / seconds:.2f} % of a core over {seconds:.0f} s")


def soak(nodes: int, rounds: int) -> None:
    """Prints what the hub holds early and late in a long experiment."""
    with hospitals_with(nodes) as (hospitals, names):
        federation = NatsFederation(start(hospitals, names))
        made = experiment(federation, hospitals.folder / "out", rounds)
        for reached in (50, rounds):
            made.run(reached - made.round)
            server = psutil.Process(_server(hospitals)).memory_info().rss / 1e6
            desk = psutil.Process(hospitals.processes["hub"].pid).memory_info().rss / 1e6
            stored = sum(path.stat().st_size for path in hospitals.hub.server.rglob("*") if path.is_file()) / 1e6
            print(f"round {reached}: server {server:.0f} MB, desk {desk:.0f} MB, store {stored:.1f} MB")
        federation.close()


def _server(hospitals: TryOut) -> int:
    (server,) = psutil.Process(hospitals.processes["hub"].pid).children()
    return server.pid


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="default: all")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=200, help="of the small model")
    parser.add_argument("--many", type=int, default=50, metavar="NODES")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--large-rounds", type=int, default=5)
    parser.add_argument("--giant-megabytes", type=int, default=1000)
    parser.add_argument("--giant-nodes", type=int, default=2)
    parser.add_argument("--soak-rounds", type=int, default=500)
    parser.add_argument("--rest-seconds", type=float, default=60)
    given = parser.parse_args(words)

    def small() -> None:
        for policy in (OPEN, ""):
            added(given.nodes, given.rounds, policy=policy)

    parts: dict[str, Callable[[], None]] = {
        "small": small,
        "many": lambda: added(given.many, max(given.rounds // 5, 3)),
        "large": lambda: large(given.nodes, given.megabytes, given.large_rounds),
        "giant": lambda: large(given.giant_nodes, given.giant_megabytes, 1),
        "rest": lambda: rest(given.nodes, given.rest_seconds),
        "soak": lambda: soak(given.nodes, given.soak_rounds),
    }
    # So that a bench that is ended by another program ends its hub and nodes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if unknown := set(given.parts) - parts.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in given.parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
