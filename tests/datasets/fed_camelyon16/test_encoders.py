from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from polyclinic.datasets import weights as weights_module
from polyclinic.datasets.fed_camelyon16.encoders import ENCODERS, load_encoder, to_input
from polyclinic.datasets.fed_camelyon16.resnet import ResNet50
from polyclinic.datasets.fed_camelyon16.vit import VisionTransformer
from polyclinic.errors import ConfigError, DownloadError

SMALL_VIT = {"width": 24, "num_layers": 2, "num_heads": 3, "hidden": 40, "image": 32, "patch": 8}


@pytest.fixture(autouse=True)
def no_folder_of_weights(monkeypatch):
    monkeypatch.delenv("POLYCLINIC_WEIGHTS", raising=False)


@pytest.fixture
def tiles():
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def scramble(network):
    """Weights that are not those of an initialisation, batch statistics included."""
    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.1 * noise.abs() if name.endswith("running_var") else value + 0.02 * noise)
    return network.eval()


def test_resnet_is_monais_with_the_names_of_torchvision():
    from monai.networks.nets import resnet50

    truth = resnet50(spatial_dims=2, n_input_channels=3, conv1_t_size=7, conv1_t_stride=2, bias_downsample=False)
    ours = scramble(ResNet50())
    missing, unknown = truth.load_state_dict(ours.state_dict(), strict=False)
    assert (sorted(missing), unknown) == (["fc.bias", "fc.weight"], [])
    truth.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), truth.eval()(x), rtol=1e-4, atol=1e-4)
    names = set(ours.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight"} <= names


def test_resnet_has_the_parameters_of_the_published_one_without_its_last_layer():
    with torch.device("meta"):
        network = ResNet50()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032 - 2_049_000


def test_vit_is_torchs_transformer():
    ours = scramble(VisionTransformer(**SMALL_VIT))
    truth = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            24, 3, 40, dropout=0, activation="gelu", norm_first=True, batch_first=True, layer_norm_eps=1e-12
        ),
        2,
        norm=nn.LayerNorm(24, eps=1e-12),
        enable_nested_tensor=False,
    ).eval()
    weights = ours.state_dict()
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    for kind in ("weight", "bias"):
        truth.norm.get_parameter(kind).data = weights[f"layernorm.{kind}"]
        for k, layer in enumerate(truth.layers):
            prefix = f"encoder.layer.{k}."
            for theirs, name in names.items():
                layer.get_parameter(f"{theirs}.{kind}").data = weights[f"{prefix}{name}.{kind}"]
            parts = [weights[f"{prefix}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            layer.self_attn.get_parameter(f"in_proj_{kind}").data = torch.cat(parts)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        projection = weights["embeddings.patch_embeddings.projection.weight"].flatten(1)
        patches = nn.functional.unfold(x, 8, stride=8).transpose(1, 2) @ projection.T
        patches = patches + weights["embeddings.patch_embeddings.projection.bias"]
        tokens = torch.cat([weights["embeddings.cls_token"].expand(2, 1, 24), patches], dim=1)
        expected = truth(tokens + weights["embeddings.position_embeddings"])[:, 0]
        torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_vit_has_the_parameters_of_the_published_one():
    with torch.device("meta"):
        network = VisionTransformer()
    # ViT-B/16 without a head: 85,798,656.
    assert sum(parameter.numel() for parameter in network.parameters()) == 85_798_656


def test_the_transform_is_pillows(tiles):
    x = to_input(torch.from_numpy(tiles), 256)
    assert x.shape == (2, 3, 224, 224)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    large = np.asarray(Image.fromarray(tiles[0]).resize((256, 256), Image.Resampling.BILINEAR))[16:240, 16:240]
    expected = (large / 255 - mean) / std
    # Pillow rounds to whole grey values, once along each axis.
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1.02 / 255 / 0.224)
    plain = to_input(torch.from_numpy(tiles), None)[1].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(plain, (tiles[1] / 255 - mean) / std, atol=1e-5)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 5)

    def forward(self, x):
        return self.last(self.norm(x).mean((2, 3)))


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setitem(ENCODERS, "resnet50", replace(ENCODERS["resnet50"], make=Two, resize=None))
    return scramble(Two())


def test_weights_come_from_a_file_of_either_kind(two, tiles, tmp_path):
    from safetensors.torch import save_file

    published = two.state_dict() | {"fc.weight": torch.zeros(2, 2)}
    torch.save(published, tmp_path / "w.pth")
    save_file(published, tmp_path / "w.safetensors")
    with torch.inference_mode():
        expected = two(to_input(torch.from_numpy(tiles), None)).numpy()
    for name in ("w.pth", "w.safetensors"):
        loaded = load_encoder("resnet50", tmp_path / name)
        np.testing.assert_allclose(loaded(tiles), expected, rtol=1e-6)
        assert loaded.weights == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    # Older files have no count of batches.
    del published["norm.num_batches_tracked"]
    torch.save(published, tmp_path / "old.pth")
    np.testing.assert_allclose(load_encoder("resnet50", str(tmp_path / "old.pth"))(tiles), expected, rtol=1e-6)


