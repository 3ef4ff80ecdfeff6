"""Nodes in worker processes of this machine: uses all cores, and a crash of one node's work harms nobody else."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from polyclinic import tensors
from polyclinic.errors import ConfigError
from polyclinic.federation.in_process import InProcessFederation, late, open_nodes
from polyclinic.messages.message import Message
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, SearchRequest
from polyclinic.node.worker import read_frame, write_frame

# A worker keeps the deadline itself; this long after it, it is taken for hung.
_GRACE_SECONDS = 5.0


class ProcessFederation(InProcessFederation):
    """The nodes whose folders lie in a place, worked by a few worker processes that stay alive over rounds.

    Args:
        place: the folder of the nodes' folders; default: as for `polyclinic federation show`.
        workers: how many nodes work at a time; default: one a core.

    Raises:
        FederationError: if there are no nodes.
    """

    def __init__(self, place: Path, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"ProcessFederation needs at least one worker, got {workers}", to_do="give workers=2")
        super().__init__(open_nodes(Path(place)))
        self._size = workers or os.cpu_count() or 1
        self._workers: list[_Worker] = []
        self._at_work: dict[str, list[_Worker]] = {}

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        if all(isinstance(request, SearchRequest) for request in requests.values()):
            yield from super().send(requests, deadline)
            return
        with self._working, tempfile.TemporaryDirectory(prefix="polyclinic-round-") as folder:
            round_ = _Round(self, requests, deadline, Path(folder))
            try:
                yield from round_.replies()
            finally:
                round_.end()

    def cancel(self, experiment_id: str) -> None:
        for worker in self._at_work.get(experiment_id, []):
            worker.cancel()

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def __del__(self) -> None:
        self.close()

    def _idle_workers(self, wanted: int) -> list[_Worker]:
        self._workers = [worker for worker in self._workers if worker.alive]
        while len(self._workers) < min(self._size, wanted):
            self._workers.append(_Worker())
        return self._workers[:wanted]


class _Worker:
    """One worker process, and what it is at."""

    def __init__(self) -> None:
        import torch

        # Floating-point sums of large tensors depend on the number of threads: as many as here give the same bits.
        command = [sys.executable, "-m", "polyclinic.node.worker", str(torch.get_num_threads())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # A Ctrl-C in the terminal is for the experiment, which tells the workers.
            start_new_session=True,
        )
        self._writing = threading.Lock()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> Any:
        return self._process.stdout

    def ask(self, envelope: dict[str, Any], request: Request | None) -> bool:
        """Sends a frame; False if the worker is gone."""
        try:
            with self._writing:
                write_frame(cast("Any", self._process.stdin), envelope, request)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[dict[str, Any], Message | None] | None:
        return read_frame(self.output)

    def cancel(self) -> None:
        self.ask({"cancel": True}, None)

    def kill(self) -> str:
        """Ends the process; says how it had ended, for a reader."""
        self._process.kill()
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:
                    continue  # what was still to be written has no reader any more
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class _Round:
    """One `send`: which node is at which worker."""

    def __init__(
        self, federation: ProcessFederation, requests: Mapping[str, Request], deadline: float | None, folder: Path
    ) -> None:
        self._federation = federation
        self._requests = requests
        self._deadline = deadline
        self._folder = folder
        self._waiting = deque(sorted(requests))
        self._busy: dict[_Worker, str] = {}
        self._files: dict[int, Path] = {}
        self._selector = selectors.DefaultSelector()
        self._idle = federation._idle_workers(len(requests))
        self._experiments = {getattr(r, "experiment_id", "") for r in requests.values()}
        federation._at_work |= {experiment: list(self._idle) for experiment in self._experiments}

    def replies(self) -> Iterator[Reply]:
        while self._waiting or self._busy:
            while self._waiting and self._idle and not self._is_late():
                yield from self._start(self._waiting.popleft(), self._idle.pop(0))
            for worker in self._wait():
                yield self._finish(worker)
            if self._is_late():
                yield from self._give_up()

    def end(self) -> None:
        """Whoever is still at work when the round is left is of no use to the next."""
        for worker in self._busy:
            worker.kill()
        self._selector.close()
        for experiment in self._experiments:
            self._federation._at_work.pop(experiment, None)

    def _start(self, node_id: str, worker: _Worker) -> Iterator[Reply]:
        request = self._requests[node_id]
        seconds = None if self._deadline is None else self._deadline - time.monotonic()
        envelope = {
            "folder": str(self._federation._nodes[node_id].folder),
            "tensors": self._file_of(request.tensors),
            "reply": str(self._folder / f"reply-{node_id}.safetensors"),
            "seconds": seconds,
        }
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

    def _wait(self) -> list[_Worker]:
        if not self._busy:
            return []
        # A cap, so that a Ctrl-C is noticed between waits on every system.
        seconds = 1.0 if self._deadline is None else min(max(self._deadline - time.monotonic(), 0.05), 1.0)
        return [key.data for key, _ in self._selector.select(seconds)]

    def _finish(self, worker: _Worker) -> Reply:
        node_id = self._busy.pop(worker)
        self._selector.unregister(worker.output)
        frame = worker.answer()
        if frame is None:
            return self._lost(node_id, worker)
        envelope, message = frame
        if path := envelope.get("tensors"):
            Path(path).unlink()  # it stays mapped as long as its tensors live
        self._idle.append(worker)
        return cast("Reply", message)

    def _lost(self, node_id: str, worker: _Worker) -> Failure:
        how = worker.kill()
        if self._waiting:
            workers = self._federation._idle_workers(len(self._busy) + 1)
            self._idle += [w for w in workers if w not in self._busy and w not in self._idle]
        return Failure(
            request_id=self._requests[node_id].request_id,
            node_id=node_id,
            code="node",
            stage="process",
            what=f"the node's worker process died in its work ({how})",
            to_do="look whether memory ran out (the system's log says so); the next round has a new worker",
        )

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _give_up(self) -> Iterator[Reply]:
        while self._waiting:
            node_id = self._waiting.popleft()
            yield late(self._requests[node_id].request_id, node_id)
        if self._busy and self._deadline is not None and time.monotonic() > self._deadline + _GRACE_SECONDS:
            for worker, node_id in list(self._busy.items()):
                del self._busy[worker]
                self._selector.unregister(worker.output)
                worker.kill()
                yield late(self._requests[node_id].request_id, node_id)
