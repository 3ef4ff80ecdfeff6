"""A worker process that does nodes' work for a federation of this machine.

    python -m polyclinic.node.worker [LIMITS]

At a hospital it runs in a sandbox, with LIMITS (JSON), and is told of the only dataset that it sees in each envelope.

Frames come on standard input and go out on standard output. A frame is two blobs, each with its length in front
(4 bytes, little-endian): an envelope (JSON) and a message without its tensors. Tensors lie in files that the
envelope names, and are mapped. The worker ends when its input ends, also in the middle of a training.

Before its answer, a worker may write frames without a message that say how far it is (`progress_in`).
"""

from __future__ import annotations

import json
import os
import queue
import select
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO, cast

from polyclinic import tensors
from polyclinic.errors import MessageError, PolyclinicError
from polyclinic.messages import codec
from polyclinic.messages.message import Message
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, SearchRequest
from polyclinic.node import sandbox_limits
from polyclinic.node.node import Node
from polyclinic.node.registry import ListRegistry, RegisteredDataset
from polyclinic.node.stop import Progress, Stop

Frame = tuple[dict[str, Any], Message | None]

# Of an envelope, and of a message without its tensors. Whoever writes more is not what it should be.
MAX_BLOB_BYTES = codec.MAX_HEADER_BYTES + (1 << 20)


def write_frame(stream: BinaryIO, envelope: dict[str, Any], message: Message | None) -> None:
    """Writes one frame; the message's own tensors are left out."""
    header = json.dumps(envelope).encode()
    body = b"".join(codec.encode(message.model_copy(update={"tensors": {}}))) if message else b""
    stream.write(len(header).to_bytes(4, "little") + header + len(body).to_bytes(4, "little") + body)
    stream.flush()


def read_frame(stream: BinaryIO) -> Frame | None:
    """The next frame, without the message's tensors; None at the end.

    Raises:
        MessageError, ValueError: what comes is no frame.
    """
    header = _blob(stream)
    body = _blob(stream)
    if header is None or body is None:
        return None
    envelope = tensors.parse_json(header, constants=True)
    if not isinstance(envelope, dict):
        raise MessageError("the envelope of a frame is no JSON object")
    return envelope, codec.decode(body) if body else None


def load_tensors(envelope: dict[str, Any], message: Message | None) -> Message | None:
    """The message with its tensors, mapped from the file that its envelope names.

    Raises:
        MessageError, OSError: the file is damaged or not there.
    """
    if message and (path := envelope.get("tensors")):
        return message.model_copy(update={"tensors": tensors.load_file(Path(path))})
    return message


def progress_in(frame: Frame) -> Progress | None:
    """What a worker says before its answer, which is None if this frame is the answer.

    Raises:
        ValueError, TypeError: it says it wrongly.
    """
    envelope, message = frame
    if message is not None or "progress" not in envelope:
        return None
    batch, num_batches, loss = envelope["progress"]
    return Progress(int(batch), int(num_batches), float(loss))


def _tell(outgoing: BinaryIO, progress: Progress) -> None:
    # Where nobody reads, nothing is told: a training waits for nobody.
    if select.select((), (outgoing,), (), 0)[1]:
        write_frame(outgoing, {"progress": [progress.batch, progress.num_batches, progress.loss]}, None)


def _blob(stream: BinaryIO) -> bytes | None:
    start = _read(stream, 4)
    if start is None:
        return None
    length = int.from_bytes(start, "little")
    if length > MAX_BLOB_BYTES:
        raise MessageError(f"a frame of {length} bytes")
    return _read(stream, length)


