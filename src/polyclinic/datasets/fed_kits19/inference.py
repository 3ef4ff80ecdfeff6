"""Judging whole volumes with a network that sees one patch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyclinic.datasets.fed_kits19.metric import flamby_metric
from polyclinic.datasets.fed_kits19.plan import PLAN
from polyclinic.errors import DatasetError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


def sliding_window_predict(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    patch_size: Sequence[int] = PLAN.patch_size,
    *,
    overlap: float = 0.5,
) -> Tensor:
    """Logits of whole volumes: windows that overlap, weighted by a Gaussian around their middle, as nnU-Net does.

    Each volume is judged by itself, without the zeros that `collate_fn` has put behind it; so the outcome does not
    depend on which volumes share a batch. In a plan::

        def predict(self, image):
            return sliding_window_predict(self.model, image)

    Args:
        network: (1, 1, *patch_size) -> (1, classes, *patch_size).
        images: (n, 1, z, y, x) of any size; where smaller than a patch, zeros are added for the while.
        overlap: of neighbouring windows, as a fraction of their size.

    Returns:
        (n, classes, z, y, x) logits; 0 where a volume has ended.

    Raises:
        DatasetError: MONAI is not installed.
    """
    try:
        # Here and not above: it takes seconds to import, and training does not need it.
        from monai.inferers.utils import sliding_window_inference
    except ModuleNotFoundError as err:
        raise DatasetError(
            "judging whole volumes needs MONAI, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    logits = []
    for image in images:
        z, y, x = _extent(image)
        found: Any = sliding_window_inference(
            image[None, :, :z, :y, :x], tuple(patch_size), 1, network, overlap=overlap, mode="gaussian"
        )
        depth, height, width = image.shape[1:]
        logits.append(F.pad(found, (0, width - x, 0, height - y, 0, depth - z)))
    return torch.cat(logits)


def evaluate_dice_on_tests(
    model: nn.Module,
    test_dataloaders: Iterable[DataLoader[Any]],
    metric: Callable[[Tensor, Tensor], float] = flamby_metric,
    use_gpu: bool = True,
) -> dict[str, float]:
    """FLamby's evaluation: the mean over batches of a score of each batch's labels.

    With data sets that were made with ``flamby_compatible=True`` this is FLamby's protocol: a random patch a case.

    Args:
        test_dataloaders: one for each center, of (images, labels).
        metric: from (n, z, y, x) predicted and (n, 1, z, y, x) true labels to a number.

    Returns:
        The score of loader k under ``client_test_k``.
    """
    device = torch.device("cuda" if use_gpu and torch.cuda.is_available() else "cpu")
    model = model.to(device)
    was_training = model.training
    model.eval()
    scores = {}
    with torch.inference_mode():
        for number, loader in enumerate(test_dataloaders):
            found = [metric(model(x.to(device)).argmax(dim=1).cpu(), y) for x, y in loader]
            scores[f"client_test_{number}"] = sum(found) / len(found)
    model.train(was_training)
    return scores


def _extent(image: Tensor) -> tuple[int, int, int]:
    """How much of a (1, z, y, x) volume there is before the zeros that `collate_fn` has added, in voxels."""
    filled = image[0] != 0
    ends = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        planes = filled.any(dim=others).nonzero()
        # A volume of nothing but zeros is left as it is.
        ends.append(int(planes[-1]) + 1 if len(planes) else image.shape[axis + 1])
    return ends[0], ends[1], ends[2]
