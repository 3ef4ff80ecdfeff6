"""Datasets that a function of the data manager's own makes: for all that the other kinds do not read."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import pydantic

from polyclinic.errors import DatasetError, PolyclinicError, nearest
from polyclinic.node.dataset_kinds.fingerprint import changed_files, files_below, fingerprint
from polyclinic.node.dataset_kinds.kind import Found
from polyclinic.node.dataset_kinds.params import AbsolutePath, JsonObject, KindParams
from polyclinic.node.dataset_kinds.samples import check_part, part_notes

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_MOST_FILES = 20_000  # looked at below each watched folder
_ROOT = Path("/")


class PythonParams(KindParams):
    function: str  # "module:function" or "path/to/file.py:function"
    arguments: JsonObject = {}  # by name
    watch: tuple[AbsolutePath, ...] = ()  # files and folders that the data come from

    @pydantic.field_validator("function")
    @classmethod
    def _has_two_parts(cls, function: str) -> str:
        where, colon, name = function.rpartition(":")
        if not colon or not where or not name.isidentifier():
            raise ValueError(f"{function!r} is not of the form module:function or path/to/file.py:function")
        return f"{Path(where).expanduser().absolute()}:{name}" if where.endswith(".py") else function

    @pydantic.field_validator("watch", mode="before")
    @classmethod
    def _one_is_enough(cls, watch: Any) -> Any:
        return [word.strip() for word in watch.split(",") if word.strip()] if isinstance(watch, str) else watch


class Python:
    """``function(**arguments)`` returns (train, test), two map-style torch datasets of tuples, the target last.

    It must return the same rows in the same parts each time.
    """

    name: ClassVar[str] = "python"
    Params: type[PythonParams] = PythonParams

    def inspect(self, params: PythonParams) -> Found:
        for path in params.watch:
            if not path.exists():
                raise DatasetError(f"there is no {path}, which --watch names", to_do="check --watch")
        train, test = _make(params)
        parts = {"train": check_part(train, "train"), "test": check_part(test, "test")}
        notes = part_notes(parts)
        if not params.watch:
            notes.append("Changes of the data go unnoticed; --watch FILE_OR_FOLDER names what they come from.")
        stem = fingerprint(_ROOT, self._files(params), settings=_settings(params), contents=False)
        sizes = {name: part.num_rows for name, part in parts.items()}
        return Found(
            num_train=sizes["train"],
            num_test=sizes["test"],
            shape=parts["train"].shape,
            target=parts["train"].target,
            notes=tuple(notes),
            fingerprint=f"{stem}.{sizes['train']}.{sizes['test']}",
        )

    def load(self, params: PythonParams, *, train: bool) -> Dataset[Any]:
        dataset: Dataset[Any] = _make(params)[0 if train else 1]
        return dataset

    def paths(self, params: PythonParams) -> tuple[Path, ...]:
        return (_source(params), *params.watch)

    def changed(self, params: PythonParams, fingerprint: str, *, glance: bool = False) -> str | None:
        if missing := sum(not path.exists() for path in self.paths(params)):
            return f"{missing} of the files and folders that the dataset comes from have vanished."
        if glance and any(path.is_dir() for path in params.watch):
            return None
        return changed_files(_ROOT, self._files(params), fingerprint, settings=_settings(params))

    def module(self, params: PythonParams) -> ModuleType | None:  # noqa: ARG002
        return None

    def _files(self, params: PythonParams) -> tuple[Path, ...]:
        return files_below(*params.watch, limit=_MOST_FILES)


def _make(params: PythonParams) -> tuple[Any, Any]:
    """Calls the function. Raises DatasetError if it fails or returns something else than two datasets."""
    function = _function(params)
    try:
        made = function(**params.arguments)
    except PolyclinicError:
        raise
    # Anyone's code; its text may quote a patient's values, so only its kind is told and the cause is chained.
    except Exception as err:
        raise DatasetError(
            f"{params.function} failed ({type(err).__name__})",
            to_do="call it in Python with the same arguments and mend it; --arguments takes them as JSON",
        ) from err
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise DatasetError(
            f"{params.function} returned {type(made).__name__}, not two datasets", to_do="return (train, test)"
        )
    return made[0], made[1]


def _function(params: PythonParams) -> Callable[..., Any]:
    where, _, name = params.function.rpartition(":")
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except PolyclinicError:
        raise
    except Exception as err:
        raise DatasetError(
            f"{where} cannot be imported ({type(err).__name__}: {err})",
            to_do="check the name; a module outside Python's path is named by its file: path/to/file.py:function",
        ) from err
    function = getattr(module, name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DatasetError(f"there is no function {name!r} in {where}", to_do=nearest(name, there))
    checked: Callable[..., Any] = function
    return checked


def _module_of_file(path: Path) -> ModuleType:
    """The file as a module; imported again only if its text is another one."""
    if not path.is_file():
        raise DatasetError(f"there is no file {path}", to_do="check --function")
    name = f"_polyclinic_dataset_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Known by name before it runs, so that its classes can be pickled for a DataLoader's workers.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _source(params: PythonParams) -> Path:
    """The file that holds the function; found without running it."""
    where, _, _ = params.function.rpartition(":")
    if where.endswith(".py"):
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        spec = None
    # A path that does not exist, when there is no such module any more.
    return Path(spec.origin) if spec is not None and spec.origin is not None else Path(where)


def _settings(params: PythonParams) -> str:
    source = _source(params)
    digest = hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else ""
    return json.dumps([params.function, params.arguments, digest], sort_keys=True)
