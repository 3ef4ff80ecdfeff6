"""An experiment: what a researcher holds in hand. The round itself is in rounds.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from polyclinic.aggregators import Aggregator, FedAverage, make_aggregator
from polyclinic.errors import Cancelled, ConfigError
from polyclinic.experiment.approval import Permission
from polyclinic.experiment.beginning import (
    build_plan,
    check_aggregator,
    check_settings,
    describe,
    new_folder,
    unfit_values_named,
)
from polyclinic.experiment.check import CheckReport, check_nodes
from polyclinic.experiment.comparison import Comparison, compare
from polyclinic.experiment.evaluation import Evaluation, evaluate_nodes
from polyclinic.experiment.freed_memory import give_back_freed
from polyclinic.experiment.history import History
from polyclinic.experiment.models import as_module, best_round, round_number
from polyclinic.experiment.observers import Observer, tell
from polyclinic.experiment.participants import Participant, chosen_by, find_participants, held
from polyclinic.experiment.progress import ProgressBar
from polyclinic.experiment.record import ExperimentSpec, RoundRecord
from polyclinic.experiment.rounds import RoundSettings, run_round
from polyclinic.experiment.run_folder import RunFolder
from polyclinic.experiment.stopping import interrupts_cancel
from polyclinic.experiment.tables import html_facts
from polyclinic.federation.federation import Federation
from polyclinic.federation.places import default_federation
from polyclinic.messages.requests import ApprovalRequest, CheckRequest, EvaluateRequest, PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.plans.source import PlanSource

State = dict[str, torch.Tensor]


class Experiment:
    """One run of a training plan over the nodes that hold data with the given tags.

    Args:
        model_class: the training plan, a `TorchTrainingPlan`. Its source travels, with all that it uses.
        tags: a node takes part if it has exactly one dataset with all of them.
        model_args: JSON values for the plan's ``__init__``.
        training_args: how nodes train in a round, see `TrainingArgs`: batch_size, lr, epochs or num_updates, …
        round_limit: rounds in all.
        aggregator: makes the next global model of the updates. Default: `FedAverage`.
        federation: the nodes; default: those of this machine, or of the hub of ``polyclinic federation use``.
        nodes: ids or names of the nodes to take; default: all that have the data.
        min_nodes: nodes that must answer for a round to count; default: all.
        deadline_seconds: after which a round goes on without the nodes that have not answered; default: none.
        seed: of everything random. The same seed gives the same model, bit for bit.
        initial_state: tensors of the plan to begin with, by name (``model.…``), instead of random ones.
        name: for people, and for the run folder's name.
        folder: the run folder; default: ``runs/<name>-<time>`` in the current folder.
        observers: who is told what happens; default: a progress bar.
        keep_all_rounds: keep every round's model in the run folder, not only the last two and the best.
        message: for the hospitals' data managers, who decide whether the plan may run: what it is for.
        purpose: a word for it, which the hospitals' policies may ask for, such as "research".

    Raises:
        ConfigError: a setting that is unknown, missing or contradicts another.
        PlanError: a plan that cannot be built here, or that cannot travel.
    """

    def __init__(
        self,
        model_class: type,
        *,
        tags: Sequence[str] = (),
        model_args: Mapping[str, Any] | None = None,
        training_args: Mapping[str, Any] | TrainingArgs,
        round_limit: int = 10,
        aggregator: Aggregator | None = None,
        federation: Federation | None = None,
        nodes: Sequence[str] | None = None,
        min_nodes: int | None = None,
        deadline_seconds: float | None = None,
        seed: int = 0,
        initial_state: Mapping[str, torch.Tensor] | None = None,
        name: str = "experiment",
        folder: str | Path | None = None,
        observers: Sequence[Observer] | None = None,
        keep_all_rounds: bool = False,
        message: str = "",
        purpose: str = "",
    ) -> None:
        check_settings(
            {"tags": tags, "nodes": nodes},
            {"round_limit": round_limit, "min_nodes": min_nodes, "deadline_seconds": deadline_seconds},
        )
        args = TrainingArgs.parse(training_args)
        # Its own copy: one aggregator object given to two experiments must not mix their states.
        aggregator = FedAverage() if aggregator is None else copy.deepcopy(aggregator)
        check_aggregator(aggregator)
        model_args = dict(model_args or {})
        begun = build_plan(model_class, model_args, seed, aggregator, args.local_layers, initial_state)
        spec = describe(
            begun,
            aggregator,
            name=name,
            tags=tuple(tags),
            nodes=None if nodes is None else tuple(nodes),
            model_args=model_args,
            training_args=args,
            round_limit=round_limit,
            min_nodes=min_nodes,
            deadline_seconds=deadline_seconds,
            seed=seed,
            keep_all_rounds=keep_all_rounds,
            message=message,
            purpose=purpose,
        )
        path = Path(folder) if folder is not None else new_folder(name)
        first = RoundRecord(round=0, started=spec.created, seconds=0.0, nodes=())
        self._begin(spec, begun.plan, RunFolder(path), aggregator, federation, observers, [first], begun.state)

    def _begin(
        self,
        spec: ExperimentSpec,
        plan: PlanSource,
        folder: RunFolder,
        aggregator: Aggregator,
        federation: Federation | None,
        observers: Sequence[Observer] | None,
        records: list[RoundRecord],
        state: State,
    ) -> None:
        self._spec, self._plan, self._folder = spec, plan, folder
        self._aggregator = aggregator
        self._federation = federation
        self._observers = [ProgressBar()] if observers is None else list(observers)
        self._records, self._state = records, state
        self._cancelled = False

    # ---- what it is

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._spec.name

    @property
    def run_folder(self) -> Path:
        """Where the experiment keeps everything."""
        return self._folder.path

    @property
    def round(self) -> int:
        """Rounds that are complete."""
        return self._records[-1].round

    @property
    def history(self) -> History:
        """All figures so far, as a table: tail(), to_pandas(), plot()."""
        return History(row for record in self._records for row in record.rows)

    @property
    def records(self) -> list[RoundRecord]:
        """The complete rounds' records; the first, of round 0, is the initial model's."""
        return list(self._records)

    def info(self) -> dict[str, Any]:
        """What the experiment is, as plain data."""
        return self._spec.model_dump() | {"round": self.round, "run_folder": str(self.run_folder)}

    # ---- what it does

    def check(self) -> CheckReport:
        """Asks every node whether it can run this, and prints what they say. Nothing of it is kept."""
        with self._nodes() as (federation, participants):
            report = check_nodes(CheckRequest(**self._work(), tensors=self._state), participants, federation)
        print(report)  # noqa: T201  (a table is what the researcher asked for)
        return report

    def run(self, rounds: int | None = None) -> History:
        """Runs on from where the experiment is: ``rounds`` rounds, or up to ``round_limit``.

        Where a hospital's data manager has still to approve the plan, it says so, waits, and goes on by itself.
        Ctrl-C stops it after the batch that the nodes are at; the last complete round is safe. Call it again to go on.

        Raises:
            RoundFailed: too few nodes answered; says which failed, and why.
            NotApproved, PolicyRefused: too few hospitals allow it; says which, and why.
            RunFolderError: the run folder cannot be written.
            Cancelled: `cancel` was called.
            NoMatchingNodes, DatasetChanged: the data are not there.
        """
        limit = self._spec.round_limit
        last = limit if rounds is None else min(self.round + rounds, limit)
        if self.round >= last:
            return self.history
        self.save()
        reason = "ended by an error"
        with self._folder.in_use(), self._nodes() as (federation, participants), interrupts_cancel(self.cancel):
            self._cancelled = False
            started = {"name": self.name, "first_round": self.round + 1, "last_round": last}
            tell(self._observers, "run_started", run_folder=self.run_folder, **started)
            observers, cancelled = self._observers, lambda: self._cancelled
            asking = ApprovalRequest(**self._work())
            permission = Permission(asking, federation, self._spec.min_nodes, observers, cancelled)
            try:
                while self.round < last:
                    if reasons := permission.round(participants, lambda ready: self._one_round(federation, ready)):
                        reason = "; ".join(reasons)
                        break
                else:
                    reason = "done" if last == limit else f"{self.round} of {limit} rounds"
            except Cancelled:
                reason = f"stopped; round {self.round} is safe, run() goes on"
                raise
            finally:
                tell(self._observers, "run_ended", reason=reason)
        return self.history

    def run_round(self) -> RoundRecord:
        """Runs one round, and returns its record. Raises what `run` raises."""
        if self.round >= self._spec.round_limit:
            raise ConfigError(f"all {self._spec.round_limit} rounds are done", to_do="begin with a higher round_limit")
        self.run(rounds=1)
        return self._records[-1]

    def evaluate(
        self,
        split: Literal["test", "train"] = "test",
        metrics: Sequence[str] | None = None,
        nodes: Sequence[str] | None = None,
        *,
        personal: bool = True,
        fine_tune: int = 0,
    ) -> Evaluation:
        """Judges the global model at every node on its own data, and on all of them together.

        A node with local layers judges the model with its own.

        Args:
            split: which part of the nodes' data.
            metrics: names, see docs/metrics.md; default: the dataset's own, or what fits its target.
            nodes: ids or names; default: the experiment's nodes.
            personal: where the algorithm keeps a model of each node's own (Ditto), judge that one; else the global one.
            fine_tune: before judging, each node trains the model for so many batches on its own training data, and
                forgets it afterwards.

        Raises:
            EvaluationError: a node could not evaluate, or it does not know the metric (names the nearest one), or the
                metric does not fit what the plan predicts.
            ConfigError: another split than "train" and "test", or no lists.
        """
        check_settings({"metrics": metrics, "nodes": nodes}, {})
        with self._nodes(nodes) as (federation, participants):
            request = self.evaluate_request(split, metrics, personal, fine_tune)
            return evaluate_nodes(request, participants, federation, self._settings())

    def evaluate_request(
        self,
        split: Literal["test", "train"] = "test",
        metrics: Sequence[str] | None = None,
        personal: bool = True,
        fine_tune: int = 0,
    ) -> EvaluateRequest:
        """What `evaluate` sends, for no node in particular: for programs that judge models at nodes by themselves."""
        given: dict[str, Any] = {"round": self.round, "split": split, "personal": personal, "fine_tune": fine_tune}
        names = None if metrics is None else tuple(metrics)
        with unfit_values_named():
            return EvaluateRequest(**self._work(), **given, metrics=names, tensors=self._state)

    def model(self, which: Literal["last", "best"] | int = "last") -> torch.nn.Module:
        """The plan's model with the global weights, in eval mode: an ordinary torch module.

        Args:
            which: the last round's, the best round's (by test score where rounds were tested, else by training loss),
                or a round number that the run folder has kept.
        """
        number = round_number(which, self._records)
        state = self._state if number == self.round else self._folder.read_model(number)[0]
        return as_module(self._plan, self._spec, state)

    def cancel(self) -> None:
        """Stops a run that is going on, after the batch that the nodes are at. May be called from any thread."""
        self._cancelled = True
        if self._federation is not None:
            self._federation.cancel(self._spec.experiment_id)

    def save(self) -> Path:
        """Makes sure that everything is in the run folder, and returns it. `run` does this by itself."""
        if not self._folder.begun:
            first, aggregator = self._records[0], self._aggregator.state_dict()
            self._state = self._folder.create(self._spec, self._plan, first, self._state, aggregator)
        return self.run_folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        federation: Federation | None = None,
        aggregator: Aggregator | None = None,
        observers: Sequence[Observer] | None = None,
    ) -> Experiment:
        """The experiment in a run folder, as of its last complete round; ``run()`` goes on from there.

        Args:
            folder: the run folder, wherever it was moved to.
            federation: as in the constructor.
            aggregator: only needed for one that does not come with Polyclinic.
            observers: as in the constructor.

        Raises:
            RunFolderError: there is no experiment, or what cannot be done without is damaged.
        """
        run_folder = RunFolder(Path(folder))
        spec = run_folder.read_spec()
        plan = run_folder.read_plan(spec)
        records = run_folder.read_records()
        state, aggregator_state = run_folder.read_model(records[-1].round)
        aggregator = aggregator or make_aggregator(spec.aggregator, spec.aggregator_settings)
        aggregator.setup(spec.buffers)
        aggregator.load_state_dict(aggregator_state)
        self = cls.__new__(cls)
        self._begin(spec, plan, run_folder, copy.deepcopy(aggregator), federation, observers, records, state)
        return self

    @staticmethod
    def compare(*experiments: Experiment | str | Path, labels: Sequence[str] | None = None) -> Comparison:
        """Experiments, or run folders, side by side: a table of figures, and curves. ``labels``: what to call them.

        Raises:
            ConfigError, RunFolderError: nothing is given, something is no experiment, or labels are not one each.
        """
        return compare(experiments, labels)

    # ---- parts

    def _one_round(self, federation: Federation, participants: list[Participant]) -> list[str]:
        """Runs a round and completes it on disk; returns the observers' reasons to stop."""
        if self._cancelled:
            raise Cancelled(f"stopped on request after round {self.round}", to_do="run() goes on from there")
        spec = self._spec
        request = TrainRequest(**self._work(), round=self.round + 1, tensors=self._state)
        training = chosen_by(self._aggregator, request.round, participants)
        previous, before = self._state, self._aggregator.state_dict()
        state, record = run_round(request, training, federation, self._aggregator, self._settings(), self._observers)
        self._state = state
        self._records.append(record)
        try:
            if spec.training_args.test_every and record.round % spec.training_args.test_every == 0:
                evaluation = evaluate_nodes(self.evaluate_request(), participants, federation, self._settings())
                added = {"rows": (*record.rows, *evaluation.rows()), "score": evaluation.score(), "tested": True}
                record = self._records[-1] = record.model_copy(update=added)
            self._state = self._folder.write_round(record, state, self._aggregator.state_dict())
        except BaseException:
            # The round is not complete: what is in memory must be what is on disk.
            self._records.pop()
            self._state = previous
            self._aggregator.load_state_dict(before)
            raise
        if self._state is not state:  # a large one, mapped now
            state = self._state
            give_back_freed()
        if not spec.keep_all_rounds:
            self._folder.prune({record.round, record.round - 1, best_round(self._records)})
        if not self._observers:  # the history of many rounds is not put together for nobody
            return []
        told = tell(self._observers, "round_ended", record=record, history=self.history, model=state)
        return [reason for reason in told if reason]

    def _work(self) -> dict[str, Any]:
        """What all requests of this experiment have in common."""
        plan = PlanText(text=self._plan.text, class_name=self._plan.class_name)
        return self._spec.work(plan, self._aggregator.local_rule)

    def _settings(self) -> RoundSettings:
        return RoundSettings(self._spec.min_nodes, self._spec.deadline_seconds)

    @contextmanager
    def _nodes(self, only: Sequence[str] | None = None) -> Iterator[tuple[Federation, list[Participant]]]:
        """The federation and the nodes that take part, held against other programs meanwhile."""
        if self._federation is None:
            self._federation = default_federation()
        chosen = self._spec.nodes if only is None else tuple(only)
        needed = self._spec.min_nodes if only is None else None
        participants = find_participants(self._federation, self._spec.tags, chosen, needed)
        with held(self._federation, participants, self._spec.experiment_id, self._observers):
            yield self._federation, participants

    def __repr__(self) -> str:
        return f"<Experiment {self.name!r}: round {self.round} of {self._spec.round_limit}, {self.run_folder}>"

    def _repr_html_(self) -> str:
        done = {"round": f"{self.round} of {self._spec.round_limit}", "run folder": self.run_folder}
        return html_facts(f"Experiment {self.name}", self._spec.facts() | done)
