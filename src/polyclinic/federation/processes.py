"""Nodes in worker processes of this machine: uses all cores, and a crash of one node's work harms nobody else."""

from __future__ import annotations

import os
import selectors
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from polyclinic import tensors
from polyclinic.errors import ConfigError
from polyclinic.federation.in_process import InProcessFederation, late, open_nodes, stopped
from polyclinic.federation.node_state import TRAINING, NodeState
from polyclinic.federation.places import default_place
from polyclinic.federation.worker_process import WorkerProcess
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, SearchRequest
from polyclinic.node.stop import Progress

# A worker keeps the deadline itself; this long after it, it is taken for hung.
GRACE_SECONDS = 5.0

# How often a cancel, the deadline and dead workers are looked for while all workers are busy.
_LOOK_SECONDS = 0.1


class ProcessFederation(InProcessFederation):
    """The nodes whose folders lie in a place, worked by a few worker processes that stay alive over rounds.

    Args:
        place: the folder of the nodes' folders; default: as for `polyclinic federation show`.
        workers: how many nodes work at a time; default: one a core.

    Raises:
        ConfigError: for less than one worker.
        FederationError: if there are no nodes.
    """

    def __init__(self, place: str | Path | None = None, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"ProcessFederation needs at least one worker, got {workers}", to_do="give workers=2")
        super().__init__(open_nodes(default_place() if place is None else Path(place)))
        self._size = workers or os.cpu_count() or 1
        self._idle: list[WorkerProcess] = []
        self._rounds: list[_Round] = []
        self._searches = 0
        weakref.finalize(self, _end, self._idle)

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        if all(isinstance(request, SearchRequest) for request in requests.values()):
            self._searches += 1
            return super().send(requests, deadline)
        self._require_nodes(requests)
        return self._send_to_workers(requests, deadline)

    def cancel(self, experiment_id: str) -> None:
        # Only noted here, because this may be a signal handler in the middle of anything.
        for round_ in list(self._rounds):
            round_.cancelled.add(experiment_id)

    def close(self) -> None:
        _end(self._idle)

    def _send_to_workers(self, requests: Mapping[str, Request], deadline: float | None) -> Iterator[Reply]:
        with tempfile.TemporaryDirectory(prefix="polyclinic-round-", ignore_cleanup_errors=True) as folder:
            round_ = _Round(self, requests, deadline, Path(folder))
            self._rounds.append(round_)
            try:
                yield from round_.replies()
            finally:
                self._rounds.remove(round_)
                round_.end()

    # Each send has workers of its own, so one that is left open blocks no other.

    def _take_worker(self) -> WorkerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.kill()
        return WorkerProcess()

    def _give_back(self, worker: WorkerProcess) -> None:
        if len(self._idle) < self._size:
            self._idle.append(worker)
        else:
            worker.kill()


