"""One center of a federated dataset: ours (``fed_ixi``), FLamby's own, or any module with these names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from polyclinic.datasets.artificial import split_file
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import DatasetError
from polyclinic.node.dataset_kinds.fingerprint import changed_files, files_below, fingerprint
from polyclinic.node.dataset_kinds.kind import Found
from polyclinic.node.dataset_kinds.params import AbsolutePath, JsonObject, KindParams
from polyclinic.node.dataset_kinds.samples import check_part, part_notes

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_MOST_FILES = 20_000  # of a folder that has more, the first ones are looked at


class FederatedParams(KindParams):
    module: str  # "fed_heart_disease", a dotted name, or the path of a split.json
    center: int | str  # its number, or its name
    path: AbsolutePath | None = None  # None: the module knows where its data are
    options: JsonObject = {}  # for the constructor of the module's FedClass

    @pydantic.field_validator("module")
    @classmethod
    def _whole_path(cls, module: str) -> str:
        # A node may be opened from anywhere.
        return str(split_file(module) or module)


class Federated:
    """What the module's ``FedClass`` yields for one center."""

    name: ClassVar[str] = "federated"
    Params: type[FederatedParams] = FederatedParams

    def inspect(self, params: FederatedParams) -> Found:
        if params.path is not None and not params.path.exists():
            raise DatasetError(f"there is no {params.path}", to_do="check --path")
        dataset = FederatedDataset.load(params.module)
        parts = {
            "train": check_part(_build(dataset, params, train=True), "train"),
            "test": check_part(_build(dataset, params, train=False), "test"),
        }
        center = dataset.centers_at(params.path)[dataset.center_index(params.center, params.path)]
        return Found(
            num_train=parts["train"].num_rows,
            num_test=parts["test"].num_rows,
            features=_features(dataset.module, parts["train"].shape),
            shape=parts["train"].shape,
            target=parts["train"].target,
            # As `local_evaluation` chooses it.
            metric=getattr(getattr(dataset.module, "METRIC", None), "name", "metric"),
            notes=(
                f"Center {center} of {dataset.name}.",
                *part_notes(parts),
            ),
            # After the parts are built: the first time, that may prepare files below the path.
            fingerprint=self._fingerprint(params),
        )

    def load(self, params: FederatedParams, *, train: bool) -> Dataset[Any]:
        return _build(FederatedDataset.load(params.module), params, train=train)

    def paths(self, params: FederatedParams) -> tuple[Path, ...]:
        split = split_file(params.module)
        return tuple(path for path in (split, params.path) if path is not None)

    def changed(self, params: FederatedParams, fingerprint: str, *, glance: bool = False) -> str | None:
        if params.path is not None and not params.path.exists():
            return "The path of the dataset has vanished."
        if fingerprint.split(".")[4:] != _split_digest(params):
            return "The artificial centers (split.json) are not those that it was registered with, or have vanished."
        if glance and params.path is not None and params.path.is_dir():
            return None
        return changed_files(params.path or Path("/"), _files(params), fingerprint, settings=_settings(params))

    def module(self, params: FederatedParams) -> ModuleType | None:
        return FederatedDataset.load(params.module).module

    def _fingerprint(self, params: FederatedParams) -> str:
        of_files = fingerprint(params.path or Path("/"), _files(params), settings=_settings(params), contents=False)
        return ".".join([of_files, *_split_digest(params)])


def _build(dataset: FederatedDataset, params: FederatedParams, *, train: bool) -> Dataset[Any]:
    options: dict[str, Any] = dict(params.options)
    path = dataset.ensure_prepared(params.path, **options)
    return dataset.build(params.center, train=train, data_path=path, **options)


def _features(module: ModuleType, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the columns, if the module tells them."""
    names = tuple(str(name) for name in getattr(module, "FEATURES", ()))
    return names if shape == (len(names),) else ()


def _files(params: FederatedParams) -> tuple[Path, ...]:
    return () if params.path is None else files_below(params.path, limit=_MOST_FILES)


def _split_digest(params: FederatedParams) -> list[str]:
    """Of the file that says which samples each artificial center has; nothing for a dataset's own centers."""
    split = split_file(params.module)
    return [] if split is None else [hashlib.sha256(split.read_bytes()).hexdigest()[:16]]


def _settings(params: FederatedParams) -> str:
    return json.dumps([params.module, params.center, params.options], sort_keys=True)
