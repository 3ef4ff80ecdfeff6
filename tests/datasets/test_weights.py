"""What is the same for all networks; those of Fed-ISIC2019 and Fed-Camelyon16 are tested with their models."""

from __future__ import annotations

import hashlib
import warnings

import pytest
import torch
from torch import nn

from polyclinic.datasets import weights as weights_module
from polyclinic.datasets.weights import PublishedWeights, find_weights, load_weights
from polyclinic.errors import ConfigError, DownloadError

CONTENT = b"the bytes of some weights"
NAME = f"small-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
SMALL = PublishedWeights(
    file_name=NAME,
    url="https://example.org/small.pth",
    without="the small model starts at random",
    get_weights="ask its authors",
    prefix="part.",
    not_needed=("old.",),
    own_head=("1.",),
    published_name=lambda name: name.replace("0.", "first."),
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.delenv("POLYCLINIC_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights_module, "_given_up", {})
    return tmp_path / "hub" / "checkpoints"


def sends(monkeypatch, content):
    asked = []

    def fetch(file, folder, **options):
        asked.append(file.url)
        if content is None:
            raise DownloadError("no network")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(content)
        return folder / file.name

    monkeypatch.setattr(weights_module, "fetch", fetch)
    return asked


def test_they_are_downloaded_once_and_kept(cache, monkeypatch):
    asked = sends(monkeypatch, CONTENT)
    assert find_weights(SMALL) == find_weights(SMALL) == cache / NAME
    assert asked == ["https://example.org/small.pth"]


@pytest.mark.parametrize(("content", "why"), [(None, "no network"), (b"another page", "gave other bytes")])
def test_without_them_a_warning_says_why_each_time_and_asks_once(cache, monkeypatch, content, why):
    asked = sends(monkeypatch, content)
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=rf"^the small model starts at random \(.*{why}.*\)\. .*: ask its authors$"
        ):
            assert find_weights(SMALL) is None
    assert len(asked) == 1
    assert not list(cache.glob("*.pth"))


def test_a_folder_of_the_environment_is_the_only_place(cache, monkeypatch, tmp_path):
    asked = sends(monkeypatch, CONTENT)
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", str(tmp_path))
    with pytest.warns(UserWarning, match=rf"there is no {NAME} in .*, which POLYCLINIC_WEIGHTS names"):
        assert find_weights(SMALL) is None
    (tmp_path / NAME).touch()
    assert find_weights(SMALL) == tmp_path / NAME
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", "none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_weights(SMALL) is None
    assert asked == []


def test_names_and_heads_of_a_file(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    head = network[1].weight.clone()
    file = {
        "part.first.weight": torch.full((3, 2), 5.0),
        "part.0.bias": torch.full((3,), 6.0),
        "part.1.weight": torch.zeros(1000, 3),
        "old.weight": torch.zeros(1),
    }
    torch.save(file, tmp_path / "w.pth")
    load_weights(network, tmp_path / "w.pth", SMALL)
    assert (network[0].weight == 5).all()
    assert (network[0].bias == 6).all()
    assert torch.equal(network[1].weight, head)
    for change, why in (({"part.0.bias": torch.zeros(2)}, "another shape of '0.bias'"), ({"x": head}, "unknown 'x'")):
        torch.save(file | change, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=why):
            load_weights(network, tmp_path / "w.pth", SMALL)
