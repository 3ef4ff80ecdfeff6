"""The program at one data holder: a request comes in, a reply goes out.

The same object works in all three places: in the researcher's process, in a worker process, in a hospital.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import secrets
import shutil
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from polyclinic.errors import Cancelled, ConfigError, DatasetChanged, NodeError, NodeInUse, PolyclinicError, nearest
from polyclinic.messages import replies, requests
from polyclinic.node.registry import RegisteredDataset, Registry, identifier
from polyclinic.node.stop import Stop
from polyclinic.randomness import derive

if TYPE_CHECKING:
    from sqlalchemy import Engine

LOCK = "in-use.lock"

log = logging.getLogger("polyclinic.node")


class Node:
    """One data holder.

    Args:
        node_id: unique in its federation; streams of randomness and the order of sums depend on it.
        name: what people read.
        registry: the datasets.
        folder: where the node keeps what it must not lose; None for a throw-away node without anything to keep.
        engine: of its database, if it has one.
        workbenches: the built plans of this process, shared by its nodes.
        streams: where training takes its random numbers from; default: derived streams (`Streams`).
    """

    def __init__(
        self,
        node_id: str,
        name: str,
        registry: Registry,
        *,
        folder: Path | None = None,
        engine: Engine | None = None,
        workbenches: Any = None,
        streams: Any = None,
    ) -> None:
        self.node_id = node_id
        self.name = name
        self.registry = registry
        self.folder = folder
        self.engine = engine
        self._workbenches = workbenches
        self.streams = streams
        self._loaded: dict[tuple[str, bool], Any] = {}
        self._known: dict[str, RegisteredDataset] = {}
        self._temporary: Path | None = None

    # ---- folders

    @classmethod
    def create(cls, place: Path, name: str, *, database: str | None = None) -> Node:
        """Makes a node's folder ``place/<id>``.

        Args:
            database: the URL of a PostgreSQL database; None: SQLite in the folder.

        Raises:
            NodeError: if it exists already, or the database is another node's or cannot be reached.
            ConfigError: the URL is none.
        """
        from polyclinic.node.database import is_node_folder, make_node

        node_id = identifier(name)
        folder = place / node_id
        if is_node_folder(folder):
            raise NodeError(
                f"there is a node {node_id!r} already, at {folder}", to_do="choose another name, or use that node"
            )
        make_node(folder, node_id, name, database)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, *, workbenches: Any = None, at_work: bool = False) -> Node:
        """The node that keeps its things in this folder.

        Args:
            at_work: as for `database_of`.

        Raises:
            NodeError: if there is none, or one of another format, or its database cannot be reached.
        """
        # Here and not above: a worker is given its dataset, and loads no database.
        from polyclinic.node.database import database_of, is_node_folder, node_in
        from polyclinic.node.database_registry import DatabaseRegistry

        if not is_node_folder(folder):
            raise NodeError(f"{folder} is no node's folder", to_do="make one with: polyclinic node create NAME")
        engine = database_of(folder, at_work=at_work)
        row = node_in(engine)
        registry = DatabaseRegistry(engine, folder)
        return cls(row.node_id, row.name, registry, folder=folder, engine=engine, workbenches=workbenches)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Holds the node's folder, so that no other program works in it at the same time.

        Raises:
            NodeInUse: naming the other program.
        """
        if self.folder is None:
            yield
            return
        lock = FileLock(self.folder / LOCK, timeout=0, is_singleton=True)
        holder = self.folder / "in-use-by.txt"
        try:
            lock.acquire()
        except Timeout:
            who = holder.read_text(encoding="utf-8").strip() if holder.exists() else "another program"
            raise NodeInUse(
                f"node {self.name!r} is in use by {who}",
                to_do="wait until it is done or stop it; or use another place for your nodes (POLYCLINIC_FEDERATION)",
                folder=self.folder,
            ) from None
        try:
            holder.write_text(f"process {_process()}\n", encoding="utf-8")
            yield
        finally:
            lock.release()

    # ---- requests

    def handle(self, request: requests.Request, stop: Stop | None = None) -> replies.Reply:
        """Does what is asked; whatever goes wrong is a `Failure`. In a train reply the tensors are the live ones of
        the process's workbench: use them before the next request."""
        work: dict[type[requests.Request], tuple[str, Callable[[Any, Stop], replies.Reply]]] = {
            requests.SearchRequest: ("search", self._search),
            requests.ApprovalRequest: ("approval", self._approval),
            requests.CheckRequest: ("check", self._check),
            requests.TrainRequest: ("train", self._train),
            requests.EvaluateRequest: ("evaluate", self._evaluate),
        }
        stage, action = work[type(request)]
        try:
            return action(request, stop or Stop())
        except (Exception, SystemExit) as err:
            return self._failure(request, stage, self._behind(request, err))

    def _search(self, request: requests.SearchRequest, _stop: Stop) -> replies.SearchReply:
        wanted = set(request.tags)
        self._known = {d.dataset_id: d for d in self.registry.datasets()}
        found = [d.info() for d in self._known.values() if wanted <= set(d.tags)]
        return replies.SearchReply(
            request_id=request.request_id, node_id=self.node_id, node_name=self.name, datasets=tuple(found)
        )

    def _approval(self, request: requests.ApprovalRequest, _stop: Stop) -> replies.ApprovalReply:
        # Who reaches this far is the data manager, or was let through by `Governance`.
        return replies.ApprovalReply(request_id=request.request_id, node_id=self.node_id, state="approved")

    def _train(self, request: requests.TrainRequest, stop: Stop) -> replies.TrainReply:
        result = self._run(request, stop, self._kept(request))
        return replies.TrainReply(
            request_id=request.request_id,
            node_id=self.node_id,
            num_samples=result.num_samples,
            num_updates=result.num_updates,
            loss=result.loss,
            seconds=result.seconds,
            notes=result.notes,
            tensors=result.state,
        )

    def _run(self, request: requests.TrainRequest, stop: Stop, kept: Any) -> Any:
        """One round's training; without ``kept`` nothing of it is kept."""
        from polyclinic.node.local_training import DERIVED, train

        data, collate = self.training_data(request)
        return train(
            self.workbench(request),
            data,
            collate,
            request,
            node_id=self.node_id,
            kept=kept,
            stop=stop,
            streams=self.streams or DERIVED,
        )

    def training_data(self, request: requests.TrainRequest) -> tuple[Any, Callable[[Any], Any] | None]:
        """The dataset that a request trains on, and how a batch is made of its samples; None: torch's own way.

        Raises:
            ConfigError: the node does not have it.
            DatasetChanged: it is not as it was registered.
        """
        dataset = self._dataset(request.dataset_id)
        return self._load(dataset, train=True), collate_fn(dataset)

    def _evaluate(self, request: requests.EvaluateRequest, stop: Stop) -> replies.EvaluateReply:
        from polyclinic.node.local_evaluation import choose_metrics, evaluate

        dataset = self._dataset(request.dataset_id)
        metrics = choose_metrics(request.metrics, dataset.kind.module(dataset.params), dataset.found.classes)
        workbench = self.judged(request, stop)
        data = self._load(dataset, train=request.split == "train")
        return evaluate(workbench, data, collate_fn(dataset), metrics, request, node_id=self.node_id, stop=stop)

    def judged(self, request: requests.EvaluateRequest, stop: Stop | None = None) -> Any:
        """The workbench, holding the model that this node judges when it is asked so: the one that was sent, with what
        the node keeps of its own. Valid until the next request."""
        from polyclinic.node.keeping import put_back

        workbench = self.workbench(request)
        workbench.reset(None)
        workbench.load(request.tensors)
        if (state := self._kept(request)) and (kept := state.load(before=request.round + 1)):
            put_back(workbench, kept.part("local"))
            if request.personal:
                put_back(workbench, kept.part("personal"))
        if request.fine_tune:
            self._fine_tune(request, {name: t.clone() for name, t in workbench.state().items()}, stop or Stop())
        return workbench

    def _fine_tune(self, request: requests.EvaluateRequest, state: dict[str, Any], stop: Stop) -> None:
        """Trains the workbench's model for some batches on the node's own data; nothing of it is kept."""
        args = request.training_args.model_copy(
            update={"epochs": None, "num_updates": request.fine_tune, "optimizer_state": "fresh"}
        )
        fields = request.model_dump(include={"request_id", "experiment_id", "dataset_id", "model_args"})
        seed = derive(request.seed, "fine-tune", request.round)
        training = requests.TrainRequest(
            **fields, plan=request.plan, training_args=args, seed=seed, round=max(request.round, 1), tensors=state
        )
        self._run(training, stop, None)

    def _check(self, request: requests.CheckRequest, stop: Stop) -> replies.CheckReply:
        items = [replies.CheckItem(name="versions", ok=True, detail=_versions())]

        def attempt(name: str, action: Callable[[], str]) -> None:
            if not items[-1].ok:
                return
            try:
                items.append(replies.CheckItem(name=name, ok=True, detail=action()))
            except PolyclinicError as err:
                items.append(replies.CheckItem(name=name, ok=False, detail=f"{err.what}. {err.to_do}"))
            except (Exception, SystemExit) as err:
                items.append(replies.CheckItem(name=name, ok=False, detail=f"{type(err).__name__}: {err}"))

        attempt("data", lambda: self._check_data(request))
        attempt("plan", lambda: self._check_plan(request))
        attempt("one step", lambda: self._check_step(request, stop))
        return replies.CheckReply(request_id=request.request_id, node_id=self.node_id, items=tuple(items))

    def _check_data(self, request: requests.CheckRequest) -> str:
        dataset = self._dataset(request.dataset_id)
        if problem := dataset.problem():
            raise dataset.has_changed(problem)
        return f"{dataset.name}: {dataset.found.num_train} train, {dataset.found.num_test} test"

    def _check_plan(self, request: requests.CheckRequest) -> str:
        plan = self.workbench(request).plan
        return f"{sum(p.numel() for p in plan.parameters()):,} parameters"

    def _check_step(self, request: requests.CheckRequest, stop: Stop) -> str:
        """One batch, from the model that was sent; nothing of it is kept."""
        from polyclinic.node.experiment_state import pack_optimizer

        fields = request.model_dump(
            include={"request_id", "experiment_id", "dataset_id", "model_args", "seed", "local_rule", "local_layers"}
        )
        args = request.training_args.model_copy(
            update={"dry_run": True, "optimizer_state": "fresh", "buffers": "averaged"}
        )
        trial = requests.TrainRequest(**fields, plan=request.plan, training_args=args, round=1, tensors=request.tensors)
        loss = self._run(trial, stop, None).loss
        if request.training_args.optimizer_state == "kept":
            pack_optimizer(self.workbench(request).plan.optimizer)  # says so if it cannot be kept
        return f"loss {loss:.4g} on one batch"

    # ---- parts

    def _dataset(self, dataset_id: str) -> RegisteredDataset:
        if dataset_id not in self._known:
            self._known = {d.dataset_id: d for d in self.registry.datasets()}
        if dataset_id not in self._known:
            to_do = nearest(dataset_id, self._known)
            raise ConfigError(f"node {self.name!r} has no dataset {dataset_id!r}", to_do=to_do)
        self._known[dataset_id].require_unchanged()
        return self._known[dataset_id]

    def _load(self, dataset: RegisteredDataset, *, train: bool) -> Any:
        # Kept over rounds: reading a table once a process, not once a round. The fingerprint tells registrations apart.
        key = (dataset.dataset_id + dataset.found.fingerprint, train)
        if key not in self._loaded:
            self._loaded[key] = dataset.load(train=train)
        return self._loaded[key]

    def workbench(self, request: requests.WorkRequest) -> Any:
        """The built plan of a request (a `Workbench`), which the process's nodes share.

        Raises:
            PlanError: if it cannot be built.
        """
        return self._benches().get(request)

    def _benches(self) -> Any:
        if self._workbenches is None:
            from polyclinic.node.workbenches import Workbenches

            self._workbenches = Workbenches()
        return self._workbenches

    def _kept(self, request: requests.WorkRequest) -> Any:
        """What this node keeps of the experiment from round to round; None if it is to keep nothing."""
        from polyclinic.node.experiment_state import ExperimentState
        from polyclinic.node.keeping import keeps_something

        if not keeps_something(request):
            return None
        folder = self.folder or self._temporary
        if folder is None:
            folder = self._temporary = Path(tempfile.mkdtemp(prefix="polyclinic-node-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return ExperimentState(folder / "experiments" / request.experiment_id)

    def _behind(self, request: requests.Request, err: BaseException) -> BaseException:
        """What a failure comes of: data that changed or vanished meanwhile, or else the error itself.

        A folder's files are not looked at before each use (`require_unchanged`), so that is made up for here.
        """
        dataset = self._known.get(request.dataset_id) if isinstance(request, requests.WorkRequest) else None
        if dataset is None or isinstance(err, Cancelled | DatasetChanged) or not (problem := dataset.problem()):
            return err
        changed = dataset.has_changed(problem)
        changed.__cause__ = err
        return changed

    def _failure(self, request: requests.Request, stage: str, err: BaseException) -> replies.Failure:
        if isinstance(err, PolyclinicError):
            code, what, to_do = err.code, err.what, err.to_do
            stage = str(err.where.get("stage", stage))
        else:
            code, what = "training" if stage == "train" else "node", f"{type(err).__name__}: {err}"
            to_do = "mend the plan or the data at this node; the traceback says where"
        reference = secrets.token_hex(4)
        log.debug("%s: %s failed, reference %s", self.node_id, stage, reference, exc_info=err)
        return replies.Failure(
            request_id=request.request_id,
            node_id=self.node_id,
            code=code,
            stage=stage,
            what=what,
            to_do=to_do,
            reference=reference,
            traceback="".join(traceback.format_exception(err)),
        )


def collate_fn(dataset: RegisteredDataset) -> Callable[[Any], Any] | None:
    """How a federated dataset makes a batch of samples; None: torch's own way."""
    module: ModuleType | None = dataset.kind.module(dataset.params)
    return getattr(module, "collate_fn", None)


def _process() -> str:
    return f"{os.getpid()} ({Path(sys.argv[0]).name or 'python'})"


def _versions() -> str:
    import torch

    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("polyclinic", "numpy")]
    return ", ".join([f"Python {platform.python_version()}", *packages, f"torch {torch.__version__}"])
