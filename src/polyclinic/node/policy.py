"""What a hospital allows: ``policy.toml`` in the node's folder, read strictly.

A file that is wrong in any way is never replaced by defaults: the node refuses all work until it is mended.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyclinic.errors import PolicyInvalid, nearest
from polyclinic.node.hours import Hours
from polyclinic.node.policy_file import POLICY_FILE, Look, look_at, read_policy

ANY = "*"
UNLIMITED = "unlimited"
Privacy = Literal["none", "secure-aggregation", "differential-privacy"]

_EDIT = "mend it with: polyclinic node policy edit"

Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=1000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=1 << 53)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Leaves(_Part):
    """What may leave the hospital; ``metrics``: by name, or `ANY`; ``logs``: notes, and what errors say."""

    parameters: bool = True
    metrics: Names = (ANY,)
    losses: bool = True
    logs: bool = True
    tracebacks: bool = False
    reply_mb: Positive = 2048.0

    def metric(self, name: str) -> bool:
        """Whether this metric may leave."""
        return (name != "loss" or self.losses) and permits(self.metrics, name)


class DatasetRules(_Part):
    """What holds for one dataset; ``maximum_rounds`` and ``maximum_hours`` are of one researcher, in all."""

    minimum_training_rows: Count = 10
    minimum_test_rows: Count = 10
    purposes: Names = (ANY,)
    maximum_rounds: Count | Literal["unlimited"] = "unlimited"
    maximum_hours: Positive | Literal["unlimited"] = "unlimited"
    privacy: Privacy = "none"


class ResearcherRules(_Part):
    """What a researcher is trusted for: ids of datasets, and purposes; or `ANY`."""

    datasets: Names = (ANY,)
    purposes: Names = (ANY,)


class Resources(_Part):
    """The limits of the sandbox that plans run in; ``cpu_cores``: None for all there are."""

    memory_gb: Positive = 16.0
    cpu_cores: Positive | None = None
    processes: Count = 64
    open_files: Count = 1024
    file_gb: Positive = 8.0
    wall_hours: Positive = 24.0
    output_mb: Positive = 10.0


class Policy(_Part):
    """A node's policy; see ``default_policy.toml`` for what its fields mean.

    Args:
        digest: SHA-256 of the file, hexadecimal; that of nothing where there is no file.
        datasets: by id; each has its own keys, and those of ``every_dataset`` otherwise.
    """

    digest: str = Field(default=hashlib.sha256().hexdigest(), exclude=True)
    approval: Literal["required", "off"] = "required"
    sandbox: Literal["bubblewrap", "limits-only"] = "bubblewrap"
    only_listed_researchers: bool = False
    hours: Hours = Hours()
    leaves: Leaves = Leaves()
    every_dataset: DatasetRules = DatasetRules()
    datasets: dict[str, DatasetRules] = {}
    researchers: dict[str, ResearcherRules] = {}
    resources: Resources = Resources()

    def of_dataset(self, dataset_id: str) -> DatasetRules:
        """What holds for a dataset."""
        return self.datasets.get(dataset_id, self.every_dataset)

    def of_researcher(self, researcher_id: str) -> ResearcherRules | None:
        """What a researcher is trusted for; None: nothing."""
        default = None if self.only_listed_researchers else ResearcherRules()
        return self.researchers.get(researcher_id, default)

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """The policy of the node in this folder; the defaults where there is no file.

        Raises:
            PolicyInvalid: the file is unreadable, or others than its owner may write it, or what it says is unknown.
        """
        content = read_policy(folder)
        return cls() if content is None else cls.parse(content)

    @classmethod
    def parse(cls, content: bytes) -> Policy:
        """The policy that a file of this content is.

        Raises:
            PolicyInvalid: it is none; names the key.
        """
        try:
            found = tomllib.loads(content.decode())
            text = json.dumps(_with_defaults(found), default=_no_date)
        except (ValueError, RecursionError) as err:
            raise PolicyInvalid(f"{POLICY_FILE} is no TOML that is read here: {err}", to_do=_EDIT) from None
        if "digest" in found:
            raise PolicyInvalid(f"{POLICY_FILE} has an unknown key 'digest'", to_do=_EDIT)
        try:
            policy = cls.model_validate_json(text)
        except ValidationError as err:
            raise _invalid(err) from None
        return policy.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})


class PolicyFile:
    """A node's policy that follows its file.

    Args:
        folder: the node's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._look: Look | None = None
        self._found: Policy | PolicyInvalid = Policy()
        self._was_there = False

    def current(self) -> Policy:
        """As the file is now; it is read again only when it has changed.

        Raises:
            PolicyInvalid: see `Policy.load`, or the file was there and is gone; until it is mended.
        """
        # Looked at before it is read: what changes in between is read again the next time.
        look = look_at(self._folder)
        if look is None or look != self._look:
            self._look, self._found = look, self._read()
        if isinstance(self._found, PolicyInvalid):
            raise PolicyInvalid(self._found.what, to_do=self._found.to_do)
        return self._found

    def _read(self) -> Policy | PolicyInvalid:
        try:
            content = read_policy(self._folder)
            if content is None and self._was_there:
                return PolicyInvalid(
                    f"{POLICY_FILE} is not there any more", to_do="put it back, or start the node again"
                )
            self._was_there = content is not None
            return Policy() if content is None else Policy.parse(content)
        except PolicyInvalid as err:
            self._was_there = True
            return err


