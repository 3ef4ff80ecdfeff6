"""What the rows of a node's journal may say: one closed schema for each kind of row.

Ids, names that the data manager or the researcher chose for them, counts, codes, digests. There is no place for the
text of an error, for a path or for anything out of the data.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from polyclinic.errors import PolyclinicError


def _shortened(value: Any) -> Any:
    return value[:200] if isinstance(value, str) else value


def _code_or_other(value: str) -> str:
    return value if value in _CODES or not value else "other"


def _stage_or_other(value: str) -> str:
    return value if value in _STAGES or not value else "other"


def _codes(error: type[PolyclinicError]) -> set[str]:
    return {error.code}.union(*map(_codes, error.__subclasses__()))


# A failure's code and stage come from where the plan ran: they are taken at their word only if they are ones of ours.
_CODES = _codes(PolyclinicError)
_STAGES = frozenset(
    {"approval", "build", "check", "evaluate", "leaving", "policy", "process", "receive", "send", "train", "wait"}
)

Text = Annotated[str, BeforeValidator(_shortened)]
Word = Annotated[str, Field(max_length=100, pattern=re.compile(r"^[\w./:+-]*\Z", re.ASCII))]
Code = Annotated[str, AfterValidator(_code_or_other)]
Stage = Annotated[str, AfterValidator(_stage_or_other)]
Sha256 = Annotated[str, Field(pattern=re.compile(r"^(?:[0-9a-f]{64})?\Z"))]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Name, shape, dtype, bytes, SHA-256 of one tensor that left.
LeftTensor = Annotated[tuple[Text, Annotated[tuple[int, ...], Strict(False)], Word, int, Sha256], Strict(False)]


class Facts(BaseModel):
    """What one row says. Errors about it do not show what was given: it could be anything."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)
    kind: ClassVar[str]


class _OfRequest(Facts):
    request: Text
    researcher: Text = ""
    experiment: Text = ""
    dataset: Text = ""
    round: int | None = None


class Request(_OfRequest):
    """A researcher asks for something. ``work``: train, evaluate, check, approval."""

    kind = "request"
    work: Word
    key: Word = ""
    plan: Sha256 = ""
    plan_name: Text = ""
    round_limit: int | None = None
    purpose: Text = ""


class Admitted(_OfRequest):
    """It may run. ``approval``: the id of what the data manager has said yes to; ``policy``: digest of its file."""

    kind = "admitted"
    approval: Word = ""
    plan: Sha256 = ""
    policy: Sha256 = ""


class Refused(_OfRequest):
    """It may not. ``code`` is an error's; ``rules`` those of the policy."""

    kind = "refused"
    code: Code
    stage: Stage = ""
    rules: list[Text] = []
    approval: Word = ""
    plan: Sha256 = ""
    policy: Sha256 = ""


class Pending(_OfRequest):
    """It waits for the data manager, under the id ``approval``."""

    kind = "pending"
    request: Text = ""
    approval: Word
    key: Word = ""
    plan: Sha256 = ""
    plan_name: Text = ""
    rounds: int | None = None


class _Decision(Facts):
    approval: Word
    by: Text  # the login of who typed the command
    plan: Sha256 = ""
    plan_name: Text = ""
    researcher: Text = ""
    key: Word = ""
    datasets: list[Text] = []


class Approved(_Decision):
    """The data manager says yes, within these bounds. ``until``: UTC, as in ``2027-01-31T00:00:00Z``."""

    kind = "approved"
    rounds: int | None = None
    until: Word = ""
    any_arguments: bool = False
    installed: Word = ""


class Rejected(_Decision):
    kind = "rejected"


class Revoked(_Decision):
    kind = "revoked"


class Started(_OfRequest):
    """Work on the data begins. ``sandbox``: bubblewrap or limits-only; ``policy``: digest of its file."""

    kind = "started"
    work: Word = ""
    approval: Word = ""
    plan: Sha256 = ""
    policy: Sha256 = ""
    sandbox: Word = ""


class Ended(_OfRequest):
    """What came of it: ``done``; or ``failed``, ``stopped``, ``refused`` with the error's code and the stage.

    ``rows``: samples that were used; ``left``: the tensors that were let out; ``metrics``: names of those let out.
    """

    kind = "ended"
    outcome: Word
    work: Word = ""
    approval: Word = ""
    plan: Sha256 = ""
    code: Code = ""
    stage: Stage = ""
    seconds: Seconds = 0.0
    rows: int | None = None
    loss: bool = False  # whether it was let out
    metrics: list[Text] = []
    left: list[LeftTensor] = []


class Policy(Facts):
    """The policy is another one. ``by``: a login, or "" where the node found its file changed; ``before``: the digest
    of the one before, where it is known."""

    kind = "policy"
    digest: Sha256
    before: Sha256 = ""
    valid: bool = True
    by: Text = ""


class Key(Facts):
    """The node signs with this public key from now on."""

    kind = "key"
    key: Word
    hub: Text = ""
    by: Text = ""


class Trust(Facts):
    """Whom the node works for. ``by``: a login, or "hub" where the hub was believed."""

    kind = "trust"
    action: Literal["trusted", "removed", "everyone", "not-everyone"]
    researcher: Text = ""
    key: Word = ""
    by: Text = ""


class Dataset(Facts):
    """A dataset comes or goes."""

    kind = "dataset"
    action: Literal["added", "removed"]
    dataset: Text
    dataset_kind: Word = ""
    train: int | None = None
    test: int | None = None
    by: Text = ""


class Signature(Facts):
    """The node's key stands for all rows up to ``number``, the hash of which is ``digest``.

    ``signature``: Ed25519 (RFC 8032) over `signed_text`, in hexadecimal, by the key of the last ``key`` row.
    """

    kind = "signature"
    number: int
    digest: Sha256
    at: Word
    signature: Annotated[str, Field(pattern=re.compile(r"^[0-9a-f]{128}\Z"))]


class Gap(Facts):
    """The head that was noted beside the database, row ``number`` with hash ``digest``, was not in it any more."""

    kind = "gap"
    number: int
    digest: Sha256


_ALL: tuple[type[Facts], ...] = (
    Request, Admitted, Refused, Pending, Approved, Rejected, Revoked, Started, Ended, Policy, Key, Trust, Dataset,
    Signature, Gap,
)  # fmt: skip
KINDS: dict[str, type[Facts]] = {facts.kind: facts for facts in _ALL}


def signed_text(number: int, digest: str, at: str) -> bytes:
    """What a signature is over."""
    # Begins with what it is, because the same key signs other things.
    return f"polyclinic-journal/1 {number} {digest} {at}".encode()
