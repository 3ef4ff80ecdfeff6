"""What a reply's tensors must be: those that were sent of a trained model, the metrics' counts of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from polyclinic.errors import ConfigError
from polyclinic.messages.requests import EvaluateRequest, TrainRequest
from polyclinic.metrics.confusion import ConfusionMetric
from polyclinic.metrics.means import SampleMean
from polyclinic.metrics.metric import Metric
from polyclinic.metrics.r_squared import RSquared
from polyclinic.metrics.ranking import NUM_BINS, RankingMetric
from polyclinic.metrics.registry import find_metric
from polyclinic.metrics.survival import ConcordanceIndex
from polyclinic.metrics.survival_auc import TimeDependentAuc
from polyclinic.metrics.survival_brier import IntegratedBrierScore
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.tensor_file import Entry

Declared = tuple[str, tuple[int | None, ...]]  # dtype and shape; None: any size up to `MAX_CLASSES`

MAX_CLASSES = 1000
# As `polyclinic.compression` names and writes them.
SCALE = ":scale"
_COMPRESSED = {"half": "F16", "int8": "I8"}
_FLOATS = ("F16", "BF16", "F32", "F64")

_MEAN: dict[str, Declared] = {
    "num_samples": ("I64", ()),
    "num_rows": ("I64", ()),
    "sum": ("F64", ()),
    "sum_of_squares": ("F64", ()),
}
_CUSTOM: dict[str, Declared] = {
    "num_samples": ("I64", ()),
    "weight": ("F64", ()),
    "weighted_value": ("F64", ()),
    "weighted_variance": ("F64", ()),
}
_COUNTS: tuple[tuple[type[Metric], dict[str, Declared]], ...] = (
    (ConfusionMetric, {"confusion": ("I64", (None, None))}),
    (RankingMetric, {"positive": ("I64", (NUM_BINS,)), "negative": ("I64", (NUM_BINS,))}),
    (SampleMean, _MEAN),
    (RSquared, {"num_samples": ("I64", ()), "target_powers": ("F64", (4,)), "squared_errors": ("F64", (4,))}),
    (ConcordanceIndex, {"events": ("I64", (258, 512)), "censored": ("I64", (258, 512))}),
    (
        TimeDependentAuc,
        {"cases": ("I64", (233, 512)), "controls": ("I64", (512,)), "censored": ("I64", (233,))},
    ),
    (
        IntegratedBrierScore,
        {
            "events": ("I64", (233,)),
            "censored": ("I64", (233,)),
            "died": ("F64", (233, 10)),
            "lived": ("F64", (10,)),
            "beyond": ("I64", ()),
            "num_samples": ("I64", ()),
            "sum": ("F64", ()),
            "sum_of_squares": ("F64", ()),
        },
    ),
)


def tensors_of_training(request: TrainRequest, sent: Mapping[str, Entry]) -> dict[str, Declared]:
    """The tensors of a train reply: those that were sent, but for the layers that stay at the node.

    No local rule adds others to them; where updates are compressed, it is their compressed form.
    """
    how, own = request.training_args.update_compression, set(request.local_layers)
    declared: dict[str, Declared] = {}
    for name, entry in sent.items():
        if name in own:
            continue
        compressed = how in _COMPRESSED and entry.dtype in _FLOATS
        declared[name] = (_COMPRESSED[how] if compressed else entry.dtype, entry.shape)
        if compressed and how == "int8":
            declared[name + SCALE] = ("F32", ())
    return declared


def metrics_asked(request: EvaluateRequest, dataset: RegisteredDataset) -> tuple[str, ...]:
    """The names of the metrics that answer a request, as `local_evaluation.choose_metrics` chooses them."""
    if request.metrics is not None:
        return request.metrics
    if dataset.found.metric:
        return (dataset.found.metric,)
    return ("loss", "accuracy") if dataset.found.classes else ("loss",)


def counts_of(metric: str, dataset: RegisteredDataset) -> list[dict[str, Declared]]:
    """What a metric's counts may be, by name; a node without samples has none at all."""
    possible: list[dict[str, Declared]] = [{}]
    try:
        known = find_metric(metric)
    except ConfigError:
        known = None
    possible += [counts for kind, counts in _COUNTS if isinstance(known, kind)]
    # A dataset may bring its own metric under any name; it is one of these two, or one that is known here.
    return [*possible, _MEAN, _CUSTOM] if metric == dataset.found.metric else possible


def differences(declared: Mapping[str, Declared], found: Mapping[str, Entry]) -> Iterable[str]:
    """What is wrong with the tensors of a reply. What was not asked for is not named: a name may be anything."""
    missing = [name for name in declared if name not in found]
    if missing:
        yield f"{len(missing)} tensors are missing, the first is {missing[0]!r}"
    if undeclared := len(found.keys() - declared.keys()):
        yield f"{undeclared} tensors were not asked for"
    for name, (dtype, shape) in declared.items():
        if name not in found:
            continue
        if found[name].dtype != dtype:
            yield f"{name!r} is of type {found[name].dtype} instead of {dtype}"
        if not _fits(found[name].shape, shape):
            yield f"{name!r} has another shape than {_shown(shape)}"


def _fits(found: tuple[int, ...], declared: tuple[int | None, ...]) -> bool:
    free = {size for size, asked in zip(found, declared, strict=False) if asked is None}
    return (
        len(found) == len(declared)
        and all(asked in (None, size) for size, asked in zip(found, declared, strict=True))
        and len(free) <= 1
        and max(free, default=0) <= MAX_CLASSES
    )


def _shown(shape: tuple[int | None, ...]) -> str:
    return str(tuple("classes" if size is None else size for size in shape)).replace("'", "")
