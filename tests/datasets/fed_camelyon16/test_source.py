from __future__ import annotations

import hashlib
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from polyclinic.datasets.fed_camelyon16 import download
from polyclinic.datasets.fed_camelyon16 import source as source_module
from polyclinic.errors import ConfigError, DatasetError, DownloadError

QUICK = {"accept_license": True, "show_progress": False, "attempts": 1}
NAMES = ("normal_001", "tumor_001", "test_001")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The organisers' folder with three slides, on a local server."""
    folder = tmp_path / "CAMELYON16"
    (folder / "images").mkdir(parents=True)
    lines = [f"{'0' * 32} *masks/tumor_001_mask.tif", f"{'1' * 32} *README.md"]
    for name in NAMES:
        content = name.encode() * 1000
        (folder / "images" / f"{name}.tif").write_bytes(content)
        lines.append(f"{hashlib.md5(content).hexdigest()} *images/{name}.tif")
    (folder / "checksums.md5").write_text("\n".join(lines))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(source_module, "_BYTES_A_SLIDE", 10_000)
    monkeypatch.setattr(source_module, "_ADDRESS", f"http://127.0.0.1:{server.server_port}/CAMELYON16")
    yield folder
    server.shutdown()
    server.server_close()


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC0 1\.0"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_disk_without_room_is_known_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=600 * 10**9))
    monkeypatch.setattr(source_module, "fetch", lambda *args, **options: pytest.fail("asked the server"))
    with pytest.raises(
        DownloadError, match=r"downloading 399 slides takes about 698 GB in .*new, where 600 GB are free"
    ):
        download(tmp_path / "new", **QUICK)
    assert not (tmp_path / "new").exists()
    # Slides that are there already take no more: 39 fewer are 630 GB, 57 fewer 598.5 GB.
    for number in range(1, 40):
        (tmp_path / f"tumor_{number:03}.tif").touch()
    with pytest.raises(DownloadError, match=r"downloading 360 slides takes about 630 GB"):
        download(tmp_path, **QUICK)
    for number in range(40, 58):
        (tmp_path / f"tumor_{number:03}.tif").touch()
    with pytest.raises(pytest.fail.Exception, match="asked the server"):
        download(tmp_path, **QUICK)


def test_chosen_slides_arrive_checked(bucket, tmp_path):
    to = download(tmp_path / "to", slides=["Tumor_001", "test_001"], **QUICK)
    assert sorted(path.name for path in to.glob("*.tif")) == ["test_001.tif", "tumor_001.tif"]
    assert (to / "tumor_001.tif").read_bytes() == b"tumor_001" * 1000
    # What is there is not fetched again.
    (bucket / "images" / "tumor_001.tif").unlink()
    download(to, slides=["tumor_001"], **QUICK)


def test_a_slide_that_was_damaged_on_the_way_is_refused_and_the_others_arrive(bucket, tmp_path):
    (bucket / "images" / "tumor_001.tif").write_bytes(b"other")
    with pytest.raises(
        DownloadError, match=r"1 of 3 slides could not be downloaded; tumor_001: .* its md5 is"
    ) as caught:
        download(tmp_path / "to", slides=NAMES, **QUICK)
    assert "https://camelyon17.grand-challenge.org/Data/" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "to").glob("*.tif")) == ["normal_001.tif", "test_001.tif"]


def test_a_slide_that_the_server_lacks_is_named(bucket, tmp_path):
    (bucket / "images" / "test_001.tif").unlink()
    with pytest.raises(DownloadError, match=r"test_001: .* the server answers 404"):
        download(tmp_path / "to", slides=NAMES, **QUICK)


def test_a_page_in_place_of_checksums_is_refused(bucket, tmp_path):
    (bucket / "checksums.md5").write_text("<html>please log in</html>")
    with pytest.raises(DownloadError, match="holds no checksums"):
        download(tmp_path / "to", slides=NAMES, **QUICK)
    assert not (tmp_path / "to" / "checksums.md5").exists()


def test_a_name_that_is_no_slide_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(DatasetError, match="'normal_086' is not the name of a slide"):
        download(tmp_path / "to", slides=["normal_086"], **QUICK)
    assert not (tmp_path / "to").exists()


def test_all_399_slides_are_asked_for(tmp_path, monkeypatch):
    asked = []

    def fetch(file, folder, **options):
        if file.name == "checksums.md5":
            folder.mkdir()
            (folder / file.name).write_text(f"{'a' * 32} *images/Normal_001.tif")
            return folder / file.name
        asked.append(file)
        return folder / file.name

    monkeypatch.setattr(source_module, "fetch", fetch)
    monkeypatch.setattr(source_module, "_BYTES_A_SLIDE", 1)
    download(tmp_path / "to", accept_license=True, show_progress=False)
    assert len({file.url for file in asked}) == 399
    by_name = {file.name: file for file in asked}
    assert by_name["normal_001.tif"].md5 == "a" * 32
    assert by_name["test_130.tif"].url.endswith(".amazonaws.com/CAMELYON16/images/test_130.tif")
