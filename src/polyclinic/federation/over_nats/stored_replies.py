"""What a node has answered, kept in its folder: what is asked twice is answered twice, and done once.

::

    replies/<key>.json              whom it answers, and the reply's header
    replies/<key>.safetensors       its tensors
    replies/seen.txt                ids of all frames that were answered, with their times

``key`` stands for researcher and request. A stored reply answers the same frame again (it was delivered twice, or the
node was killed before the hub knew that it was done), and another frame that asks for exactly the same work (a
researcher who was killed, and asks for the round again) unless it is a failure: that is worth another try.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.signing import WINDOW_SECONDS, Envelope
from polyclinic.messages import codec
from polyclinic.messages.replies import Failure, Reply

log = logging.getLogger("polyclinic.node")

FOLDER = "replies"
_SEEN = "seen.txt"


@dataclass(frozen=True)
class Answer:
    """A reply without its tensors, and the file that holds them."""

    reply: Reply
    tensors: Path | None = None

    @cached_property
    def body(self) -> bytes:
        """The reply as it travels, without its tensors."""
        return b"".join(codec.encode(self.reply))


class StoredReplies:
    """The stored replies of a node. For one program at a time.

    Args:
        node_folder: the node's own folder.
    """

    def __init__(self, node_folder: Path) -> None:
        self._folder = node_folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._seen = self._read_seen()
        self._forget_old()
        files = [(path, self._read(path)) for path in self._folder.glob("*.json")]
        self._kept = {path.stem: (meta["experiment"], meta["round"]) for path, meta in files if meta}

    def find(self, envelope: Envelope) -> Answer | None:
        """The reply that answers this request already; None if it has to be done.

        Raises:
            MessageError: the frame was answered before, and its reply is not kept any more: somebody replays it.
        """
        key = _key(envelope)
        meta = self._read(self._folder / f"{key}.json")
        if meta and (meta["answers"] == envelope.id or (meta["good"] and meta["digest"] == envelope.digest)):
            path = self._folder / f"{key}.safetensors"
            if not _is_whole(path, meta):
                return None
            reply = codec.decode(bytes.fromhex(meta["reply"]))
            return Answer(cast("Reply", reply), None if meta["tensors"] is None else path)
        if envelope.id in self._seen:
            raise MessageError(
                f"request {envelope.request_id} came a second time, long after it was answered",
                to_do="if nothing was restored from a backup, somebody replays messages: ask the hub's operator",
            )
        return None

    def keep(self, envelope: Envelope, answer: Answer) -> Answer:
        """Keeps a reply, so that it is there also if this process is killed; its tensors' file is moved here.

        Raises:
            OSError: the disk does not take it.
        """
        key = _key(envelope)
        tensors, size = None, None
        if answer.tensors is not None:
            tensors = self._folder / f"{key}.safetensors"
            answer.tensors.rename(tensors)
            size = tensors.stat().st_size
        kept = Answer(answer.reply, tensors)
        meta = {
            "answers": envelope.id,
            "digest": envelope.digest,
            "good": not isinstance(answer.reply, Failure),
            "experiment": f"{envelope.sender}/{envelope.experiment_id}",
            "round": envelope.round,
            "tensors": size,
            "reply": kept.body.hex(),
        }
        # Half a file is as good as none: it is read as if nothing was kept.
        (self._folder / f"{key}.json").write_bytes(json.dumps(meta).encode())
        self._kept[key] = (str(meta["experiment"]), envelope.round)
        return kept

    def settle(self, envelope: Envelope) -> None:
        """Has what was kept outlast a power cut, and drops replies of this experiment's rounds before the last.

        It takes its time: call it in a thread, when the reply was sent.
        """
        key = _key(envelope)
        try:
            with (self._folder / f"{key}.json").open("rb") as file:
                os.fsync(file.fileno())
        except OSError as err:
            log.warning("the reply to %s is not sure to outlast a power cut: %s", envelope.request_id, err)
        self._remember(envelope)
        if key in self._kept:
            self._forget(self._kept[key][0], before=envelope.round - 1)

    def _remember(self, envelope: Envelope) -> None:
        if envelope.id in self._seen:
            return
        self._seen[envelope.id] = envelope.time
        with (self._folder / _SEEN).open("a", encoding="utf-8") as file:
            file.write(f"{envelope.time:.0f} {envelope.id}\n")

    def _read_seen(self) -> dict[str, float]:
        """The ids within the window; older frames are refused by their time. The file is written anew without them."""
        path, seen = self._folder / _SEEN, {}
        oldest = time.time() - 2 * WINDOW_SECONDS
        with suppress(FileNotFoundError):
            for line in path.read_text(encoding="utf-8").splitlines():
                when, _, name = line.partition(" ")
                if when.lstrip("-").isdecimal() and float(when) > oldest:
                    seen[name] = float(when)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{when:.0f} {name}\n" for name, when in seen.items()), encoding="utf-8")
        partial.replace(path)
        return seen

    def _forget(self, experiment: str, before: int) -> None:
        for key, (whose, number) in list(self._kept.items()):
            if whose == experiment and number < before:
                del self._kept[key]
                for suffix in ("json", "safetensors"):
                    (self._folder / f"{key}.{suffix}").unlink(missing_ok=True)

    def _forget_old(self) -> None:
        oldest = time.time() - WINDOW_SECONDS
        for path in self._folder.glob("*"):
            if path.name != _SEEN and (path.suffix == ".partial" or path.stat().st_mtime < oldest):
                path.unlink()

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None


def _key(envelope: Envelope) -> str:
    return hashlib.sha256(f"{envelope.sender}/{envelope.request_id}".encode()).hexdigest()[:32]


def _is_whole(path: Path, meta: dict[str, Any]) -> bool:
    """Whether the tensors are all there: after a power cut, their file may end early."""
    if meta["tensors"] is None:
        return True
    with suppress(OSError):
        return bool(meta["tensors"] == path.stat().st_size)
    return False
