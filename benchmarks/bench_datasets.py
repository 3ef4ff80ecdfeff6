"""An epoch of prepared samples over (a) preprocessing the raw files at each access, (b) plain NumPy memory maps.

    python benchmarks/bench_datasets.py [ixi] [isic] [lidc] [kits]

On made-up data of the true size and format, in this process, one sample after the other, by a warm page cache. All
sides do the same work, random places and augmentation included, and yield the same, which is checked. Goals: over (a)
at most 0.1 for IXI and 0.33 for ISIC; over (b) at most 1.5.

(b) is what one would write by hand. But for IXI, whose data are one file, it opens files when they are wanted: those of
18,597 images, or three of each of 808 scans, are more than a process may keep open. For ISIC, files that stay open are
a line of their own. For LIDC and KiTS, a last line tells what no loader can go below: copying the bytes that a sample
is made of, as they are stored, from files that stay open.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

import full_size
from pairs import compare
from polyclinic.datasets import fed_isic2019, fed_ixi, fed_kits19, fed_lidc_idri
from polyclinic.datasets.fed_isic2019.images import prepare_image as prepare_photo
from polyclinic.datasets.fed_ixi.prepare import prepare_image, prepare_label
from polyclinic.datasets.fed_ixi.raw import read_volume
from polyclinic.datasets.fed_kits19.augment import augment
from polyclinic.datasets.fed_kits19.cases import find_cases
from polyclinic.datasets.fed_kits19.patches import corner_around, random_corner
from polyclinic.datasets.fed_kits19.plan import PLAN
from polyclinic.datasets.fed_kits19.prepare import prepare_case
from polyclinic.datasets.fed_lidc_idri.prepare import prepare_scan
from polyclinic.datasets.fed_lidc_idri.raw import find_scans
from polyclinic.datasets.fed_lidc_idri.sampling import place_in_box
from polyclinic.datasets.prepared import Prepared

Sample = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
Arrays = Mapping[str, np.ndarray[Any, Any]]


def each(count: int, sample: Callable[[int], object]) -> Callable[[], None]:
    """An epoch: all samples in a fixed mixed order, with the same random numbers."""
    order = np.random.default_rng(0).permutation(count)

    def epoch() -> None:
        torch.manual_seed(0)
        for index in order:
            sample(int(index))

    return epoch


def measure(title: str, count: int, ours: Sample, plain: Sample, *, pairs: int = 7) -> None:
    """Checks that both yield the same from the same random numbers, then compares an epoch of each."""
    torch.manual_seed(1)
    expected = plain(0)
    torch.manual_seed(1)
    for a, b in zip(ours(0), expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)
    compare(f"{title}, {count} samples", each(count, ours), each(count, plain), pairs=pairs)


def opened(folder: Path, name: str, arrays: Iterable[str]) -> Arrays:
    """Plain maps of what was prepared of one scan."""
    return {array: np.load(f"{folder}/items/{name}/{array}.npy", mmap_mode="r") for array in arrays}


def ixi(folder: Path) -> None:
    source = fed_ixi.mock(folder / "ixi", patients_per_center=10, seed=0)
    prepared = fed_ixi.prepare(source, folder / "ixi-prepared", show_progress=False)
    data = fed_ixi.IXITinyRaw(data_path=prepared)
    images = sorted(source.rglob("*_image.nii.gz"), key=lambda path: data.subjects.index(path.name.split("_")[0]))
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

    measure("IXI over raw files", len(data), data.__getitem__, from_raw, pairs=3)
    measure("IXI over plain maps", len(data), data.__getitem__, from_maps)


def isic(folder: Path) -> None:
    source = fed_isic2019.mock(folder / "isic", patients_per_center=10, seed=0)
    prepared = fed_isic2019.prepare(source, folder / "isic-prepared", show_progress=False)
    data = fed_isic2019.FedIsic2019(pooled=True, data_path=prepared)
    files = {path.stem: path for path in source.rglob("*.jpg")}
    change = data.transform
    assert change
    maps = [opened(prepared, name, ["image"])["image"] for name in data.images]

    def from_raw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = prepare_photo(files[data.images[index]].read_bytes())
        return change(torch.from_numpy(pixels)), torch.tensor(data.targets[index])

    def from_maps(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = opened(prepared, data.images[index], ["image"])["image"]
        return change(torch.from_numpy(np.array(image))), torch.tensor(data.targets[index])

    def from_open_maps(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return change(torch.from_numpy(np.array(maps[index]))), torch.tensor(data.targets[index])

    measure("ISIC over raw files", len(data), data.__getitem__, from_raw, pairs=3)
    measure("ISIC over plain maps", len(data), data.__getitem__, from_maps, pairs=15)
    measure("ISIC over plain maps that stay open", len(data), data.__getitem__, from_open_maps, pairs=15)


def lidc(folder: Path) -> None:
    source = full_size.lidc(folder / "lidc")
    prepared = fed_lidc_idri.prepare(source, folder / "lidc-prepared", show_progress=False)
    data = fed_lidc_idri.FedLidcIdri(pooled=True, data_path=prepared)
    scans = {scan.uid: scan for scan in find_scans(source)}
    facts = [item.facts for item in data.items]

    def patches(index: int, arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
        image, readers = arrays["image"], facts[index]["num_readers"]
        place = np.array(place_in_box(image.shape, (384, 384, 384)))
        nodules = arrays["voxels"][2 * np.bitwise_count(arrays["readers"]) >= readers].astype(np.int64) + place
        corners = data.sampler.corners(torch.from_numpy(nodules))
        x = np.full((len(corners), 128, 128, 128), facts[index]["lowest"], dtype=np.float32)
        y = np.zeros(x.shape, dtype=np.uint8)
        for k, corner in enumerate(corners):
            here, there = overlap(corner - place, (128, 128, 128), image.shape)
            x[k][here] = image[there]
            inside = nodules - corner
            y[k][tuple(inside[((inside >= 0) & (inside < 128)).all(axis=1)].T)] = 1
        np.clip(x, -1024, 600, out=x)
        x += 1024
        x /= 1624
        return torch.from_numpy(x), torch.from_numpy(y)

    def from_raw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return patches(index, prepare_scan(scans[data.series[index]])[0])

    def from_maps(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return patches(index, opened(prepared, data.series[index], ("image", "voxels", "readers")))

    measure("LIDC over raw files", len(data), data.__getitem__, from_raw, pairs=3)
    measure("LIDC over plain maps", len(data), data.__getitem__, from_maps, pairs=15)
    images = [opened(prepared, uid, ["image"])["image"] for uid in data.series]
    copied = each(len(data), lambda index: [np.array(images[index][100:228, 100:228, 100:228]) for _ in range(2)])
    compare("LIDC over copying the bytes alone", each(len(data), data.__getitem__), copied)


def kits(folder: Path) -> None:
    source = full_size.kits(folder / "kits", cases=4)
    prepared = fed_kits19.prepare(source, folder / "kits-prepared", show_progress=False)
    cases = {case.name: case for case in find_cases(source)}
    num_places = {item.id: item.facts["places"] for item in Prepared(prepared).items}
    names, size = list(cases), PLAN.patch_size

    def patch(index: int, arrays: Arrays, changed: bool) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        shape, counts = arrays["image"].shape, num_places[names[index]]
        if rng.random() < 0.5:
            chosen = int(rng.choice(2))
            row = sum(counts[:chosen]) + int(rng.integers(counts[chosen]))
            corner = corner_around(arrays["places"][row], shape, size)
        else:
            corner = random_corner(shape, size, rng)
        here, there = overlap(corner, size, shape)
        x, y = torch.zeros(size), torch.zeros(size)
        for part, volume in ((x, arrays["image"]), (y, arrays["label"])):
            part[here] = torch.from_numpy(np.array(volume[there]))
        if changed:
            x, y = map(torch.from_numpy, augment(x.numpy(), y.numpy(), rng))
        return x[None], y[None]

    def from_raw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return patch(index, prepare_case(cases[names[index]], PLAN.intensity)[0], True)

    def from_maps(index: int, changed: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        return patch(index, opened(prepared, names[index], ("image", "label", "places")), changed)

    data = fed_kits19.FedKits19(pooled=True, data_path=prepared)
    unchanged = fed_kits19.FedKits19(pooled=True, data_path=prepared, augment=False)
    assert data.images == names
    measure("KiTS over raw files", len(data), data.__getitem__, from_raw, pairs=1)
    measure("KiTS over plain maps", len(data), data.__getitem__, from_maps)
    plain = partial(from_maps, changed=False)
    measure("KiTS without augmentation over plain maps", len(data), unchanged.__getitem__, plain, pairs=15)
    maps = [opened(prepared, name, ("image", "label")).values() for name in names]
    copied = each(len(data), lambda index: [np.array(array[30:94, 50:242, 50:242]) for array in maps[index]])
    compare("KiTS without augmentation over copying the bytes alone", each(len(data), unchanged.__getitem__), copied)


def overlap(
    corner: ArrayLike, size: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a patch that lies in the volume, and where it lies there."""
    low = np.maximum(corner, 0)
    high = np.maximum(np.minimum(np.add(corner, size), shape), low)
    return tuple(map(slice, low - corner, high - corner)), tuple(map(slice, low, high))


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or ["ixi", "isic", "lidc", "kits"]
    with tempfile.TemporaryDirectory() as folder:
        for run in (ixi, isic, lidc, kits):
            if run.__name__ in chosen:
                run(Path(folder))
