"""Soft Dice score of nodule masks.

    dice = sum p y / max( sum (p + y) / 2, 1e-7 ),   1 where both sums are 0

`metric` takes the sums over each entry of the first axis, as FLamby's function of this name does. What FLamby
publishes, and what `METRIC` pools, is the Dice of whole scans: sums over the 27 patches of a scan, then the mean over
scans. Neither sets a threshold. Dice, Measures of the amount of ecologic association between species, Ecology 1945.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyclinic.datasets.fed_lidc_idri.sampling import PATCHES_A_SCAN
from polyclinic.errors import ConfigError, EvaluationError
from polyclinic.metrics import Rows, SampleMean

_TINY = 1e-7


def dice_of_samples(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) Dice of each entry of the first axis, in [0, 1]; both arguments (n, ...)."""
    return _dice(*_sums(y_true, y_pred))


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Mean Dice over the entries of the first axis, in [0, 1]; shapes as in `dice_of_samples`."""
    return float(dice_of_samples(y_true, y_pred).mean())


def dice_of_scans(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.float64]:
    """(scans,) Dice of each scan.

    Args:
        y_true: (27 scans, 1, x, y, z), the test patches of one scan after the other.
        y_pred: the same shape, probabilities.

    Raises:
        EvaluationError: not 27 patches a scan.
    """
    if y_true.shape != y_pred.shape:
        raise EvaluationError(
            f"targets have shape {y_true.shape} and predictions {y_pred.shape}",
            to_do="let predict() return one probability a voxel, in the shape of its input",
        )
    if len(y_true) % PATCHES_A_SCAN:
        raise EvaluationError(
            f"a batch of {len(y_true)} patches is not made of whole scans, which have {PATCHES_A_SCAN} each",
            to_do="evaluate the test part, with out_shape three times patch_size on each axis",
        )
    overlap, half = (sums.reshape(-1, PATCHES_A_SCAN).sum(axis=1) for sums in _sums(y_true, y_pred))
    return _dice(overlap, half)


def _sums(y_true: NDArray[Any], y_pred: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) sum p y and (n,) sum (p + y) / 2 of each entry of the first axis."""
    # In float64, since a sum of two million voxels in float32 loses the third digit; one by one, since the product
    # of a scan's 27 patches would take half a gigabyte.
    pairs = list(zip(y_true, y_pred, strict=True))
    overlap = np.array([np.sum(p * y, dtype=np.float64) for y, p in pairs])
    half = np.array([0.5 * (p.sum(dtype=np.float64) + y.sum(dtype=np.float64)) for y, p in pairs])
    return overlap, half


def _dice(overlap: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(half == 0, 1.0, overlap / np.maximum(half, _TINY))


class ScanDice(SampleMean):
    """Mean Dice over scans; a batch holds all patches of one scan or several."""

    def __init__(self) -> None:
        super().__init__("dice", dice_of_samples, low=0.0, high=1.0)

    def rows(self, y_true: NDArray[Any], y_pred: NDArray[Any]) -> Rows:
        """A row a scan, see `dice_of_scans`: ``value`` (scans,) and ``weight`` (scans,), 1."""
        values = dice_of_scans(y_true, y_pred)
        if bad := int((~np.isfinite(values)).sum()):
            raise EvaluationError(
                f"the Dice of {bad} of {len(values)} scans is not finite",
                to_do="look for NaN among the predictions: the training may have diverged",
            )
        return {"value": values, "weight": np.ones(len(values), dtype=np.int64)}


METRIC = ScanDice()


def evaluate_dice_on_tests_by_chunks(
    model: torch.nn.Module, test_dataloaders: Iterable[Any], use_gpu: bool = True, nchunks: int = 4
) -> dict[str, float]:
    """FLamby's evaluation: the mean Dice over the scans of each loader, whose batches are one scan each.

    Args:
        model: gives probabilities; is moved to the GPU if there is one, and left in training mode.
        test_dataloaders: each yields ((patches, 1, x, y, z), target of the same shape), one scan a batch.
        use_gpu: use the GPU if there is one.
        nchunks: a scan's patches are predicted in so many parts, to save memory.

    Returns:
        ``{"client_test_0": 0.31, ...}``, nan for a loader without scans.
    """
    if nchunks < 1:
        raise ConfigError(f"nchunks must be at least 1, not {nchunks}", to_do="give 1 or more")
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    results = {}
    for number, loader in enumerate(test_dataloaders):
        state = torch.get_rng_state()
        batches = iter(loader)
        # To begin a pass draws a seed; training must go on as if nothing had been evaluated.
        torch.set_rng_state(state)
        dices = [_dice_of_scan(model, patches, target, device, nchunks) for patches, target in batches]
        results[f"client_test_{number}"] = float(np.mean(dices)) if dices else float("nan")
    model.train()
    return results


def _dice_of_scan(
    model: torch.nn.Module, patches: torch.Tensor, target: torch.Tensor, device: torch.device, nchunks: int
) -> float:
    overlap = half = 0.0
    with torch.inference_mode():
        for x, y in zip(torch.chunk(patches, nchunks), torch.chunk(target, nchunks), strict=True):
            p, t = model(x.to(device)).double(), y.to(device).double()
            overlap += float((p * t).sum())
            half += 0.5 * float((p + t).sum())
    return 1.0 if half < _TINY else overlap / half
