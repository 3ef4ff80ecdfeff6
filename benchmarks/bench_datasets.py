"""An epoch of prepared samples over (a) preprocessing the raw files at each access, (b) plain NumPy memory maps.

    python benchmarks/bench_datasets.py

On made-up data of the true size and format, in this process, one sample after the other; ISIC with its augmentation
on every side. Goals: over (a) at most 0.1 for IXI and 0.33 for ISIC; over (b) at most 1.5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pairs import compare
from polyclinic.datasets import fed_isic2019, fed_ixi
from polyclinic.datasets.fed_isic2019.images import prepare_image as prepare_photo
from polyclinic.datasets.fed_ixi.prepare import prepare_image, prepare_label
from polyclinic.datasets.fed_ixi.raw import read_volume


def each(count: int, sample: Callable[[int], object]) -> Callable[[], None]:
    """An epoch: all samples in a fixed mixed order."""
    order = np.random.default_rng(0).permutation(count)

    def epoch() -> None:
        for index in order:
            sample(int(index))

    return epoch


def ixi(folder: Path) -> None:
    raw = fed_ixi.mock(folder / "ixi", patients_per_center=10, seed=0)
    prepared = fed_ixi.prepare(raw, folder / "ixi-prepared", show_progress=False)
    data = fed_ixi.IXITinyRaw(data_path=prepared)
    images = sorted(raw.rglob("*_image.nii.gz"))
    labels = [Path(str(path).replace("/T1/", "/label/").replace("_image", "_label")) for path in images]
    assert len(images) == len(data)
    maps = np.load(prepared / "images.npy", mmap_mode="r"), np.load(prepared / "labels.npy", mmap_mode="r")

    def from_raw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = prepare_image(read_volume(images[index].read_bytes(), images[index].name))
        label = torch.from_numpy(prepare_label(read_volume(labels[index].read_bytes(), labels[index].name)))
        return torch.from_numpy(image), torch.stack([1 - label, label]).float()

    def from_maps(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = torch.from_numpy(np.array(maps[1][index]))
        return torch.from_numpy(np.array(maps[0][index])), torch.stack([1 - label, label]).float()

    ours = each(len(data), data.__getitem__)
    compare(f"IXI, {len(data)} samples, over raw files", ours, each(len(data), from_raw), pairs=3)
    compare(f"IXI, {len(data)} samples, over plain maps", ours, each(len(data), from_maps))


def isic(folder: Path) -> None:
    raw = fed_isic2019.mock(folder / "isic", patients_per_center=10, seed=0)
    prepared = fed_isic2019.prepare(raw, folder / "isic-prepared", show_progress=False)
    data = fed_isic2019.FedIsic2019(pooled=True, data_path=prepared)
    files = {path.stem: path for path in raw.rglob("*.jpg")}
    augment = data.transform
    maps = [np.load(path, mmap_mode="r") for name in data.images for path in prepared.rglob(f"{name}/image.npy")]
    assert len(maps) == len(data)

    def from_raw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = prepare_photo(files[data.images[index]].read_bytes())
        return augment(torch.from_numpy(pixels)), torch.tensor(data.targets[index])

    def from_maps(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return augment(torch.from_numpy(np.array(maps[index]))), torch.tensor(data.targets[index])

    ours = each(len(data), data.__getitem__)
    compare(f"ISIC, {len(data)} samples, over raw files", ours, each(len(data), from_raw), pairs=3)
    compare(f"ISIC, {len(data)} samples, over plain maps", ours, each(len(data), from_maps))


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ixi(Path(folder))
        isic(Path(folder))
