from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from polyclinic.datasets import weights as weights_module
from polyclinic.datasets.fed_isic2019 import METRIC, Baseline, BaselineLoss, get_nb_max_rounds, metric
from polyclinic.datasets.fed_isic2019 import model as model_module
from polyclinic.errors import ConfigError, DownloadError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Baseline(pretrained=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with the names of the usual one and 1,000 classes, of made-up numbers."""
    from monai.networks.nets import EfficientNetBN

    torch.manual_seed(1)
    state = EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=1000).state_dict()
    path = tmp_path_factory.mktemp("weights") / "efficientnet-b0-355c32eb.pth"
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        renamed[".".join([parts[0], *parts[2:]]) if parts[0] == "_blocks" else key] = value
    assert "_blocks.15._project_conv.weight" in renamed
    torch.save({key: value for key, value in renamed.items() if "num_batches" not in key}, path)
    return path


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """An empty cache of torch's, and nothing tried yet."""
    monkeypatch.delenv("POLYCLINIC_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(weights_module, "_given_up", {})
    return tmp_path / "hub" / "checkpoints"


def backbone(model):
    return {key: value for key, value in model.state_dict().items() if "_fc" not in key and "num_batches" not in key}


def same(one, two):
    return all(torch.equal(one[key], two[key]) for key in one)


def test_the_model_is_efficientnet_b0_with_eight_outputs(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_017_796
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 49
    assert {(m.momentum, m.eps) for m in norms} == {(0.01, 1e-3)}
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.2]
    rates = [m.drop_connect_rate for m in model.modules() if hasattr(m, "_depthwise_conv")]
    assert rates == pytest.approx([0.2 * block / 16 for block in range(16)])


def test_its_padding_is_that_of_224_pixels(model):
    size, found = 224, []
    names = {"_conv_stem": "_conv_stem_padding", "_depthwise_conv": "_depthwise_conv_padding"}
    for module in model.modules():
        for conv_name, pad_name in names.items():
            if isinstance(conv := getattr(module, conv_name, None), nn.Conv2d):
                kernel, stride = conv.kernel_size[0], conv.stride[0]
                out = math.ceil(size / stride)
                total = max((out - 1) * stride + kernel - size, 0)
                before, after = total // 2, total - total // 2
                assert getattr(module, pad_name).padding == (before, after, before, after)
                found.append(out)
                size = out
    assert found == [112, 112, 56, 56, 28, 28, 14, 14, 14, 14, 14, 14, 7, 7, 7, 7, 7]


def test_the_model_gives_a_score_for_each_class(model):
    model.eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 200, 200)).shape == (1, 8)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


def test_the_last_layer_starts_as_torchs_do(model):
    limit = 1 / math.sqrt(1280)
    weight = model.base_model._fc.weight
    assert limit * 0.95 < weight.abs().max() <= limit


def test_without_memory_nothing_is_looked_for(monkeypatch):
    monkeypatch.setattr(
        "polyclinic.datasets.fed_isic2019.model.find_weights", lambda published: pytest.fail("looked for")
    )
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Baseline().parameters()) == 4_017_796


def test_weights_from_a_file(checkpoint, model):
    given = torch.load(checkpoint)
    loaded = Baseline(weights=checkpoint).base_model
    assert torch.equal(loaded._conv_stem.weight, given["_conv_stem.weight"])
    assert torch.equal(loaded._blocks[1][0]._depthwise_conv.weight, given["_blocks.1._depthwise_conv.weight"])
    assert torch.equal(loaded._blocks[6][0]._bn2.running_var, given["_blocks.15._bn2.running_var"])
    assert loaded._fc.out_features == 8


def test_weights_saved_from_the_class_itself_come_back_whole(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "mine.pt")
    again = Baseline(pretrained=False, weights=tmp_path / "mine.pt")
    assert same(model.state_dict(), again.state_dict())


def test_weights_change_nothing_in_the_random_stream(checkpoint):
    after = []
    for options in ({"pretrained": False}, {"weights": checkpoint}):
        torch.manual_seed(7)
        model = Baseline(**options)
        after.append((model.base_model._fc.weight.clone(), torch.rand(3)))
    assert torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Baseline(weights=tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="is no file of weights"):
        Baseline(weights=tmp_path / "text.pth")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    # 360 tensors, without the last layer's two and 49 counts of batches.
    with pytest.raises(ConfigError, match=r"of another network: it lacks '_conv_stem\.weight' and 308 more"):
        Baseline(weights=tmp_path / "other.pth")


def test_weights_from_the_folder_that_the_environment_names(checkpoint, monkeypatch, model, tmp_path):
    monkeypatch.setattr(weights_module, "fetch", lambda *args, **kwargs: pytest.fail("network"))
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", str(checkpoint.parent))
    assert same(backbone(Baseline()), backbone(Baseline(weights=checkpoint)))
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", str(tmp_path))
    with pytest.warns(UserWarning, match="starts from random weights.*which POLYCLINIC_WEIGHTS names"):
        Baseline()
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", "none")
    Baseline()


