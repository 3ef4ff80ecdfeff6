from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from polyclinic.datasets.fed_camelyon16 import FedCamelyon16, ensure_prepared, mock, prepare
from polyclinic.datasets.fed_camelyon16.encoders import load_encoder
from polyclinic.datasets.fed_camelyon16.made_up import write_slide
from polyclinic.datasets.fed_camelyon16.tiling import grid_of, open_slide, read_tile
from polyclinic.datasets.prepared import Prepared
from polyclinic.errors import ConfigError, DatasetError

NAMES = ["normal_001", "normal_101", "test_001", "test_002", "test_003", "test_012", "tumor_001", "tumor_071"]


def ready(source, to, **options):
    return prepare(source, to, **{"weights": "random", "show_progress": False, "workers": 1} | options)


def test_features_are_those_of_the_tiles_at_the_corners(slides, prepared, tiny_encoder):
    folder = Prepared(prepared, dataset="fed_camelyon16")
    assert [item.id for item in folder.items] == NAMES
    assert folder.parameters["weights"] == "random, seed 0"
    encoder = load_encoder("resnet50", "random")
    for item in folder.items[:2]:
        features, corners = folder.array(item.id, "features"), folder.array(item.id, "corners")
        assert features.shape == (item.facts["num_tiles"], 2048)
        assert features.dtype == np.float32
        with open_slide(slides / f"{item.id}.tif") as slide:
            tiles = np.stack([read_tile(slide, grid_of(slide), int(x), int(y)) for x, y in corners])
        np.testing.assert_allclose(features, encoder(tiles), rtol=1e-5, atol=1e-5)


def test_facts_say_where_a_slide_belongs_and_how_it_was_read(prepared):
    facts = {item.id: item.facts for item in Prepared(prepared).items}
    assert facts["tumor_071"].items() >= {
        "center": 1, "hospital": "UMCU", "split": "train", "level": 1, "tile_mpp": 0.5, "step": 448
    }.items()  # fmt: skip
    assert (facts["test_003"]["center"], facts["test_003"]["split"]) == (0, "test")
    assert "tumour_tiles" not in facts["test_003"]


def test_tumour_shares_come_from_the_outlines(prepared):
    folder = Prepared(prepared)
    share = folder.array("tumor_001", "tumour_fraction")
    assert len(share) == len(folder.array("tumor_001", "corners"))
    assert share.max() > 0.5
    assert share.min() < 0.1


def test_the_same_seed_makes_the_same_slides(slides, tmp_path):
    mock(tmp_path, patients_per_center=4)
    for name in ("tumor_001.tif", "test_012.tif", "annotations/tumor_001.xml"):
        assert (tmp_path / name).read_bytes() == (slides / name).read_bytes()
    with pytest.raises(ConfigError, match="cannot make 3 slides per center"):
        mock(tmp_path, patients_per_center=3)


