"""One center of a federated dataset: ours (``fed_ixi``), FLamby's own, or any module with these names."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

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
    module: str  # "fed_heart_disease", or a dotted name
    center: int | str  # its number, or its name
    path: AbsolutePath | None = None  # None: the module knows where its data are
    options: JsonObject = {}  # for the constructor of the module's FedClass


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
        return () if params.path is None else (params.path,)

    def changed(self, params: FederatedParams, fingerprint: str) -> str | None:
        if params.path is not None and not params.path.exists():
            return "The path of the dataset has vanished."
        return changed_files(params.path or Path("/"), _files(params), fingerprint, settings=_settings(params))

    def module(self, params: FederatedParams) -> ModuleType | None:
        return FederatedDataset.load(params.module).module

    def _fingerprint(self, params: FederatedParams) -> str:
        return fingerprint(params.path or Path("/"), _files(params), settings=_settings(params), contents=False)


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


def _settings(params: FederatedParams) -> str:
    return json.dumps([params.module, params.center, params.options], sort_keys=True)
