"""The contract of a federated dataset: a module that exports these names.

=====================  ==========================================================================
``FedClass``           torch Dataset of one center or pooled, train or test
``Baseline``           torch module class, built without arguments
``BaselineLoss``       torch loss class, built without arguments, called as ``loss(prediction, target)``
``Optimizer``          torch optimizer class
``metric``             ``metric(y_true, y_pred) -> float`` on numpy arrays
``BATCH_SIZE``, ``LR``, ``NUM_CLIENTS``, ``NUM_EPOCHS_POOLED``
``get_nb_max_rounds``  ``get_nb_max_rounds(num_updates, batch_size=BATCH_SIZE) -> int``
=====================  ==========================================================================

These are the names of the FLamby suite (du Terrail et al., NeurIPS 2022, arXiv:2210.04620), so a FLamby module,
or anyone's with these names, works as it is. Optional names, which ours have in addition: ``CENTERS`` (readable
names), ``CARD``, ``METRIC`` (a metric of `polyclinic.metrics`, whose pooled value is exact), ``collate_fn``,
``mock``, ``prepare``, ``ensure_prepared``, ``download``; ``centers_at(data_path)``, the centers' names, where their
number depends on the data.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from polyclinic import datasets
from polyclinic.datasets.keyboard import nobody_at_the_keyboard
from polyclinic.errors import ConfigError, DatasetError, PolyclinicError, nearest, reject_unknown

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from polyclinic.metrics import Metric

REQUIRED_NAMES = (
    "BATCH_SIZE",
    "Baseline",
    "BaselineLoss",
    "FedClass",
    "LR",
    "NUM_CLIENTS",
    "NUM_EPOCHS_POOLED",
    "Optimizer",
    "get_nb_max_rounds",
    "metric",
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person must know of a dataset before using it; ``polyclinic dataset info`` prints it."""

    name: str  # the module's name, for example "fed_ixi"
    title: str
    task: str
    license: str
    license_url: str
    citation: str
    source_url: str
    download_size: str  # for a reader, for example "444 MB"
    needs_data: bool  # False: works without any download
    samples: tuple[tuple[int, int], ...]  # (train, test) of each center, in the full dataset
    extra: str = "torch"  # the extra to install: polyclinic[extra]


@cache
def known_datasets() -> tuple[str, ...]:
    """The names of the datasets that come with Polyclinic, sorted."""
    found = pkgutil.iter_modules(datasets.__path__)
    return tuple(sorted(one.name for one in found if one.ispkg and one.name.startswith("fed_")))


def load_module(name: str) -> ModuleType:
    """Imports a dataset module: a name of ours (``fed_ixi``) or any importable module (``flamby.datasets.fed_ixi``).

    Raises:
        DatasetError: there is no such module, or it cannot be imported.
    """
    known = known_datasets()
    full = f"{datasets.__name__}.{name}" if name in known else name
    try:
        with nobody_at_the_keyboard(full):
            return importlib.import_module(full)
    except ModuleNotFoundError as err:
        # The module asked for (or a parent of it) is missing; any other missing module is one that it imports.
        if err.name is not None and (full == err.name or full.startswith(f"{err.name}.")):
            raise DatasetError(
                f"there is no dataset {name!r}",
                to_do=f"{nearest(name, known)}; or give the dotted name of an importable module",
            ) from None
        raise DatasetError(
            f"dataset module {full} needs the module {err.name!r}, which is not installed",
            to_do=f"install it in this Python: pip install {err.name}",
        ) from err
    except PolyclinicError:
        raise
    except (TypeError, ValueError) as err:
        raise DatasetError(f"{name!r} is not a name of a module", to_do=nearest(name, known)) from err
    except (Exception, SystemExit) as err:
        raise DatasetError(
            f"dataset module {full} cannot be imported: {type(err).__name__}: {err}",
            to_do=f"run  python -c 'import {full}'  and mend what it says",
        ) from err


def center_index(center: int | str, centers: Sequence[str]) -> int:
    """The number of a center that was given by number or by name (upper or lower case).

    Raises:
        ConfigError: no such center; names those there are.
    """
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(centers))
    if isinstance(center, str) and not center.isdecimal():
        names = {name.lower(): number for number, name in enumerate(centers)}
        if center.lower() not in names:
            raise ConfigError(
                f"there is no center {center!r}; the centers are {listed}",
                to_do=nearest(center.lower(), names),
            )
        return names[center.lower()]
    number = int(center)
    if isinstance(center, bool) or (number != center and not isinstance(center, str)):
        raise ConfigError(f"a center is a number or a name, not {center!r}", to_do=f"choose one of {listed}")
    if not 0 <= number < len(centers):
        raise ConfigError(f"center {number} is out of range", to_do=f"choose one of {listed}")
    return number