@pytest.fixture
def few(slides, tmp_path):
    """A folder with two whole slides."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("normal_001.tif", "tumor_001.tif"):
        shutil.copy(slides / name, folder)
    return folder


def test_bad_slides_are_listed_and_cost_no_other(few, tmp_path, tiny_encoder):
    write_slide(few / "normal_002.tif", np.full((600, 600, 3), 244, dtype=np.uint8))
    (few / "normal_003.tif").write_text("no slide")
    content = (few / "tumor_001.tif").read_bytes()
    (few / "tumor_002.tif").write_bytes(content[: len(content) // 2])
    shutil.copy(few / "normal_001.tif", few / "patient_7.tif")
    write_slide(few / "test_001.tif", np.zeros((300, 300, 3), dtype=np.uint8), mpp=2.0)
    (few / "normal_004.tif").touch()
    folder = Prepared(ready(few, tmp_path / "to"))
    assert [item.id for item in folder.items] == ["normal_001", "tumor_001"]
    assert folder.failed.keys() == {"normal_002", "normal_003", "normal_004", "patient_7", "test_001", "tumor_002"}
    assert folder.failed["normal_002"] == "normal_002.tif shows no tissue"
    assert folder.failed["normal_003"] == "normal_003.tif is no slide that OpenSlide can read"
    assert folder.failed["patient_7"] == "'patient_7' is not the name of a slide of Camelyon16"
    assert folder.failed["test_001"].startswith("its finest level has 2 µm a pixel")
    assert folder.failed["tumor_002"].startswith("tumor_002.tif is ")


def test_a_folder_without_one_good_slide_is_refused(tmp_path, tiny_encoder):
    (tmp_path / "patient.tif").write_text("")
    with pytest.raises(DatasetError, match=r"none of the 1 items .* not the name of a slide"):
        ready(tmp_path, tmp_path / "to")


def test_what_was_done_before_a_kill_is_not_done_again(few, tmp_path, tiny_encoder, monkeypatch):
    # The name of the module is also that of its function.
    module = sys.modules[prepare.__module__]
    features_of, asked = module.features_of, []

    def until_killed(path, *args):
        asked.append(path.stem)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return features_of(path, *args)

    monkeypatch.setattr(module, "features_of", until_killed)
    with pytest.raises(KeyboardInterrupt):
        ready(few, tmp_path / "to")
    assert not (tmp_path / "to" / "manifest.json").exists()
    folder = Prepared(ready(few, tmp_path / "to"))
    assert [item.id for item in folder.items] == ["normal_001", "tumor_001"]
    assert asked == ["normal_001", "tumor_001", "tumor_001"]


def test_outlines_may_lie_elsewhere_and_bring_their_slide_alone_anew(few, slides, tmp_path, tiny_encoder):
    folder = Prepared(ready(few, tmp_path / "to"))
    assert "tumour_tiles" not in folder.items[1].facts
    written = (tmp_path / "to" / "items" / "normal_001" / "features.npy").stat().st_mtime_ns
    folder = Prepared(ready(few, tmp_path / "to", annotations=slides / "annotations"))
    assert folder.items[1].facts["tumour_tiles"] >= 1
    assert (tmp_path / "to" / "items" / "normal_001" / "features.npy").stat().st_mtime_ns == written


def test_features_of_two_encoders_are_not_mixed(few, tmp_path, tiny_encoder):
    ready(few, tmp_path / "to")
    torch.save(load_encoder("resnet50", "random")._network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(DatasetError, match=r"prepared in another way \(weights: 'random, seed 0', not '[0-9a-f]{64}'"):
        ready(few, tmp_path / "to", weights=tmp_path / "w.pth")


def test_prepared_features_are_taken_whatever_made_them(prepared, tmp_path):
    # Without a look at any weights: the network of today's encoder would not even load.
    assert ensure_prepared(prepared) == prepared
    manifest = json.loads((prepared / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"dataset": "fed_ixi"}))
    with pytest.raises(DatasetError, match="not of prepared fed_camelyon16 data but of fed_ixi"):
        ensure_prepared(tmp_path)
    manifest["parameters"]["format"] = 0
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match="by another version of Polyclinic"):
        ensure_prepared(tmp_path)


def test_raw_slides_are_prepared_beside_once(few, tiny_encoder):
    first = ensure_prepared(few, weights="random", show_progress=False)
    assert first == few.parent / "raw-prepared"
    written = (first / "manifest.json").stat().st_mtime_ns
    assert ensure_prepared(few, weights="random", show_progress=False) == first
    assert (first / "manifest.json").stat().st_mtime_ns == written


def test_without_data_it_is_said_where_they_are(tmp_path):
    for path in (None, tmp_path / "nothing"):
        with pytest.raises(DatasetError) as caught:
            ensure_prepared(path)
        assert "polyclinic dataset mock fed_camelyon16" in str(caught.value)


def test_slides_that_are_not_there_cost_no_download_of_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[prepare.__module__], "load_encoder", lambda *args: pytest.fail("asked"))
    with pytest.raises(DatasetError, match="holds no slide"):
        ensure_prepared(tmp_path)


def test_real_slides_of_another_format(shared, tmp_path, tiny_encoder):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "tumor_010.svs").symlink_to(shared / "data" / "wsi" / "CMU-1-Small-Region.svs")
    (raw / "normal_001.svs").symlink_to(shared / "data" / "wsi" / "TCGA-CR-7395-01A-01-TS1.svs")
    (raw / "normal_002.tiff").symlink_to(shared / "data" / "wsi" / "boxes.tiff")
    (raw / "normal_003.svs").symlink_to(shared / "data" / "wsi" / "small.svs")
    folder = Prepared(ready(raw, tmp_path / "to", annotations=shared / "data" / "camelyon16_annotations"))
    assert {item.id: item.facts["num_tiles"] > 20 for item in folder.items} == {"normal_001": True, "tumor_010": True}
    # These outlines are of another, larger slide and lie outside.
    assert folder.array("tumor_010", "tumour_fraction").sum() == 0
    assert folder.failed["normal_002"].startswith("its finest level has 352.778 µm a pixel")
    assert folder.failed["normal_003"] == "normal_003.svs shows no tissue"


def test_features_that_flamby_made_are_taken_as_they_are(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=(n, 768)).astype(np.float32) for name, n in (("Tumor_001", 3), ("test_114", 5))}
    for name, features in given.items():
        np.save(raw / f"{name}.tif.npy", features)
    np.save(raw / "normal_086.tif.npy", features)
    np.save(raw / "normal_001.tif.npy", np.zeros((2, 5), dtype=np.float32))
    np.save(raw / "normal_002.tif.npy", np.zeros((0, 768), dtype=np.float32))
    np.save(raw / "normal_003.tif.npy", np.full((1, 768), np.nan, dtype=np.float32))
    np.save(raw / "normal_004.tif.npy", np.zeros(768))
    np.save(raw / "patient.tif.npy", features)
    (raw / "tumor_002.tif.npy").write_bytes((raw / "test_114.tif.npy").read_bytes()[:500])
    # The first by name decides how many features a tile has.
    (raw / "normal_001.tif.npy").rename(raw / "tumor_111.tif.npy")
    np.save(raw / "normal_001.tif.npy", rng.normal(size=(1, 768)).astype(np.float32))
    folder = Prepared(prepare(raw, tmp_path / "to", show_progress=False))
    assert [item.id for item in folder.items] == ["normal_001", "test_114", "tumor_001"]
    np.testing.assert_array_equal(folder.array("tumor_001", "features"), given["Tumor_001"])
    assert folder.parameters == {"format": 1, "encoder": "given", "dimension": 768}
    assert {name: why.partition(": ")[0] for name, why in folder.failed.items()} == {
        "normal_002": "normal_002.tif.npy has no tile",
        "normal_003": "normal_003.tif.npy has features that are not finite",
        "normal_004": "normal_004.tif.npy is no array of features",
        "patient": "'patient' is not the name of a slide of Camelyon16",
        "tumor_002": "tumor_002.tif.npy is no array of features",
        "tumor_111": "tumor_111.tif.npy has 5 features a tile, others have 768",
    }
    data = FedCamelyon16(center=1, train=False, data_path=tmp_path / "to", flamby_compatible=True)
    assert (data.slides, data.labels, data[0][0].shape) == (["test_114"], [0], (5, 768))
    assert FedCamelyon16(center=1, train=False, data_path=tmp_path / "to").labels == [1]
