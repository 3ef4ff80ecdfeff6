"""What stands between a request of a trusted researcher and a hospital's data: policy, approval, journal.

The long-lived node of a real federation asks here before anything runs, and tells what came of it. In process, and in
worker processes of one's own machine, the researcher is the data manager, and nothing of this is there.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from polyclinic.errors import (
    Cancelled,
    ConfigError,
    LeavingRefused,
    NotApproved,
    NotTrusted,
    PolicyInvalid,
    PolicyRefused,
    PolyclinicError,
    nearest,
)
from polyclinic.messages.replies import ApprovalReply, CheckItem, CheckReply, EvaluateReply, Failure, Reply, TrainReply
from polyclinic.messages.requests import CheckRequest, EvaluateRequest, TrainRequest, WorkRequest
from polyclinic.node import leaving, rules
from polyclinic.node.approvals import Approvals
from polyclinic.node.asked import Asked, plan_digest
from polyclinic.node.journal import Journal
from polyclinic.node.node import Node
from polyclinic.node.plan_reading import shown
from polyclinic.node.policy import Policy, PolicyFile
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.usage import UsageAccount

log = logging.getLogger("polyclinic.node")

_BROKEN = "broken"


@dataclass(frozen=True)
class Admission:
    """A request that may run.

    Args:
        frame: the id of what the researcher signed.
        approval: the short id of what the data manager has said yes to; "" where the policy asks for no approval.
        plan_sha256: see `plan_digest`.
        began: on the clock of `time.monotonic`.
        items: of a check: what it says of policy and approval.
    """

    researcher: str
    frame: str
    approval: str
    plan_sha256: str
    dataset: RegisteredDataset
    policy: Policy
    began: float
    items: tuple[CheckItem, ...] = ()


class Governance:
    """The governance of one node.

    Args:
        node: with a folder; its database holds the approvals, its folder the policy.
        journal: of the node.
    """

    def __init__(self, node: Node, journal: Journal) -> None:
        assert node.folder is not None
        assert node.engine is not None
        self._node, self._folder = node, node.folder
        self._policy = PolicyFile(node.folder)
        self._approvals = Approvals(node.engine)
        self._usage = UsageAccount(node.engine)
        self._journal = journal
        self._policy_noted: str | None = None
        # Out of the reach of workers, which could change a file after it was looked at.
        self._leaving = node.folder / "leaving"
        shutil.rmtree(self._leaving, ignore_errors=True)
        self._leaving.mkdir()

    # ---- before

    def admit(self, researcher: str, key: str, request: WorkRequest, frame: str) -> Admission:
        """Lets a request run, or says why not. What needs an approval and has none becomes pending.

        Args:
            researcher: whose signature was checked.
            key: the public key that it was checked with.
            frame: the id of what was signed, which nothing else can have.

        Raises:
            PolicyRefused: a rule of the policy is against it; names the rule.
            NotApproved: it waits for the data manager, or was rejected or revoked.
            ConfigError: there is no such dataset.
        """
        plan = plan_digest(request.plan)
        about = _about(researcher, request)
        self._journal.write(
            "request",
            **about,
            work=work_of(request),
            key=key,
            plan=plan,
            plan_name=shown(request.plan.class_name)[:200],
            round_limit=request.round_limit,
            purpose=request.purpose,
        )
        asked: Asked | None = None
        try:
            policy, dataset = self._rules_kept(researcher, request)
            asked = self._asked(policy, researcher, key, request)
            if asked is not None and asked.state != "approved":
                raise self._not_approved(asked)
        except PolyclinicError as err:
            self._note_refusal(about | {"plan": plan, "approval": asked.id if asked else ""}, err)
            raise
        granted = {"approval": "" if asked is None else asked.id, "plan": plan, "policy": policy.digest}
        self._journal.write("admitted", **about, **granted)
        self._journal.write("started", **about, **granted, work=work_of(request), sandbox=policy.sandbox)
        items: tuple[CheckItem, ...] = ()
        if isinstance(request, CheckRequest):
            items = self.check_items(researcher, key, request)
        return Admission(researcher, frame, granted["approval"], plan, dataset, policy, time.monotonic(), items)

    def stands(self, admission: Admission) -> bool:
        """Whether what was admitted may still run: False once its approval is revoked or its time is over."""
        return not admission.approval or self._approvals.stands(admission.approval)

    def approval(self, researcher: str, key: str, request: WorkRequest) -> ApprovalReply:
        """What the data manager has said of this request, without running anything.

        Raises:
            PolicyRefused, ConfigError: as for `admit`.
        """
        policy, _ = self._rules_kept(researcher, request)
        asked = self._asked(policy, researcher, key, request)
        reply = ApprovalReply(request_id=request.request_id, node_id=self._node.node_id, state="approved")
        if asked is None or asked.state == "approved":
            return reply
        why = self._not_approved(asked)
        about = {"asked": asked.id, "since": asked.since.timestamp(), "what": why.what, "to_do": why.to_do}
        return reply.model_copy(update={"state": asked.state, **about})

    def check_items(self, researcher: str, key: str, request: CheckRequest) -> tuple[CheckItem, ...]:
        """What policy and data manager say of a check: if all of it is well, the check may run.

        Raises:
            PolicyRefused: the policy cannot be read.
            ConfigError: there is no such dataset.
        """
        policy, dataset = self._current(), self._dataset(request.dataset_id)
        items = rules.check_items(policy, **self._judged(researcher, request, dataset))
        if not all(item.ok for item in items):
            return items
        asked = self._asked(policy, researcher, key, request)
        if asked is None:
            return items
        if asked.state == "approved":
            return (*items, CheckItem(name="approval", ok=True, detail=f"approved ({asked.id})"))
        why = self._not_approved(asked)
        return (*items, CheckItem(name="approval", ok=False, detail=f"{why.what}. {why.to_do}"))

    # ---- after

    def ended(
        self, admission: Admission, request: WorkRequest, reply: Reply, tensors: Path | None, sent: Path | None
    ) -> tuple[Reply, Path | None]:
        """Looks at what would leave, and writes down what does.

        Args:
            tensors: the file of the reply's tensors.
            sent: the file of the request's tensors.

        Returns:
            What may leave, which may be a `Failure` instead, and the file of its tensors, which nobody else can change.

        Raises:
            NodeError: it cannot be written down; then nothing may leave.
        """
        left: tuple[leaving.Left, ...] = ()
        # The frame's id is the researcher's word: it is no name of a file.
        into = self._leaving / f"{hashlib.sha256(admission.frame.encode()).hexdigest()}.safetensors"
        try:
            if admission.approval and not self.stands(admission):
                raise self._not_approved(self._approvals.find(admission.approval))
            policy, dataset = self._current(), admission.dataset
            reply, left = leaving.check(policy, request, reply, tensors, sent=sent, dataset=dataset, into=into)
        except (LeavingRefused, NotApproved, PolicyRefused) as err:
            reply = self._failure(request, err)
            into.unlink(missing_ok=True)
        if isinstance(reply, CheckReply):
            reply = reply.model_copy(update={"items": (*admission.items, *reply.items)})
        seconds = time.monotonic() - admission.began
        trained = isinstance(reply, TrainReply)
        self._usage.add(
            admission.researcher,
            request.dataset_id,
            admission.frame,
            rounds=int(trained),
            seconds=seconds,
            experiment_id=request.experiment_id,
        )
        self._note_end(admission, request, reply, seconds, left)
        uses = [partial(self._approvals.use, id=admission.approval)] if trained and admission.approval else []
        # One transaction: each waits for the disk.
        with self._usage.flushing() as usage:
            self._journal.flush(usage, *uses)
        return reply, into if into.exists() else None

    # ---- parts

    def _rules_kept(self, researcher: str, request: WorkRequest) -> tuple[Policy, RegisteredDataset]:
        policy, dataset = self._current(), self._dataset(request.dataset_id)
        if found := rules.refusals(policy, **self._judged(researcher, request, dataset)):
            raise rules.refused(found, self._node.name)
        return policy, dataset

    def _judged(self, researcher: str, request: WorkRequest, dataset: RegisteredDataset) -> dict[str, Any]:
        used = self._usage.used(researcher, request.dataset_id, request.experiment_id)
        return {
            "researcher_id": researcher,
            "request": request,
            "dataset": dataset,
            "used": used,
            "now": datetime.now(UTC).astimezone(),
        }

    def _current(self) -> Policy:
        try:
            policy = self._policy.current()
        except PolicyInvalid as err:
            if self._policy_noted != _BROKEN:
                self._policy_noted = _BROKEN
                self._journal.write("policy", digest="", valid=False)
                log.error("the node does nothing: %s", err)
            raise rules.refused([rules.of_broken_file(err)], self._node.name) from err
        if policy.digest != self._policy_noted:
            self._policy_noted = policy.digest
            self._journal.write("policy", digest=policy.digest)
        return policy

    def _dataset(self, dataset_id: str) -> RegisteredDataset:
        known = {dataset.dataset_id: dataset for dataset in self._node.registry.datasets()}
        if dataset_id not in known:
            raise ConfigError(
                f"node {self._node.name!r} has no dataset {dataset_id!r}", to_do=nearest(dataset_id, known)
            )
        return known[dataset_id]

    def _asked(self, policy: Policy, researcher: str, key: str, request: WorkRequest) -> Asked | None:
        """What stands for the request; None: no approval is asked for."""
        if policy.approval == "off":
            return None
        # Judging a model that was trained is no further round.
        trains = not isinstance(request, EvaluateRequest)
        asked, is_new = self._approvals.look(researcher, key, request, trains=trains)
        if is_new:
            plan = {"plan": asked.plan_sha256, "plan_name": shown(asked.class_name)[:200]}
            about = _about(researcher, request)
            self._journal.write("pending", **about, **plan, approval=asked.id, key=key, rounds=request.round_limit)
            self._journal.flush()
        return asked

    def _not_approved(self, asked: Asked) -> NotApproved:
        yes = f"polyclinic node approve {self._folder.name} {asked.id}"
        if asked.state == "pending":
            return NotApproved(
                f"plan {asked.class_name} waits for the data manager of {self._node.name} since "
                f"{asked.since:%Y-%m-%d %H:%M} UTC (request {asked.id})",
                to_do=f"They decide by: {yes}",
                stage="approval",
            )
        if asked.state == "approved":  # its end came while the work went on
            return NotApproved(
                f"the approval {asked.id} of plan {asked.class_name} has ended at {self._node.name}",
                to_do=f"its data manager can give it a later end: {yes}",
                stage="approval",
            )
        return NotApproved(
            f"plan {asked.class_name} was {asked.state} by the data manager of {self._node.name} (request {asked.id}): "
            f"{asked.note or 'no reason was given'}",
            to_do="speak with them, or change what they do not like; what is changed is a new request",
            stage="approval",
        )

    def _note_refusal(self, facts: dict[str, Any], err: PolyclinicError) -> None:
        broken = list(err.rules) if isinstance(err, PolicyRefused) else []
        stage = str(err.where.get("stage", ""))
        self._journal.write("refused", **facts, code=err.code, stage=stage, rules=broken)
        self._journal.flush()

    def _note_end(
        self, admission: Admission, request: WorkRequest, reply: Reply, seconds: float, left: tuple[leaving.Left, ...]
    ) -> None:
        facts: dict[str, Any] = {"outcome": "done"}
        if isinstance(reply, Failure):
            outcome = dict.fromkeys((Cancelled.code, NotApproved.code, NotTrusted.code), "stopped")
            outcome[LeavingRefused.code] = "refused"
            facts = {"outcome": outcome.get(reply.code, "failed"), "code": reply.code, "stage": reply.stage}
        elif isinstance(reply, TrainReply):
            facts |= {"rows": reply.num_samples, "loss": admission.policy.leaves.losses}
        elif isinstance(reply, EvaluateReply):
            facts |= {"rows": reply.num_samples, "metrics": list(reply.metrics)}
        self._journal.write(
            "ended",
            **_about(admission.researcher, request),
            **facts,
            work=work_of(request),
            approval=admission.approval,
            plan=admission.plan_sha256,
            seconds=seconds,
            left=[[t.name, list(t.shape), t.dtype, t.bytes, t.sha256] for t in left],
        )

    def _failure(self, request: WorkRequest, err: PolyclinicError) -> Failure:
        return Failure(
            request_id=request.request_id,
            node_id=self._node.node_id,
            code=err.code,
            stage=str(err.where["stage"]),
            what=err.what,
            to_do=err.to_do,
        )


def work_of(request: WorkRequest) -> str:
    """What is asked for, in a word: train, evaluate, check, approval."""
    return request.kind.partition("-")[0]


def _about(researcher: str, request: WorkRequest) -> dict[str, Any]:
    """What the journal says of a request in each of its rows."""
    return {
        "researcher": researcher,
        "experiment": request.experiment_id,
        "request": request.request_id,
        "dataset": request.dataset_id,
        "round": request.round if isinstance(request, TrainRequest | EvaluateRequest) else None,
    }
