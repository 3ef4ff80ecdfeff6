"""Prepared features as a federated dataset; arrays are mapped, a slide is read when it is asked for.

Data: CAMELYON16, Ehteshami Bejnordi et al., JAMA 2017, 318(22):2199-2210.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_camelyon16.model import MAX_TILES
from polyclinic.datasets.fed_camelyon16.prepare import NAME, ensure_prepared
from polyclinic.datasets.fed_camelyon16.slides import CENTERS, Slide, slide_of
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import DatasetError

Transform = Callable[[Tensor], Tensor]
Sample = tuple[Tensor, Tensor, NDArray[np.int64]]


class _Bags(Dataset[Sample]):
    """Slides of a prepared folder."""

    def __init__(
        self,
        prepared: Prepared,
        slides: Sequence[Slide],
        transform: Transform | None,
        dtype: torch.dtype,
        flamby_compatible: bool,
    ) -> None:
        self.prepared = prepared
        self.slides = [slide.name for slide in slides]
        self.labels = [slide.label_for(flamby_compatible=flamby_compatible) for slide in slides]
        self.transform = transform
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index: int) -> Sample:
        x = torch.from_numpy(np.array(self.prepared.array(self.slides[index], "features"))).to(self.dtype)
        y = torch.tensor([self.labels[index]], dtype=self.dtype)
        # Always the same for a number of tiles, as in FLamby.
        order = np.random.default_rng(42).permutation(len(x))
        return (self.transform(x) if self.transform else x), y, order

    def tumour_fraction(self, index: int) -> NDArray[np.float32] | None:
        """(n_tiles,) share of each tile that pathologists outlined as tumour; None for a slide without outlines."""
        name = self.slides[index]
        facts = next(item.facts for item in self.prepared.items if item.id == name)
        return np.array(self.prepared.array(name, "tumour_fraction")) if "tumour_tiles" in facts else None


def _open(data_path: str | Path | None, flamby_compatible: bool) -> tuple[Prepared, list[Slide]]:
    """The prepared folder and its slides, by name; in FLamby's order when asked for."""
    prepared = Prepared(ensure_prepared(data_path), dataset=NAME)
    slides = sorted((slide_of(item.id) for item in prepared.items), key=lambda slide: slide.name)
    if flamby_compatible:
        # FLamby seeds Python's global generator for it; a generator of its own gives the same order.
        random.Random(0).shuffle(slides)
    return prepared, slides


class Camelyon16Raw(_Bags):
    """All slides by name, without a choice of part.

    ``slides`` (n,) names, ``labels`` (n,) 0 or 1, ``centers`` (n,) numbers and ``sets`` (n,) of "train" and "test" say
    what each is. Arguments and items are those of `FedCamelyon16`.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
    ) -> None:
        prepared, slides = _open(data_path, flamby_compatible)
        super().__init__(prepared, slides, transform, dtype, flamby_compatible)
        self.centers = [slide.center for slide in slides]
        self.sets = [slide.split for slide in slides]


class FedCamelyon16(_Bags):
    """One center, or both with ``pooled``; items are (features (n_tiles, d), label (1,), permutation (n_tiles,) int64).

    ``slides`` are the slides' names, ``labels`` 1 with metastasis, else 0.

    Args:
        center: number or name ("RUMC", "UMCU"); not looked at when pooled.
        train: the training part, else the test part; by the slide's name alone.
        pooled: both centers.
        data_path: prepared features; or raw slides, which are prepared first, once.
        transform: applied to the features at each access.
        dtype: of features and label.
        flamby_compatible: test_114 is normal, and slides come in FLamby's order instead of by name.

    Raises:
        ConfigError: no such center.
        DatasetError: the data cannot be read, or hold no slide of this part.
    """

    def __init__(
        self,
        *,
        center: int | str = 0,
        train: bool = True,
        pooled: bool = False,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
    ) -> None:
        number = center_index(center, CENTERS)
        split = "train" if train else "test"
        prepared, slides = _open(data_path, flamby_compatible)
        chosen = [slide for slide in slides if slide.split == split and (pooled or slide.center == number)]
        if not chosen:
            raise DatasetError(
                f"{prepared.folder} holds no {split} slide of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the slides of this hospital were prepared in there",
            )
        super().__init__(prepared, chosen, transform, dtype, flamby_compatible)


def collate_fn(batch: Sequence[Sample], max_tiles: int = MAX_TILES) -> tuple[Tensor, Tensor]:
    """Features (batch, n, d) and labels (batch, 1) of several slides.

    Of each slide the first ``max_tiles`` tiles in permuted order; n is the largest number of tiles of a slide in the
    batch, and shorter ones end with rows of zeros, to which the baseline gives no attention.
    """
    longest = min(max(len(order) for _, _, order in batch), max_tiles)
    first = batch[0][0]
    bags = first.new_zeros(len(batch), longest, first.shape[1])
    for bag, (x, _, order) in zip(bags, batch, strict=True):
        chosen = torch.from_numpy(order[:max_tiles])
        # Straight to its place: a batch can be a gigabyte, which should not be copied twice.
        torch.index_select(x, 0, chosen, out=bag[: len(chosen)])
    return bags, torch.stack([y for _, y, _ in batch])
