"""Made-up slides, and a network in place of ResNet-50 that is small enough for a test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from polyclinic.datasets.fed_camelyon16 import mock, prepare
from polyclinic.datasets.fed_camelyon16.encoders import ENCODERS


class TinyEncoder(nn.Module):
    """2048 features of a tile: its mean colours in 4 x 4 places, mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(48, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.mix(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return y


def use_tiny_encoder(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(ENCODERS, "resnet50", replace(ENCODERS["resnet50"], make=TinyEncoder, resize=None))


@pytest.fixture
def tiny_encoder(monkeypatch):
    use_tiny_encoder(monkeypatch)


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    """Four slides of each center: two for training, two for test, of either label."""
    return mock(tmp_path_factory.mktemp("camelyon16") / "raw", patients_per_center=4)


@pytest.fixture(scope="session")
def prepared(slides):
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_encoder(patch)
        return prepare(slides, slides.parent / "prepared", weights="random", show_progress=False)