def _read(stream: BinaryIO, size: int) -> bytes | None:
    """So many bytes, also of a stream that gives them in pieces; None if it ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = stream.read(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


class _Desk:
    """The nodes that this process has worked for."""

    def __init__(self) -> None:
        from polyclinic.node.workbenches import Workbenches

        self._workbenches = Workbenches()
        self._nodes: dict[str, Node] = {}
        self._searches: dict[str, int] = {}
        self._described: Any = None

    def answer(self, envelope: dict[str, Any], request: Request, stop: Stop) -> tuple[dict[str, Any], Reply]:
        """The reply and its envelope; whatever goes wrong is a `Failure`."""
        import torch

        # Floating-point sums of large tensors depend on the number of threads: as many as there give the same bits.
        # A hospital decides by itself how many there are: then none are named.
        if envelope["threads"] not in (None, torch.get_num_threads()):
            torch.set_num_threads(envelope["threads"])
        try:
            node = self._node(envelope)
            reply = node.handle(cast("Request", load_tensors(envelope, request)), stop)
            if not reply.tensors:
                return {}, reply
            with Path(envelope["reply"]).open("wb") as file:
                file.writelines(tensors.encode(reply.tensors))
            return {"tensors": envelope["reply"]}, reply
        except Exception as err:
            return {}, _failure(envelope, request, err)

    def _node(self, envelope: dict[str, Any]) -> Node:
        folder = envelope["folder"]
        if (described := envelope.get("dataset")) is not None:
            if described != self._described:
                self._described = described
                registry = ListRegistry([RegisteredDataset.from_description(described)])
                self._nodes[folder] = Node(
                    envelope["node_id"],
                    envelope["node_name"],
                    registry,
                    folder=Path(folder),
                    workbenches=self._workbenches,
                )
            return self._nodes[folder]
        searches = envelope["searches"]
        if folder not in self._nodes:
            self._nodes[folder] = Node.open(Path(folder), workbenches=self._workbenches)
        elif self._searches[folder] != searches:
            # The researcher has looked at what the nodes hold since: what was registered then counts from now on.
            self._nodes[folder].handle(SearchRequest(request_id="look again"))
        self._searches[folder] = searches
        return self._nodes[folder]


def _failure(envelope: dict[str, Any], request: Request, err: Exception) -> Failure:
    ours = isinstance(err, PolyclinicError)
    to_do = "look whether the disk of the temporary folder is full (TMPDIR chooses another one)"
    return Failure(
        request_id=request.request_id,
        node_id=envelope["node_id"],
        code=err.code if isinstance(err, PolyclinicError) else "node",
        stage="process",
        what=err.what if isinstance(err, PolyclinicError) else f"{type(err).__name__}: {err}",
        to_do=err.to_do if isinstance(err, PolyclinicError) else to_do if isinstance(err, OSError) else "",
        traceback="" if ours else "".join(traceback.format_exception(err)),
    )


def main() -> None:
    """Serves frames until the input ends."""
    incoming, outgoing = _own_pipes()
    waiting: queue.Queue[tuple[dict[str, Any], Request]] = queue.Queue()
    stops: dict[str, Stop] = {}
    # Before torch is imported, which takes seconds: a deadline runs from when the request came.
    threading.Thread(target=_listen, args=(incoming, waiting, stops), daemon=True).start()
    desk = _Desk()
    if len(sys.argv) > 1:
        given = json.loads(sys.argv[1])
        sandbox_limits.apply(given["limits"], given["cores"])
    while True:
        envelope, request = waiting.get()
        stop = stops[request.request_id]
        stop.told = lambda progress: _tell(outgoing, progress)
        answer, reply = desk.answer(envelope, request, stop)
        del stops[request.request_id]
        write_frame(outgoing, answer, reply)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes of the frames; what plans read and print afterwards does not get between them."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing


def _listen(incoming: BinaryIO, waiting: queue.Queue[tuple[dict[str, Any], Request]], stops: dict[str, Stop]) -> None:
    folder: Path | None = None
    try:
        while frame := read_frame(incoming):
            envelope, message = frame
            if message is None:
                if stop := stops.get(envelope["cancel"]):
                    stop.cancelled.set()
                continue
            request, seconds = cast("Request", message), envelope["seconds"]
            folder = Path(envelope["reply"]).parent
            stops[request.request_id] = Stop(None if seconds is None else time.monotonic() + seconds)
            waiting.put((envelope, request))
    except Exception:
        traceback.print_exc()
    # Where the program that asked was killed, nobody else deletes what it had written for this round.
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