def test_weights_come_from_the_hub_into_torchs_cache_once(two, tiles, tmp_path, monkeypatch):
    content = io.BytesIO()
    torch.save(two.state_dict(), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    name = f"resnet50-{digest[:8]}.pth"
    published = replace(ENCODERS["resnet50"].published, file_name=name)
    monkeypatch.setitem(ENCODERS, "resnet50", replace(ENCODERS["resnet50"], published=published))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def fetch(file, folder, **options):
        asked.append(file.url)
        folder.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(content.getvalue())
        return folder / file.name

    monkeypatch.setattr(weights_module, "fetch", fetch)
    loaded = load_encoder()
    assert asked == ["https://download.pytorch.org/models/resnet50-0676ba61.pth"]
    assert loaded.weights == digest
    given = load_encoder("resnet50", tmp_path / "checkpoints" / name)
    np.testing.assert_array_equal(loaded(tiles), given(tiles))
    # Other bytes under this name are refused, and do not stay.
    content.write(b"more")
    (tmp_path / "checkpoints" / name).unlink()
    with pytest.warns(UserWarning, match="gave other bytes"):
        assert load_encoder().weights == "random, seed 0"
    assert not (tmp_path / "checkpoints" / name).exists()


def test_without_a_network_weights_are_random_and_that_is_said(two, tiles, tmp_path, monkeypatch):
    def fetch(*args, **options):
        raise DownloadError("no network")

    monkeypatch.setattr(weights_module, "fetch", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"features come from random weights.*no network.*--weights FILE"):
        loaded = load_encoder()
    assert loaded.weights == "random, seed 0"
    np.testing.assert_array_equal(loaded(tiles), load_encoder("resnet50", "random")(tiles))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_come_from_a_folder_where_there_is_no_network(two, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", str(tmp_path))
    with pytest.warns(UserWarning, match=r"there is no resnet50-0676ba61\.pth in"):
        assert load_encoder().weights == "random, seed 0"
    torch.save(two.state_dict(), tmp_path / "resnet50-0676ba61.pth")
    assert len(load_encoder().weights) == 64
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", "none")
    assert load_encoder().weights == "random, seed 0"


def test_phikon_loads_by_the_published_names(tiles, tmp_path, monkeypatch):
    monkeypatch.setitem(
        ENCODERS, "phikon", replace(ENCODERS["phikon"], make=lambda: VisionTransformer(**SMALL_VIT | {"image": 224}))
    )
    network = scramble(VisionTransformer(**SMALL_VIT | {"image": 224}))
    published = {f"vit.{name}": value for name, value in network.state_dict().items()}
    torch.save(published | {"pooler.dense.bias": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    features = load_encoder("phikon", tmp_path / "pytorch_model.bin")(tiles)
    with torch.inference_mode():
        np.testing.assert_allclose(features, network(to_input(torch.from_numpy(tiles), None)).numpy(), rtol=1e-5)
    with pytest.raises(ConfigError, match=r"weights phikon\.safetensors have to be given") as caught:
        load_encoder("phikon")
    assert "https://huggingface.co/owkin/phikon" in str(caught.value)


def test_bad_weights_are_refused(two, tmp_path):
    with pytest.raises(ConfigError, match="no encoder 'resnet5'") as caught:
        load_encoder("resnet5")
    assert "did you mean 'resnet50'?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"weights .*none\.pth cannot be read"):
        load_encoder("resnet50", tmp_path / "none.pth")
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all, but a few bytes")
        with pytest.raises(ConfigError, match=rf"bad\.{name[4:]} is no file of weights"):
            load_encoder("resnet50", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="something else than named tensors"):
        load_encoder("resnet50", tmp_path / "list.pth")
    for change, message in (
        ({"last.weight": torch.zeros(2, 3)}, "another shape of 'last.weight'"),
        ({"extra.weight": torch.zeros(2)}, "an unknown 'extra.weight'"),
    ):
        torch.save(two.state_dict() | change, tmp_path / "other.pth")
        with pytest.raises(ConfigError, match=f"weights of another network: it has {message}"):
            load_encoder("resnet50", tmp_path / "other.pth")
    torch.save({"last.weight": torch.zeros(5, 3)}, tmp_path / "part.pth")
    with pytest.raises(ConfigError, match=r"it lacks 'norm\.weight' and 4 more"):
        load_encoder("resnet50", tmp_path / "part.pth")


def test_a_file_of_weights_runs_no_code(two, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError, match="is no file of weights"):
        load_encoder("resnet50", tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
