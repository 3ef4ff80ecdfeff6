"""The run folder: where an experiment keeps everything.

::

    experiment.json                 what the experiment is (see record.py)
    plan.py                         the training plan, as it travels
    rounds/000003.json              the record of round 3, with the digest of its model: this file completes the round
    models/000003.safetensors       the global model after round 3, and the aggregator's state

A file is written beside its place, flushed to the disk, and renamed. A round's model is written before its record, so
a round is either complete or not there, whenever the program is killed. Every JSON file carries its own digest. The
models kept are those of the last two rounds and of the best one; records are kept of all rounds.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from polyclinic import tensors
from polyclinic.errors import RunFolderError
from polyclinic.experiment.record import ExperimentSpec, RoundRecord
from polyclinic.plans.source import PlanSource

State = dict[str, torch.Tensor]

# Mapping a smaller model costs more than the memory is worth.
_MAPPED_BYTES = 16 << 20


class RunFolder:
    """The files of one experiment.

    Args:
        path: the folder. Nothing is written before `create`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[int, str] = {}
        self._begun = False

    @property
    def exists(self) -> bool:
        """Whether there is an experiment in it."""
        return (self.path / "experiment.json").exists()

    @property
    def begun(self) -> bool:
        """Whether the experiment in it is this one: made or read through this object."""
        return self._begun

    def create(
        self, spec: ExperimentSpec, plan: PlanSource, first: RoundRecord, model: State, aggregator: State
    ) -> State:
        """Makes the folder for a new experiment, with its initial model as round 0.

        Until experiment.json is there, which is written last, there is no experiment in the folder.

        Returns:
            As `write_round`.

        Raises:
            RunFolderError: it cannot be written, or holds another experiment.
        """
        if self.exists:
            raise RunFolderError(
                f"{self.path} holds an experiment already",
                to_do="go on with it by Experiment.load(folder).run(), or give another folder",
            )
        with self._writing():
            for folder in (self.path, self.path / "rounds", self.path / "models"):
                folder.mkdir(parents=True, exist_ok=True)
            _write(self.path / "plan.py", [plan.text.encode()])
            model = self.write_round(first, model, aggregator)
            _write(self.path / "experiment.json", [_sealed(spec.model_dump_json())])
        self._begun = True
        return model

    def read_spec(self) -> ExperimentSpec:
        """What the experiment is.

        Raises:
            RunFolderError: there is none, it is damaged, or of another format.
        """
        if not self.exists:
            raise RunFolderError(
                f"there is no experiment in {self.path}", to_do="give the folder that holds experiment.json"
            )
        try:
            spec = ExperimentSpec.model_validate_json(_unsealed((self.path / "experiment.json").read_bytes()))
            self._begun = True
            return spec
        except (OSError, ValueError) as err:
            raise RunFolderError(
                f"{self.path / 'experiment.json'} is damaged, or of another version of Polyclinic",
                to_do="take the file from a backup, or load it with the version that made it",
            ) from err

    def read_plan(self, spec: ExperimentSpec) -> PlanSource:
        """The plan, if it is the one the experiment ran.

        Raises:
            RunFolderError: it was changed.
        """
        try:
            plan = PlanSource(text=(self.path / "plan.py").read_bytes().decode(), class_name=spec.class_name)
            changed = plan.sha256 != spec.plan_sha256
        except (OSError, UnicodeDecodeError):
            changed = True
        if changed:
            raise RunFolderError(
                f"{self.path / 'plan.py'} was changed or deleted after the experiment had begun",
                to_do="put the original back; or begin a new experiment with the changed plan",
            )
        return plan

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps a second program from running the same experiment at the same time.

        Raises:
            RunFolderError: if one does.
        """
        lock = FileLock(self.path / "in-use.lock", timeout=0, is_singleton=True)
        try:
            with self._writing():
                lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"another program is running the experiment in {self.path}", to_do="wait until it is done, or stop it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write_round(self, record: RoundRecord, model: State, aggregator: Mapping[str, torch.Tensor]) -> State:
        """Completes a round.

        Returns:
            The same model. A large one is mapped from its file, so that the system can take its memory back at need.

        Raises:
            RunFolderError: the disk is full, or the folder read-only. The round before is complete.
        """
        named = {f"model/{k}": v for k, v in model.items()} | {f"aggregator/{k}": v for k, v in aggregator.items()}
        with self._writing():
            digest = _write(self._model(record.round), tensors.encode(named))
            sealed = _sealed(json.dumps({"model_sha256": digest, "record": json.loads(record.model_dump_json())}))
            _write(self._record(record.round), [sealed])
        self._digests[record.round] = digest
        if tensors.num_bytes(model) >= _MAPPED_BYTES:
            with suppress(OSError):  # of a file system that maps nothing
                return _part(tensors.load_file(self._model(record.round)), "model/")
        return model

    def prune(self, keep: Collection[int]) -> None:
        """Deletes the models of all rounds but these."""
        with self._writing():
            for number in self._kept():
                if number not in keep:
                    self._model(number).unlink(missing_ok=True)

    def read_records(self) -> list[RoundRecord]:
        """The records of all complete rounds, by round, up to the last one that has its model.

        A damaged file is recognised by its digest; then the round before counts as the last, with a warning.

        Raises:
            RunFolderError: no round is left.
        """
        records = []
        for path in sorted((self.path / "rounds").glob("*.json")):
            try:
                content = json.loads(_unsealed(path.read_bytes()))
                record = RoundRecord.model_validate_json(json.dumps(content["record"]))
                self._digests[record.round] = content["model_sha256"]
                records.append(record)
            except (OSError, ValueError, KeyError, TypeError):
                warnings.warn(f"{path} is damaged; its round is left out", stacklevel=2)
        while records and not self._intact(records[-1].round):
            warnings.warn(
                f"the model of round {records[-1].round} is damaged or missing; going back to the round before",
                stacklevel=2,
            )
            records.pop()
        if not records:
            raise RunFolderError(
                f"no complete round is left in {self.path}",
                to_do="take the folder from a backup, or begin a new experiment",
            )
        return records

    def read_model(self, round_index: int) -> tuple[State, State]:
        """The global model after a round, and the aggregator's state.

        Raises:
            RunFolderError: it was not kept, or is damaged.
        """
        if not self._intact(round_index):
            raise RunFolderError(
                f"the model of round {round_index} is not in {self.path}, or damaged; rounds kept: {self._kept()}",
                to_do="use one of them; keep_all_rounds=True keeps all from the start",
            )
        named = tensors.load_file(self._model(round_index))
        return _part(named, "model/"), _part(named, "aggregator/")

    def _intact(self, round_index: int) -> bool:
        path = self._model(round_index)
        if not path.is_file() or round_index not in self._digests:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self._digests[round_index]

    def _kept(self) -> list[int]:
        """The rounds whose models are there. Files with other names are nobody's business."""
        return sorted(int(path.stem) for path in (self.path / "models").glob("*.safetensors") if path.stem.isdecimal())

    def _record(self, round_index: int) -> Path:
        return self.path / "rounds" / f"{round_index:06d}.json"

    def _model(self, round_index: int) -> Path:
        return self.path / "models" / f"{round_index:06d}.safetensors"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Timeout:  # of the lock; it is an OSError too
            raise
        except OSError as err:
            raise RunFolderError(
                f"the run folder {self.path} cannot be written: {err.strerror or err}",
                to_do="make room or choose another folder; the last complete round is safe, "
                "Experiment.load(folder).run() goes on from it",
            ) from err


def _part(named: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}


def _write(path: Path, parts: Sequence[bytes | memoryview]) -> str:
    """Writes a file atomically and durably; returns the SHA-256 of its content."""
    temporary = path.with_suffix(".tmp")
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for part in parts:
                digest.update(part)
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest.hexdigest()


def _sealed(content: str) -> bytes:
    """JSON with its digest on a line of its own before it."""
    return f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}\n".encode()


def _unsealed(data: bytes) -> str:
    digest, _, content = data.decode().partition("\n")
    content = content.removesuffix("\n")
    if hashlib.sha256(content.encode()).hexdigest() != digest:
        raise ValueError("the digest does not match")
    return content
