from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys

import pytest

from polyclinic.datasets.fed_isic2019 import FedIsic2019, ensure_prepared, prepare
from polyclinic.errors import DatasetError

small = {"shorter_side": 36, "show_progress": False}

KILLED = """
import os, signal, sys
from polyclinic.datasets.fed_isic2019 import prepare as function
import importlib
module = importlib.import_module("polyclinic.datasets.fed_isic2019.prepare")
real, done = module.prepare_image, []
def prepare_image(*args, **kwargs):
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(args)
    return real(*args, **kwargs)
module.prepare_image = prepare_image
function(sys.argv[1], sys.argv[2], workers=1, shorter_side=36, show_progress=False)
"""


def digests(folder):
    return {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("items/*/image.npy")}


def test_a_preparation_that_was_killed_goes_on_where_it_was(raw, prepared, tmp_path, monkeypatch):
    out = tmp_path / "out"
    process = subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    kept = len(digests(out))
    assert kept >= 3
    with pytest.raises(DatasetError, match="in another way"):
        prepare(raw, out, flamby_compatible=True, **small)
    module = sys.modules["polyclinic.datasets.fed_isic2019.prepare"]
    real, again = module.prepare_image, []
    monkeypatch.setattr(module, "prepare_image", lambda *args, **kwargs: again.append(1) or real(*args, **kwargs))
    prepare(raw, out, **small)
    assert 30 - kept <= len(again) < 30
    assert digests(out) == digests(prepared)


def test_the_prepared_folder_says_what_it_is(raw, prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["parameters"] == {"format": 1, "shorter_side": 36, "colours": "shades of gray 6, clipped"}
    assert {"numpy", "pillow", "polyclinic", "python"} == set(manifest["versions"])
    assert str(raw) not in json.dumps(manifest)
    assert len(digests(prepared)) == 30


def test_raw_data_are_prepared_beside_them_once(raw, tmp_path):
    mine = shutil.copytree(raw, tmp_path / "raw")
    folder = ensure_prepared(mine, **small)
    assert folder == tmp_path / "raw-prepared-36"
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert ensure_prepared(mine, **small) == folder
    assert ensure_prepared(folder, **small) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert len(FedIsic2019(data_path=mine, shorter_side=36)) == 4


def test_raw_data_that_changed_are_prepared_anew(raw, tmp_path):
    mine = shutil.copytree(raw, tmp_path / "raw")
    first = digests(ensure_prepared(mine, **small))
    one, two = sorted((mine / "ISIC_2019_Training_Input").iterdir())[:2]
    one.write_bytes(two.read_bytes())
    changed = digests(ensure_prepared(mine, **small))
    assert {name for name in first if changed[name] != first[name]} == {one.stem}
