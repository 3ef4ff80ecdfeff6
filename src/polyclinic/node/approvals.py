"""What a data manager has said yes to, and what waits for a word.

An approval binds the exact bytes of a plan's text, the researcher's key, the dataset, the arguments, the number of
rounds, and an end date. Whatever differs in any of them is a new request, and waits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from sqlalchemy import Connection, Engine, bindparam, func, select, update
from sqlalchemy.orm import Session

import polyclinic
from polyclinic.errors import ConfigError, NotApproved, nearest
from polyclinic.messages.requests import PlanText, WorkRequest
from polyclinic.node.asked import (
    EVERY_RESEARCHER,
    Asked,
    AskedRow,
    PlanRow,
    State,
    arguments_of,
    asked_in,
    covers,
    goes_on,
    json_text,
    plan_digest,
)
from polyclinic.node.database import make_tables

DEFAULT_TERM = timedelta(days=90)

# One researcher cannot fill the node's disk with plans.
_MAX_WAITING = 100


# A node at work asks for these each round: statements that are built once.
_OF_PLAN = select(AskedRow.__table__).where(AskedRow.plan_sha256 == bindparam("plan")).order_by(AskedRow.number)
_STATE = select(AskedRow.state, AskedRow.until).where(AskedRow.id == bindparam("id"))
_USE = update(AskedRow).where(AskedRow.id == bindparam("approval")).values(used=AskedRow.used + 1)


class Approvals:
    """The approvals of a node.

    Args:
        engine: of the node's database. Other programs may write to it at the same time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        make_tables(engine, PlanRow, AskedRow)

    # ---- for the node

    def look(self, researcher: str, key: str, request: WorkRequest, *, trains: bool = True) -> tuple[Asked, bool]:
        """What stands for this request: an approval that covers it, or else what waits or was refused.

        Args:
            key: the researcher's public key.
            trains: whether a round's training is asked for, which uses up a round.

        Returns:
            And whether it was asked for the first time, and now waits.

        Raises:
            NotApproved: the researcher has very many requests that wait already; this one is not kept.
        """
        plan, arguments = plan_digest(request.plan), arguments_of(request)
        with self._engine.connect() as connection:
            for found in connection.execute(_OF_PLAN, {"plan": plan}):
                row = cast("AskedRow", found)  # its columns, by the same names
                if covers(row, researcher, key, request, arguments, trains=trains):
                    return asked_in(row, request.plan.class_name), False
        with Session(self._engine) as session:
            of_plan = session.scalars(select(AskedRow).where(AskedRow.plan_sha256 == plan)).all()
            digest = _digest([plan, researcher, key, request.dataset_id, arguments, request.round_limit])
            open_rows = [row for row in of_plan if row.digest == digest and row.state != "approved"]
            if open_rows:
                if open_rows[-1].state == "pending" and open_rows[-1].message != request.message:
                    open_rows[-1].message = request.message
                    session.commit()
                return asked_in(open_rows[-1], request.plan.class_name), False
            row = self._new(session, researcher, key, request, digest)
            return asked_in(row, request.plan.class_name), True

    def stands(self, id: str) -> bool:  # noqa: A002
        """Whether this approval holds now, for work that was begun under it."""
        with self._engine.connect() as connection:
            found = connection.execute(_STATE, {"id": id}).first()
        return found is not None and found.state == "approved" and goes_on(found.until)

    def use(self, connection: Connection, id: str) -> None:  # noqa: A002
        """Counts a round that was trained under the approval."""
        connection.execute(_USE, {"approval": id})

    # ---- for the data manager

    def all(self, state: State | None = None) -> list[Asked]:
        """What was asked for, the oldest first."""
        chosen = select(AskedRow, PlanRow.class_name).join(PlanRow, PlanRow.sha256 == AskedRow.plan_sha256)
        if state is not None:
            chosen = chosen.where(AskedRow.state == state)
        with Session(self._engine) as session:
            return [asked_in(row, name) for row, name in session.execute(chosen.order_by(AskedRow.number))]

    def find(self, id: str) -> Asked:  # noqa: A002
        """What has this id, or is the only one whose id begins so.

        Raises:
            ConfigError: there is none, or more than one.
        """
        known = {one.id: one for one in self.all()}
        fit = [id] if id in known else [name for name in known if id and name.startswith(id)]
        if len(fit) != 1:
            what = f"{len(fit)} requests have ids that begin with" if fit else "there is no request"
            raise ConfigError(f"{what} {id!r} at this node", to_do=nearest(id, fit or known))
        return known[fit[0]]

    def text(self, plan_sha256: str) -> str:
        """The plan's text."""
        with Session(self._engine) as session:
            return session.scalars(select(PlanRow.text).where(PlanRow.sha256 == plan_sha256)).one()

    def approve(
        self,
        asked: Asked,
        *,
        datasets: Sequence[str] = (),
        rounds: int | None = None,
        until: datetime | None = None,
        any_arguments: bool = False,
        note: str = "",
    ) -> Asked:
        """Says yes, also to what was refused before; to what is approved already, with other bounds.

        Args:
            asked: as it was when it was read.
            datasets: ids; default: the one that was asked for.
            rounds: in all; default: as many as were asked for.
            until: default: in `DEFAULT_TERM`.

        Raises:
            ConfigError: the bounds are none, or somebody has decided it since it was read.
        """
        rounds = rounds or asked.rounds or asked.asked_rounds
        until = until or datetime.now(UTC) + DEFAULT_TERM
        if rounds is None or rounds < 1:
            raise ConfigError(f"request {asked.id} does not say how many rounds it is for", to_do="give --rounds N")
        if until <= datetime.now(UTC):
            raise ConfigError(f"the end date {until:%Y-%m-%d %H:%M} is over", to_do="give a later --until")
        bounds = {"rounds": rounds, "until": until.timestamp(), "any_arguments": any_arguments}
        return self._decide(asked, "approved", note, {**bounds, "datasets": list(datasets or asked.datasets)})

    def reject(self, asked: Asked, reason: str) -> Asked:
        """Says no to what waits.

        Raises:
            ConfigError: it does not wait, or somebody has decided it since it was read.
        """
        if asked.state != "pending":
            to_do = "revoke it: polyclinic node revoke" if asked.state == "approved" else ""
            raise ConfigError(f"request {asked.id} does not wait: it is {asked.state}", to_do=to_do)
        return self._decide(asked, "rejected", reason, {})

    def revoke(self, asked: Asked, reason: str) -> Asked:
        """Takes an approval back; what runs under it is stopped.

        Raises:
            ConfigError: it is not approved, or somebody has decided it since it was read.
        """
        if asked.state != "approved":
            to_do = "reject it: polyclinic node reject" if asked.state == "pending" else ""
            raise ConfigError(f"request {asked.id} is not approved: it is {asked.state}", to_do=to_do)
        return self._decide(asked, "revoked", reason, {})

    def approve_installed(
        self,
        plan: PlanText,
        arguments: Mapping[str, Any],
        datasets: Sequence[str],
        *,
        rounds: int,
        until: datetime | None = None,
        note: str = "",
    ) -> Asked:
        """Says yes in advance to a plan that comes with this version of Polyclinic, for every trusted researcher.

        Args:
            arguments: those that are bound, see `arguments_of`; all others may be any.
        """
        bound = dict(arguments)
        digest = _digest([plan_digest(plan), EVERY_RESEARCHER, polyclinic.__version__, sorted(datasets), bound])
        with Session(self._engine) as session:
            row = session.scalars(select(AskedRow).where(AskedRow.digest == digest)).first()
            if row is None:
                row = AskedRow(
                    id=_new_id(session, digest),
                    state="pending",
                    digest=digest,
                    plan_sha256=_keep_plan(session, plan),
                    researcher=EVERY_RESEARCHER,
                    key=EVERY_RESEARCHER,
                    datasets=list(datasets),
                    arguments=bound,
                    asked_rounds=rounds,
                    since=time.time(),
                    installed=polyclinic.__version__,
                )
                session.add(row)
                session.commit()
            asked = asked_in(row, plan.class_name)
        return self.approve(asked, rounds=rounds, until=until, note=note)

    # ---- parts

    def _new(self, session: Session, researcher: str, key: str, request: WorkRequest, digest: str) -> AskedRow:
        waiting = select(func.count()).where(AskedRow.state == "pending", AskedRow.researcher == researcher)
        if session.scalars(waiting).one() >= _MAX_WAITING:
            raise NotApproved(
                f"{_MAX_WAITING} requests of researcher {researcher} wait at this node; it takes no more",
                to_do="ask its data manager to decide those first",
                stage="approval",
            )
        row = AskedRow(
            id=_new_id(session, digest),
            state="pending",
            digest=digest,
            plan_sha256=_keep_plan(session, request.plan),
            researcher=researcher,
            key=key,
            datasets=[request.dataset_id],
            arguments=arguments_of(request),
            asked_rounds=request.round_limit,
            message=request.message,
            since=time.time(),
        )
        session.add(row)
        session.commit()
        return row

    def _decide(self, asked: Asked, state: State, note: str, bounds: dict[str, Any]) -> Asked:
        # Only as it was read: a yes that was thought over does not take back a no that came meanwhile.
        as_read = (AskedRow.id == asked.id, AskedRow.revision == asked.revision)
        values = {"state": state, "note": note, "decided": time.time(), "revision": asked.revision + 1, **bounds}
        with Session(self._engine) as session:
            done = session.execute(update(AskedRow).where(*as_read).values(**values))
            session.commit()
            if cast("Any", done).rowcount != 1:
                raise ConfigError(
                    f"request {asked.id} was decided by somebody else meanwhile", to_do="look at it again, and decide"
                )
        return self.find(asked.id)


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json_text(parts).encode()).hexdigest()


def _new_id(session: Session, digest: str) -> str:
    """Four digits, or as many as keep it apart from the others."""
    count = session.scalars(select(func.count()).where(AskedRow.digest == digest)).one()
    name = hashlib.sha256(f"{digest} {count}".encode()).hexdigest()
    taken = set(session.scalars(select(AskedRow.id)))
    return next(name[:length] for length in range(4, 65) if name[:length] not in taken)


def _keep_plan(session: Session, plan: PlanText) -> str:
    sha256 = plan_digest(plan)
    if session.get(PlanRow, sha256) is None:
        session.add(PlanRow(sha256=sha256, class_name=plan.class_name, text=plan.text))
    return sha256
