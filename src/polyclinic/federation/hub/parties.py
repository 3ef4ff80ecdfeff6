"""Who belongs to the hub, and which join tokens are out: a small database, which the server's users follow from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import DateTime, Engine, TypeDecorator, create_engine, event, select, update
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from polyclinic.errors import HubError, JoinRefused, nearest
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.tokens import JoinToken
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.node.registry import identifier

# An expired token is refused by the desk, which can say why, for so long; then its user is gone.
_GRACE = timedelta(days=1)
# So is that of a used one, sooner: until then whoever missed the answer may ask again, and a thief is told and noted.
_USED_GRACE = timedelta(hours=1)


class _Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite forgets the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value and value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: _Moment}


class Party(Base):
    """A node or researcher that joined.

    Args:
        swept: of a revoked one: whether what it had at the server is gone.
    """

    __tablename__ = "parties"

    party_id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[Role]
    name: Mapped[str]
    public_key: Mapped[str]
    joined: Mapped[datetime]
    revoked: Mapped[datetime | None]
    swept: Mapped[bool] = mapped_column(default=False)


class Invitation(Base):
    """A join token, without its secret."""

    __tablename__ = "invitations"

    token_id: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[Role]
    party_id: Mapped[str]
    name: Mapped[str]
    public_key: Mapped[str]
    expires: Mapped[datetime]
    used: Mapped[datetime | None]
    used_by: Mapped[str | None]
    withdrawn: Mapped[datetime | None]

    def is_open(self, now: datetime) -> bool:
        return self.used is None and self.withdrawn is None and now < self.expires


class Parties:
    """The database of one hub. Several processes may use it at once.

    Raises:
        HubError: from the constructor, if there is no hub.
    """

    def __init__(self, hub: HubFolder) -> None:
        self._hub = hub.require()
        self._engine = _open(hub.database)

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def members(self, role: Role | None = None) -> list[Party]:
        """Those who may connect, by id."""
        query = select(Party).where(Party.revoked.is_(None)).order_by(Party.party_id)
        with self._session() as session:
            return list(session.scalars(query.where(Party.role == role) if role else query))

    def everybody(self) -> list[Party]:
        """Revoked ones too, by id."""
        with self._session() as session:
            return list(session.scalars(select(Party).order_by(Party.party_id)))

    def member(self, party_id: str) -> Party | None:
        """One member."""
        with self._session() as session:
            return session.scalar(select(Party).where(Party.party_id == party_id, Party.revoked.is_(None)))

    def invitations(self) -> list[Invitation]:
        """All that the server may still be asked about."""
        now = datetime.now(UTC)
        query = select(Invitation).where(
            Invitation.expires > now - _GRACE,
            Invitation.withdrawn.is_(None),
            Invitation.used.is_(None) | (Invitation.used > now - _USED_GRACE),
        )
        with self._session() as session:
            return list(session.scalars(query.order_by(Invitation.token_id)))

    def invite(self, role: Role, name: str, valid_for: timedelta) -> JoinToken:
        """A new token; an unused one for the same party is withdrawn.

        Raises:
            HubError: if there is a member of this id.
            ConfigError: if the name has no letter or digit.
        """
        party_id, now, settings = identifier(name), datetime.now(UTC), self._hub.settings()
        token = JoinToken.new(
            role,
            party_id,
            name,
            hub_name=settings.name,
            urls=settings.urls,
            ca=self._hub.ca,
            expires=now + valid_for,
        )
        with self._session() as session:
            there = session.get(Party, party_id)
            if there is not None and there.revoked is None:
                raise HubError(
                    f"{there.role} {there.name!r} (id {party_id}) is a member already",
                    to_do=f"choose another name; or first: polyclinic hub revoke {party_id}",
                )
            session.execute(_withdraw(party_id, now))
            session.add(
                Invitation(
                    token_id=token.token_id,
                    role=role,
                    party_id=party_id,
                    name=name,
                    public_key=token.keys.public_key,
                    expires=token.expires,
                )
            )
        return token

    def admit(self, token_id: str, public_key: str) -> Party:
        """Takes a party in, once for each token; asking again with the same key is answered alike.

        Raises:
            JoinRefused: the token is unknown, withdrawn, expired, or was used with another key.
        """
        now = datetime.now(UTC)
        with self._session() as session:
            found = session.get(Invitation, token_id)
            _require_good(found, public_key, now)
            assert found is not None
            if found.used is None:
                # Of two at the same time, the database lets one through.
                won = session.execute(
                    update(Invitation)
                    .where(Invitation.token_id == token_id, Invitation.used.is_(None))
                    .values(used=now, used_by=public_key)
                )
                if won.rowcount != 1:  # type: ignore[attr-defined]
                    raise JoinRefused("this join token was used already", to_do="ask the hub's operator for a new one")
                party = Party(
                    party_id=found.party_id,
                    role=found.role,
                    name=found.name,
                    public_key=public_key,
                    joined=now,
                    revoked=None,
                    swept=False,
                )
                return session.merge(party)
            joined = session.get(Party, found.party_id)
            if joined is None or joined.revoked is not None or joined.public_key != public_key:
                raise JoinRefused("this party was revoked", to_do="ask the hub's operator for a new join token")
            return joined

    def revoke(self, name: str) -> tuple[Party | None, bool]:
        """Shuts a party out, and withdraws its unused tokens.

        Args:
            name: its name or id.

        Returns:
            The party, None if none had joined; and whether a token was withdrawn.

        Raises:
            HubError: if there is neither a member nor an open token of this name.
        """
        now = datetime.now(UTC)
        party_id = identifier(name)
        with self._session() as session:
            party = session.get(Party, party_id)
            withdrawn = session.execute(_withdraw(party_id, now)).rowcount > 0  # type: ignore[attr-defined]
            if party is None or party.revoked is not None:
                party = None
                if not withdrawn:
                    raise self._nobody(session, name, now)
            else:
                party.revoked = now
        return party, withdrawn

    def _nobody(self, session: Session, name: str, now: datetime) -> HubError:
        members = session.scalars(select(Party.party_id).where(Party.revoked.is_(None)))
        open_tokens = (i.party_id for i in session.scalars(select(Invitation)) if i.is_open(now))
        return HubError(f"nobody here is called {name!r}", to_do=nearest(identifier(name), {*members, *open_tokens}))

    def to_sweep(self) -> list[Party]:
        """The revoked ones that still have something at the server."""
        with self._session() as session:
            return list(session.scalars(select(Party).where(Party.revoked.is_not(None), Party.swept.is_(False))))

    def swept(self, party_id: str) -> None:
        """Notes that it has nothing there any more."""
        with self._session() as session:
            session.execute(
                update(Party).where(Party.party_id == party_id, Party.revoked.is_not(None)).values(swept=True)
            )


def _withdraw(party_id: str, now: datetime):  # type: ignore[no-untyped-def]
    return (
        update(Invitation)
        .where(Invitation.party_id == party_id, Invitation.used.is_(None), Invitation.withdrawn.is_(None))
        .values(withdrawn=now)
    )


def _require_good(found: Invitation | None, public_key: str, now: datetime) -> None:
    ask = "ask the hub's operator for a new one"
    if found is None or found.withdrawn is not None:
        raise JoinRefused("the hub does not know this join token, or it was withdrawn", to_do=ask)
    if found.used is not None and found.used_by != public_key:
        raise JoinRefused(
            f"this join token was used already, at {found.used:%Y-%m-%d %H:%M} UTC",
            to_do=f"if that was not you, tell the hub's operator at once: polyclinic hub revoke {found.party_id}",
        )
    if found.used is None and now >= found.expires:
        raise JoinRefused(f"this join token has expired at {found.expires:%Y-%m-%d %H:%M} UTC", to_do=ask)


def _open(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30}, poolclass=NullPool)

    # The writer is taken at the beginning: two that read first and write then would refuse each other.
    @event.listens_for(engine, "connect")
    def _connect(connection, _record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    Base.metadata.create_all(engine)
    path.chmod(0o600)
    return engine
