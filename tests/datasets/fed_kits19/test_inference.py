from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from polyclinic.datasets.fed_kits19 import (
    Baseline,
    FedKits19,
    collate_fn,
    evaluate_dice_on_tests,
    metric,
    prepare,
    sliding_window_predict,
)

PATCH = (8, 12, 12)


class PointWise(nn.Module):
    """Logits that depend on a voxel alone, so that windows must not show."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return torch.cat([x, 2 * x, x**2], dim=1)


def test_windows_do_not_show_where_a_voxel_decides_alone():
    volume = torch.randn(2, 1, 13, 30, 17)
    network = PointWise()
    found = sliding_window_predict(network, volume, PATCH)
    torch.testing.assert_close(found, PointWise()(volume), atol=1e-5, rtol=1e-5)
    assert {shape[2:] for shape in network.shapes} == {PATCH}


def test_a_volume_smaller_than_a_patch_is_padded_for_the_while():
    volume = torch.randn(1, 1, 5, 30, 7)
    torch.testing.assert_close(sliding_window_predict(PointWise(), volume, PATCH), PointWise()(volume))


def test_a_volume_is_judged_alike_whoever_shares_its_batch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 5, padding=2), nn.InstanceNorm3d(4), nn.Conv3d(4, 3, 3, padding=1)).eval()
    items = [(torch.randn(1, *shape), torch.zeros(1, *shape)) for shape in ((9, 20, 15), (14, 13, 22), (8, 12, 12))]
    images, _ = collate_fn(items)
    with torch.inference_mode():
        together = sliding_window_predict(network, images, PATCH)
        for logits, (image, _) in zip(together, items, strict=True):
            z, y, x = image.shape[1:]
            torch.testing.assert_close(logits[:, :z, :y, :x], sliding_window_predict(network, image[None], PATCH)[0])
            # What has been added behind is background.
            assert logits[:, z:].count_nonzero() == logits[..., x:].count_nonzero() == 0


def test_a_volume_of_zeros_is_judged_whole():
    network = nn.Conv3d(1, 3, 1)
    found = sliding_window_predict(network, torch.zeros(1, 1, 9, 12, 12), PATCH)
    expected = network.bias[None, :, None, None, None].expand(1, 3, 9, 12, 12)
    torch.testing.assert_close(found, expected)


def test_the_baseline_judges_patches_at_once_and_volumes_by_windows(monkeypatch):
    with torch.device("meta"):
        model = Baseline((16, 64, 32))
    seen = []

    def forward(self, x):
        seen.append(tuple(x.shape))
        return torch.cat([x, x, x], dim=1)

    monkeypatch.setattr("polyclinic.datasets.fed_kits19.model.GenericUNet.forward", forward)
    model.eval()(torch.randn(2, 1, 16, 64, 32))
    assert seen == [(2, 1, 16, 64, 32)]
    seen.clear()
    assert model(torch.randn(2, 1, 20, 64, 40)).shape == (2, 3, 20, 64, 40)
    assert set(seen) == {(1, 1, 16, 64, 32)}
    seen.clear()
    model.train()(torch.randn(1, 1, 32, 32, 32))
    assert seen == [(1, 1, 32, 32, 32)]


class Constant(nn.Module):
    """Kidney everywhere."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), torch.ones_like(x), torch.zeros_like(x)], dim=1)


def test_flambys_protocol_scores_random_patches(raw, tmp_path):
    folder = prepare(raw, tmp_path / "out", flamby_compatible=True, show_progress=False)
    torch.manual_seed(0)
    loaders = [
        DataLoader(
            FedKits19(center=k, train=False, data_path=folder, flamby_compatible=True, patch_size=PATCH), batch_size=2
        )
        for k in range(2)
    ]
    model = Constant().train()
    scores = evaluate_dice_on_tests(model, loaders, use_gpu=False)
    assert model.training
    assert set(scores) == {"client_test_0", "client_test_1"}
    assert all(0 <= score <= 1 for score in scores.values())


def test_the_score_is_the_mean_over_batches():
    labels = [torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)]
    loader = [(torch.zeros_like(label), label) for label in labels]
    # Kidney 1, tumour rightly absent: 0 by FLamby, 1 by us; and nothing where kidney is predicted: 0, and 0 or 1.
    assert evaluate_dice_on_tests(Constant(), [loader], use_gpu=False)["client_test_0"] == pytest.approx(0.25, abs=1e-4)
    right = evaluate_dice_on_tests(
        Constant(), [loader], lambda pred, gt: metric(gt.numpy(), pred.numpy()), use_gpu=False
    )
    assert right["client_test_0"] == pytest.approx((1 + 0.5) / 2)