def rounds_for(num_updates: int, batch_size: int, *, train_samples: int, num_clients: int, epochs: int) -> int:
    """Rounds of ``num_updates`` local steps in which all clients together take the pooled training's steps.

    ((N // K // batch_size) * epochs) // num_updates, N samples in K clients; the formula of FLamby.
    """
    if num_updates < 1 or batch_size < 1:
        raise ConfigError(
            f"num_updates and batch_size must be at least 1, got {num_updates} and {batch_size}",
            to_do="give positive whole numbers",
        )
    return ((train_samples // num_clients // batch_size) * epochs) // num_updates


class FederatedDataset:
    """A checked view of a dataset module.

    Args:
        module: a module with the names of the contract.

    Raises:
        DatasetError: names of the contract are missing.
    """

    def __init__(self, module: ModuleType) -> None:
        missing = [name for name in REQUIRED_NAMES if not hasattr(module, name)]
        if missing:
            raise DatasetError(
                f"module {module.__name__} is no federated dataset: it lacks {', '.join(missing)}",
                to_do="export these names from it; polyclinic.datasets.federated_dataset says what each one is",
            )
        self.module = module
        self.module_name: str = module.__name__
        self.load_name: str = module.__name__  # what `load` finds it by again
        self.name: str = module.__name__.rpartition(".")[2]
        self.fed_class: Callable[..., Dataset[Any]] = module.FedClass
        self.baseline: type[Any] = module.Baseline
        self.baseline_loss: type[Any] = module.BaselineLoss
        self.optimizer: type[Any] = module.Optimizer
        self.metric: Callable[[Any, Any], float] = module.metric
        self.batch_size: int = int(module.BATCH_SIZE)
        self.lr: float = float(module.LR)
        self.num_clients: int = int(module.NUM_CLIENTS)
        self.num_epochs_pooled: int = int(module.NUM_EPOCHS_POOLED)
        self.get_nb_max_rounds: Callable[..., int] = module.get_nb_max_rounds
        # The same number as ``metric``, of counts that add up over nodes; without it only nodes' own values exist.
        self.mergeable_metric: Metric | None = getattr(module, "METRIC", None)
        self.collate_fn: Callable[..., Any] | None = getattr(module, "collate_fn", None)
        self.card: Card | None = getattr(module, "CARD", None)
        self.centers: tuple[str, ...] = tuple(
            getattr(module, "CENTERS", None) or (f"center {k}" for k in range(self.num_clients))
        )
        if len(self.centers) != self.num_clients:
            raise DatasetError(
                f"module {module.__name__} has {len(self.centers)} names in CENTERS "
                f"and {self.num_clients} in NUM_CLIENTS",
                to_do="make the two agree",
            )

    @classmethod
    def load(cls, name: str) -> FederatedDataset:
        """The dataset with this name, see `load_module`; or the artificial centers of a ``split.json``, by its path."""
        # Here, since artificial centers are built on this module.
        from polyclinic.datasets.artificial import ArtificialDataset, split_file

        if name not in known_datasets() and (path := split_file(name)):
            return ArtificialDataset(path)
        dataset = cls(load_module(name))
        dataset.load_name = name
        return dataset

    def hook(self, name: str) -> Callable[..., Any]:
        """An optional function of the module: ``mock``, ``prepare``, ``download``.

        Raises:
            DatasetError: the module has none.
        """
        found: Callable[..., Any] | None = getattr(self.module, name, None)
        if found is None:
            raise DatasetError(
                f"{self.name} has no function {name!r}",
                to_do=f"read the documentation of {self.module_name} on how its data are made ready",
            )
        return found

    def centers_at(self, data_path: str | Path | None) -> tuple[str, ...]:
        """The names of the centers of these data: `centers`, unless the module says otherwise."""
        found: Callable[..., Sequence[str]] | None = getattr(self.module, "centers_at", None)
        return self.centers if found is None else tuple(found(data_path))

    def center_index(self, center: int | str, data_path: str | Path | None = None) -> int:
        """The number of a center given by number or name; ConfigError if there is none."""
        return center_index(center, self.centers_at(data_path))

    def ensure_prepared(self, data_path: str | Path | None, **options: Any) -> Path | None:
        """The path to build from: prepares raw data where the module asks for it, else the path as given.

        Args:
            options: those of `build`; what the preparation does not depend on is left out.
        """
        prepare = getattr(self.module, "ensure_prepared", None)
        if prepare is None:
            return None if data_path is None else Path(data_path)
        taken = inspect.signature(prepare).parameters
        found: Path | None = prepare(data_path, **{key: options[key] for key in options if key in taken})
        return found

    def build(
        self,
        center: int | str = 0,
        train: bool = True,
        data_path: str | Path | None = None,
        pooled: bool = False,
        **options: Any,
    ) -> Dataset[Any]:
        """The torch Dataset of one center, or of all with ``pooled``.

        Args:
            center: number or name; not looked at when pooled.
            train: the training part, else the test part.
            data_path: where the data are; None for datasets that bring their own.
            options: further arguments of the module's ``FedClass``.

        Raises:
            ConfigError: no such center, or an argument that ``FedClass`` does not take.
            DatasetError: the data cannot be read.
        """
        given: dict[str, Any] = {"center": self.center_index(center, data_path), "train": train, "pooled": pooled}
        if data_path is not None:
            given["data_path"] = data_path
        args, kwargs = self._arguments(given | options)
        try:
            with nobody_at_the_keyboard(self.module_name):
                return self.fed_class(*args, **kwargs)
        except PolyclinicError:
            raise
        # The class may be anyone's: FLamby's raise AssertionError, ValueError, FileNotFoundError, SystemExit …
        except (Exception, SystemExit) as err:
            raise DatasetError(
                f"{self.name} cannot be read: {type(err).__name__}: {err}",
                to_do="check the path of the data, and that the download and its preparation are complete",
            ) from err

    def _arguments(self, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Sorts the arguments into positional and named ones, as the constructor's signature asks."""
        parameters = inspect.signature(self.fed_class).parameters
        kinds = inspect.Parameter
        takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
        named = {key for key, p in parameters.items() if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)}
        if not takes_any:
            # Without pooled data on offer, not asking for them is no contradiction.
            if not given["pooled"] and "pooled" not in named:
                del given["pooled"]
            if "data_path" in given and "data_path" not in named:
                raise ConfigError(
                    f"{self.name} takes no path: its module knows where its data are",
                    to_do="leave the path of the data out",
                )
            reject_unknown(given, named, kind=f"argument of {self.name}")
        args: list[Any] = []
        for key, parameter in parameters.items():
            if parameter.kind is kinds.POSITIONAL_ONLY:
                args.append(given.pop(key, parameter.default))
        return args, given
