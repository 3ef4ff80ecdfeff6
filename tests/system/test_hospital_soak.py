"""Many rounds, and something that breaks at any moment. Every round ends, with all nodes; nothing is counted twice, for
the model is that of this process, bit for bit; and memory does not grow.

A dozen rounds; ``POLYCLINIC_SOAK=1`` makes it two hundred, and prints the figures.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats import event_loop
from tests.system.conftest import SOAK
from tests.system.hospitals import NAMES, NODES, Hospitals, assert_same_end, experiment, in_this_process

MANY_ROUNDS = 200 if SOAK else 12
# Seconds between two breaks; each is mended before the next.
PAUSE = (0.1, 1.0)


class Breaker(threading.Thread):
    """Breaks one thing after the other, and mends it."""

    def __init__(self, hospitals: Hospitals, seed: int) -> None:
        super().__init__(name="breaker")
        self._hospitals = hospitals
        self._dice = random.Random(seed)
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.done: list[str] = []

    def run(self) -> None:
        try:
            # Each kind at least once, in an order that the seed decides.
            kinds = ["node", "hub", "frozen", "line", "node"]
            self._dice.shuffle(kinds)
            while not self.over.wait(self._dice.uniform(*PAUSE)):
                self._break(kinds.pop() if kinds else self._dice.choice(["node", "node", "hub", "frozen", "line"]))
        except BaseException as err:
            self.error = err

    def _break(self, kind: str) -> None:
        tries, node = self._hospitals.tries, self._dice.choice(NODES)
        if kind == "node":
            tries.kill(node)
            tries.start_again(node)
        elif kind == "hub":
            self._hospitals.kill_hub()
            tries.start_again("hub")
        elif kind == "frozen":
            tries.kill(node, signal.SIGSTOP)
            self.over.wait(self._dice.uniform(0.2, 1.0))
            tries.kill(node, signal.SIGCONT)
        else:
            for line in (self._hospitals.line, self._hospitals.node_line):
                line.cut()
        self.done.append(kind)


def resident(pid: int) -> float:
    """Memory of a process, in MB."""
    for row in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if row.startswith("VmRSS:"):
            return int(row.split()[1]) / 1024
    return 0.0


def test_many_rounds_with_random_kills(hospitals: Hospitals, tmp_path: Path) -> None:
    settings = {"ballast": 70_000, "round_limit": MANY_ROUNDS}
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, **settings)
    found.run_round()
    breaker = Breaker(hospitals, seed=20)
    breaker.start()
    began, memory = time.monotonic(), []
    try:
        for _ in range(MANY_ROUNDS - 1):
            found.run_round()
            memory.append(resident(os.getpid()))
    finally:
        breaker.over.set()
        breaker.join()
    if breaker.error:
        raise breaker.error
    assert [record.nodes for record in found.records[1:]] == [NAMES] * MANY_ROUNDS
    assert not [failure for record in found.records for failure in record.failures]
    assert_same_end(found, in_this_process(tmp_path / "here", **settings))
    stored = event_loop.run(look(hospitals.tries.hub)).stored
    assert sum(size for _, size in stored.values()) < 10e6
    if SOAK:
        early, late = max(memory[20:50]), max(memory[-30:])
        print(f"\n{MANY_ROUNDS} rounds in {time.monotonic() - began:.0f} s, {len(breaker.done)} breaks:")
        print({kind: breaker.done.count(kind) for kind in sorted({*breaker.done})})
        processes = {name: f"{resident(process.pid):.0f}" for name, process in hospitals.tries.processes.items()}
        print(f"memory of the processes at the end, in MB: {processes}")
        print(f"researcher: {early:.0f} MB at rounds 20 to 50, {late:.0f} MB at the last 30; stored: {stored}")
        assert late < early + 30