def test_without_a_network_it_warns_and_asks_once_only(no_cache, monkeypatch):
    asked = []

    def fetch(file, folder, *, timeout_s, attempts, **options):
        asked.append((timeout_s, attempts))
        raise DownloadError("no network")

    monkeypatch.setattr(weights_module, "fetch", fetch)
    for _ in range(3):
        with pytest.warns(UserWarning, match=r"starts from random weights, .*\(no network\)"):
            Baseline()
    assert asked == [(5.0, 1)]


def test_weights_from_the_hub_are_kept_in_torchs_cache(no_cache, checkpoint, monkeypatch):
    asked = []

    def fetch(file, folder, **options):
        asked.append(file.url)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(checkpoint.read_bytes())
        return folder / file.name

    monkeypatch.setattr(weights_module, "fetch", fetch)
    with pytest.warns(UserWarning, match="gave other bytes"):
        Baseline()
    assert not (no_cache / "efficientnet-b0-355c32eb.pth").exists()

    monkeypatch.setattr(weights_module, "_given_up", {})
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    named = replace(model_module.WEIGHTS, file_name=f"efficientnet-b0-{digest[:8]}.pth")
    monkeypatch.setattr(model_module, "WEIGHTS", named)
    for _ in range(2):
        assert same(backbone(Baseline()), backbone(Baseline(weights=checkpoint)))
    assert len(asked) == 2
    assert asked[0].endswith("/efficientnet-b0-355c32eb.pth")


@pytest.fixture
def scores_and_classes():
    rng = np.random.default_rng(0)
    # Each class at least once: scikit-learn warns of predicted classes that are not among the targets.
    return rng.normal(0, 2, (30, 8)), np.concatenate([np.arange(8), rng.integers(0, 8, 22)])


def test_the_loss_is_the_formula(scores_and_classes):
    scores, classes = scores_and_classes
    alpha = [5.5813, 2.0472, 7.0204, 26.1194, 9.5369, 101.0707, 92.5224, 38.3443]
    values = []
    for row, c in zip(scores, classes, strict=True):
        p = math.exp(row[c]) / sum(math.exp(v) for v in row)
        values.append(-alpha[c] * (1 - p) ** 2 * math.log(p))
    loss = BaselineLoss()
    np.testing.assert_allclose(loss.alpha, alpha, atol=5e-5)
    for shape in ((30,), (30, 1)):
        got = loss(torch.tensor(scores), torch.tensor(classes).reshape(shape)).item()
        assert got == pytest.approx(np.mean(values), rel=1e-5)


def test_without_gamma_and_weights_the_loss_is_cross_entropy(scores_and_classes):
    scores, classes = map(torch.tensor, scores_and_classes)
    got = BaselineLoss(alpha=[1.0] * 8, gamma=0)(scores, classes)
    torch.testing.assert_close(got, nn.functional.cross_entropy(scores, classes))


def test_the_loss_of_sure_answers_is_finite():
    scores = torch.zeros(2, 8, requires_grad=True)
    sure = scores + torch.tensor([[1e4] + [0.0] * 7, [0.0] * 7 + [1e4]])
    right = BaselineLoss()(sure, torch.tensor([0, 7]))
    assert right.item() == 0
    wrong = BaselineLoss()(sure, torch.tensor([7, 0]))
    wrong.backward()
    assert math.isfinite(wrong.item())
    assert torch.isfinite(scores.grad).all()


def test_class_weights_are_no_part_of_the_model_that_is_averaged():
    assert BaselineLoss().state_dict() == {}


def test_the_metric_is_scikit_learns_and_pools_exactly(scores_and_classes):
    scores, classes = scores_and_classes
    for keep in (classes >= 0, classes == 3, np.isin(classes, (0, 1, 4))):
        expected = np.mean([(scores[classes == c].argmax(1) == c).mean() for c in np.unique(classes[keep])])
        assert metric(classes[keep], scores[keep]) == pytest.approx(expected)
        assert METRIC.value(METRIC.rows(classes[keep], scores[keep])) == pytest.approx(expected)
    assert metric(classes[:, None], scores) == pytest.approx(balanced_accuracy_score(classes, scores.argmax(1)))


def test_the_metric_of_one_class_and_of_one_patient():
    scores = np.eye(8)[[1, 1, 2]]
    assert metric(np.array([1, 1, 1]), scores) == pytest.approx(2 / 3)
    assert metric(np.array([2]), scores[2:]) == 1
    assert metric(np.array([0]), scores[2:]) == 0


def test_rounds_by_flambys_and_by_the_true_number_of_images():
    assert get_nb_max_rounds(100) == 9
    assert get_nb_max_rounds(100, flamby_compatible=False) == 9
    # 18413 // 6 // 1 = 3068 and 18597 // 6 // 1 = 3099
    assert get_nb_max_rounds(20, 1) == 3068
    assert get_nb_max_rounds(20, 1, flamby_compatible=False) == 3099