class _Round:
    """One `send`: which node is at which worker."""

    def __init__(
        self, federation: ProcessFederation, requests: Mapping[str, Request], deadline: float | None, folder: Path
    ) -> None:
        self.cancelled: set[str] = set()
        self._federation = federation
        self._requests = requests
        self._deadline = deadline
        self._folder = folder
        self._waiting = deque(sorted(requests))
        self._busy: dict[WorkerProcess, str] = {}
        self._told: set[str] = set()
        self._files: dict[int, Path] = {}
        self._selector = selectors.DefaultSelector()

    def replies(self) -> Iterator[Reply]:
        while self._waiting or self._busy:
            yield from self._turn_away()
            while self._waiting and len(self._busy) < self._federation._size:
                yield from self._start(self._waiting.popleft())
            for worker in self._wait():
                yield from self._hear(worker)
            yield from self._give_up()

    def end(self) -> None:
        """Whoever is still at work when the round is left is of no use to the next."""
        for worker in self._busy:
            worker.kill()
        self._selector.close()

    def _turn_away(self) -> Iterator[Reply]:
        """Answers for the waiting nodes that shall not begin any more, and tells the busy ones to stop."""
        for node_id in list(self._waiting):
            if self._is_late(0) or self._is_cancelled(node_id):
                self._waiting.remove(node_id)
                answer = stopped if self._is_cancelled(node_id) else late
                yield answer(self._requests[node_id].request_id, node_id)
        for worker, node_id in self._busy.items():
            if self._is_cancelled(node_id) and node_id not in self._told:
                self._told.add(node_id)
                worker.ask({"cancel": self._requests[node_id].request_id}, None)

    def _start(self, node_id: str) -> Iterator[Reply]:
        import torch

        request = self._requests[node_id]
        try:
            file = self._file_of(request.tensors)
        except OSError as err:
            yield self._failure(
                node_id,
                f"the model could not be written for the worker process: {err.strerror or err}",
                "make room in the temporary folder, or choose another one by TMPDIR",
            )
            return
        envelope = {
            "node_id": node_id,
            "folder": str(self._federation._nodes[node_id].folder),
            "tensors": file,
            "reply": str(self._folder / f"reply-{node_id}.safetensors"),
            "seconds": None if self._deadline is None else self._deadline - time.monotonic(),
            "threads": torch.get_num_threads(),
            "searches": self._federation._searches,
        }
        worker = self._federation._take_worker()
        if worker.ask(envelope, request):
            self._busy[worker] = node_id
            self._selector.register(worker.output, selectors.EVENT_READ, worker)
        else:
            yield self._lost(node_id, worker)

    def _file_of(self, sent: Mapping[str, Any]) -> str | None:
        """The file with these tensors: written once for all nodes that are sent the same."""
        if not sent:
            return None
        if id(sent) not in self._files:
            path = self._folder / f"sent-{len(self._files)}.safetensors"
            with path.open("wb") as file:
                file.writelines(tensors.encode(sent))
            self._files[id(sent)] = path
        return str(self._files[id(sent)])

    def _wait(self) -> list[WorkerProcess]:
        ready = [key.data for key, _ in self._selector.select(_LOOK_SECONDS)] if self._busy else []
        # A dead worker's pipe may be held open by a process that the plan had started.
        return ready or [worker for worker in self._busy if not worker.alive]

    def _hear(self, worker: WorkerProcess) -> Iterator[Reply]:
        message = worker.hear()
        if isinstance(message, Progress):
            node_id = self._busy[worker]
            state = NodeState(node_id, TRAINING, progress=message)
            self._federation._watchers.tell(self._requests[node_id], state)
            return
        node_id = self._release(worker)
        if message is None:
            yield self._lost(node_id, worker)
            return
        # What it holds stays mapped as long as its tensors live.
        (self._folder / f"reply-{node_id}.safetensors").unlink(missing_ok=True)
        self._federation._give_back(worker)
        yield cast("Reply", message)

    def _release(self, worker: WorkerProcess) -> str:
        self._selector.unregister(worker.output)
        return self._busy.pop(worker)

    def _lost(self, node_id: str, worker: WorkerProcess) -> Failure:
        return self._failure(
            node_id,
            f"the node's worker process died in its work ({worker.kill()})",
            "look whether memory ran out (the system's log says so) or the plan ends its process; "
            "the next round has a new worker",
        )

    def _failure(self, node_id: str, what: str, to_do: str) -> Failure:
        request_id = self._requests[node_id].request_id
        return Failure(request_id=request_id, node_id=node_id, code="node", stage="process", what=what, to_do=to_do)

    def _is_late(self, grace: float) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline + grace

    def _is_cancelled(self, node_id: str) -> bool:
        return getattr(self._requests[node_id], "experiment_id", None) in self.cancelled

    def _give_up(self) -> Iterator[Reply]:
        """Ends the workers that do not keep the deadline."""
        if self._is_late(GRACE_SECONDS):
            for worker in list(self._busy):
                node_id = self._release(worker)
                worker.kill()
                yield late(self._requests[node_id].request_id, node_id)


def _end(workers: list[WorkerProcess]) -> None:
    while workers:
        workers.pop().kill()
