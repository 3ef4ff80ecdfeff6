"""A worker process that does nodes' work for a federation of this machine.

    python -m polyclinic.node.worker THREADS

Frames come on standard input and go out on standard output. A frame is two blobs, each with its length in front
(4 bytes, little-endian): an envelope (JSON) and a message without its tensors. Tensors lie in files that the
envelope names, and are mapped. The worker ends when its input ends, also in the middle of a training.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from polyclinic import tensors
from polyclinic.messages import codec
from polyclinic.messages.message import Message
from polyclinic.messages.requests import Request
from polyclinic.node.node import Node
from polyclinic.node.stop import Stop


def write_frame(stream: BinaryIO, envelope: dict[str, Any], message: Message | None) -> None:
    """Writes one frame; the message's own tensors are left out."""
    header = json.dumps(envelope).encode()
    body = b"".join(codec.encode(message.model_copy(update={"tensors": {}}))) if message else b""
    stream.write(len(header).to_bytes(4, "little") + header + len(body).to_bytes(4, "little") + body)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], Message | None] | None:
    """The next frame, with the message's tensors mapped from the file that its envelope names; None at the end."""
    header = _blob(stream)
    body = _blob(stream)
    if header is None or body is None:
        return None
    envelope = json.loads(header)
    if not body:
        return envelope, None
    message = codec.decode(body)
    if path := envelope.get("tensors"):
        message = message.model_copy(update={"tensors": tensors.load_file(Path(path))})
    return envelope, message


def _blob(stream: BinaryIO) -> bytes | None:
    length = stream.read(4)
    if len(length) < 4:
        return None
    data = stream.read(int.from_bytes(length, "little"))
    return data if len(data) == int.from_bytes(length, "little") else None


def main() -> None:
    """Serves frames until the input ends."""
    # What plans print must not get between the frames.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    waiting: queue.Queue[tuple[dict[str, Any], Message]] = queue.Queue()
    stops: dict[str, Stop] = {}
    threading.Thread(target=_listen, args=(waiting, stops), daemon=True).start()
    nodes: dict[str, Node] = {}
    workbenches = None
    while True:
        envelope, message = waiting.get()
        if workbenches is None:
            from polyclinic.node.workbenches import Workbenches

            workbenches = Workbenches()
        folder = envelope["folder"]
        if folder not in nodes:
            nodes[folder] = Node.open(Path(folder), workbenches=workbenches)
        request = cast("Request", message)
        reply = nodes[folder].handle(request, stops[request.request_id])
        del stops[request.request_id]
        answer: dict[str, Any] = {}
        if reply.tensors:
            answer["tensors"] = envelope["reply"]
            with Path(envelope["reply"]).open("wb") as file:
                file.writelines(tensors.encode(reply.tensors))
        write_frame(replies, answer, reply)


def _listen(waiting: queue.Queue[tuple[dict[str, Any], Message]], stops: dict[str, Stop]) -> None:
    while frame := read_frame(sys.stdin.buffer):
        envelope, message = frame
        if message is None:
            for stop in list(stops.values()):
                stop.cancelled.set()
            continue
        seconds = envelope.get("seconds")
        stop = Stop(None if seconds is None else time.monotonic() + seconds)
        stops[cast("Request", message).request_id] = stop
        waiting.put((envelope, message))
    os._exit(0)


if __name__ == "__main__":
    main()