def permits(names: tuple[str, ...], name: str) -> bool:
    """Whether a list of a policy has this name, or is for all."""
    return ANY in names or name in names


def default_text() -> str:
    """The file that says what holds without one, with all keys and what they mean."""
    return (Path(__file__).parent / "default_policy.toml").read_text(encoding="utf-8")


def _with_defaults(found: dict[str, Any]) -> dict[str, Any]:
    """Gives each dataset's table the keys of ``every_dataset`` that it lacks."""
    every, datasets = found.get("every_dataset", {}), found.get("datasets", {})
    if not isinstance(every, Mapping) or not isinstance(datasets, Mapping):
        return found
    own = {name: {**every, **table} if isinstance(table, Mapping) else table for name, table in datasets.items()}
    return {**found, "datasets": own}


def _no_date(value: object) -> object:
    raise ValueError(f"{value} is a date or time; no key has one (write times as texts)")


def _invalid(err: ValidationError) -> PolicyInvalid:
    # The keys of `every_dataset` stand in each dataset's table as well: they are named where they were written.
    found = sorted(err.errors(include_url=False), key=lambda one: one["loc"][0] != "every_dataset")[0]
    path = [str(step) for step in found["loc"] if step not in ("int", "float", "constrained-int", "constrained-float")]
    place = ".".join(path)
    if found["type"] == "extra_forbidden":
        return PolicyInvalid(
            f"{POLICY_FILE} has an unknown key {place!r}", to_do=f"{nearest(path[-1], _keys(path[:-1]))} {_EDIT}"
        )
    message = found["msg"].removeprefix("Value error, ")
    if path[-1] in ("maximum_rounds", "maximum_hours"):
        message += f' or "{UNLIMITED}"'
    return PolicyInvalid(f"{POLICY_FILE}: {place}: {message}, got {found['input']!r}", to_do=_EDIT)


def _keys(path: list[str]) -> list[str]:
    """The keys that there are in a table."""
    if not path:
        return [name for name in Policy.model_fields if name != "digest"]
    if path[0] in ("datasets", "researchers"):
        of_one = DatasetRules if path[0] == "datasets" else ResearcherRules
        return list(of_one.model_fields)
    table = Policy.model_fields[path[0]].annotation
    return list(table.model_fields) if isinstance(table, type) and issubclass(table, BaseModel) else []
