from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from polyclinic.datasets.fed_isic2019 import CARD, download
from polyclinic.datasets.fed_isic2019 import source as source_module
from polyclinic.datasets.fed_isic2019.raw import open_raw
from polyclinic.errors import ConfigError, DownloadError


@pytest.fixture
def server(raw, tmp_path, monkeypatch):
    """The publisher's files, made up, on a server of this machine."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.make_archive(str(folder / "ISIC_2019_Training_Input"), "zip", raw, "ISIC_2019_Training_Input")
    for name in ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"):
        shutil.copy(raw / name, folder)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}/"
        files = tuple(
            source_module.RemoteFile(url=address + file.name, name=file.name, by_hand=file.by_hand)
            for file in source_module.FILES
        )
        monkeypatch.setattr(source_module, "FILES", files)
        monkeypatch.setattr(source_module, "NUM_IMAGES", 30)
        yield folder
        running.shutdown()


quick = {"accept_license": True, "backoff_s": 0.01, "show_progress": False}


def test_the_addresses_are_the_publishers():
    assert [file.url for file in source_module.FILES] == [
        "https://isic-challenge-data.s3.amazonaws.com/2019/ISIC_2019_Training_GroundTruth.csv",
        "https://isic-challenge-data.s3.amazonaws.com/2019/ISIC_2019_Training_Metadata.csv",
        "https://isic-challenge-data.s3.amazonaws.com/2019/ISIC_2019_Training_Input.zip",
    ]


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC BY-NC 4\.0.*HAM10000"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_what_is_downloaded_can_be_prepared(server, tmp_path):
    folder = download(tmp_path / "to", **quick)
    raw = open_raw(folder)
    assert len(raw.files) == len(raw.targets) == len(raw.lesions) == 30


def test_a_download_goes_on_where_it_was(server, tmp_path):
    name = "ISIC_2019_Training_Input.zip"
    content = (server / name).read_bytes()
    (tmp_path / "to").mkdir()
    # This server knows no ranges, so that the file comes whole again; a part that lies there does no harm.
    (tmp_path / "to" / f"{name}.part").write_bytes(content[:1000])
    download(tmp_path / "to", **quick)
    assert (tmp_path / "to" / name).read_bytes() == content


def test_a_file_that_is_gone_is_named(server, tmp_path):
    (server / "ISIC_2019_Training_Metadata.csv").unlink()
    with pytest.raises(DownloadError, match=r"Metadata\.csv cannot be downloaded.*404") as caught:
        download(tmp_path / "to", **quick)
    assert CARD.source_url in str(caught.value)


def test_damage_and_missing_images_are_found(server, tmp_path, monkeypatch):
    path = server / "ISIC_2019_Training_Input.zip"
    monkeypatch.setattr(source_module, "NUM_IMAGES", 25_331)
    with pytest.raises(DownloadError, match="holds 30 images, expected 25331"):
        download(tmp_path / "few", **quick)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged"):
        download(tmp_path / "damaged", **quick)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DownloadError, match="is not a whole zip"):
        download(tmp_path / "cut", **quick)
