"""Downloads from a local server in place of the publisher's host and of GitHub."""

from __future__ import annotations

import gzip
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.datasets.fed_kits19 import download
from polyclinic.datasets.fed_kits19 import source as module
from polyclinic.datasets.fed_kits19.cases import find_cases
from polyclinic.errors import ConfigError, DownloadError

CONTENT = gzip.compress(bytes(range(256)) * 500, mtime=0)
quiet = {"show_progress": False, "backoff_s": 0.0}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        script, seen = self.server.script, self.server.seen
        seen.append((self.path, self.headers.get("Range")))
        what = script.get(self.path, "ok")
        if what == "404":
            self.send_error(404)
            return
        body = (
            CONTENT[: len(CONTENT) // 2] + b"damaged" + CONTENT[len(CONTENT) // 2 + 7 :]
            if what == "damaged"
            else CONTENT
        )
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if what == "drop":
            script[self.path] = "ok"
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.script, running.seen = {}, []
        monkeypatch.setattr(module, "_BYTES_A_CASE", 10_000)
        for name in ("_IMAGES", "_LABELS"):
            monkeypatch.setattr(module, name, re.sub("https://[^/]+", f"http://127.0.0.1:{running.server_port}", getattr(module, name)))  # fmt: skip  # noqa: E501
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


IMAGE_3 = "/master_00003.nii.gz"
LABEL_3 = "/neheller/kits19/master/data/case_00003/segmentation.nii.gz"


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC BY-NC-SA 4\.0"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_all_96_cases_are_asked_for_by_their_published_addresses(server, tmp_path):
    path = download(tmp_path, accept_license=True, **quiet)
    assert len(server.seen) == len(set(server.seen)) == 192
    assert {(IMAGE_3, None), (LABEL_3, None)} <= set(server.seen)
    cases = find_cases(path)
    assert len(cases) == 96
    assert all(case.image.read_bytes() == case.label.read_bytes() == CONTENT for case in cases)


def test_a_broken_connection_is_continued_and_what_is_there_is_not_fetched_again(server, tmp_path):
    server.script[IMAGE_3] = "drop"
    for _ in range(2):
        path = download(tmp_path, accept_license=True, cases=[3], **quiet)
    half = len(CONTENT) // 2
    assert sorted(server.seen, key=str) == sorted(
        [(IMAGE_3, None), (IMAGE_3, f"bytes={half}-"), (LABEL_3, None)], key=str
    )
    (case,) = find_cases(path)
    assert case.image.read_bytes() == CONTENT


@pytest.mark.parametrize(("what", "why"), [("404", "the server answers 404"), ("damaged", "has sent a damaged file")])
def test_a_file_that_cannot_be_had_is_named_and_the_others_come(server, tmp_path, what, why):
    server.script[IMAGE_3] = what
    with pytest.raises(DownloadError, match=f"1 of 4 files could not be downloaded.*{why}") as caught:
        download(tmp_path, accept_license=True, cases=[3, 14], **quiet)
    assert "get_imaging" in str(caught.value)
    assert not (tmp_path / "data" / "case_00003" / "imaging.nii.gz").exists()
    assert (tmp_path / "data" / "case_00014" / "imaging.nii.gz").read_bytes() == CONTENT
    server.script.clear()
    download(tmp_path, accept_license=True, cases=[3, 14], **quiet)
    assert (tmp_path / "data" / "case_00003" / "imaging.nii.gz").read_bytes() == CONTENT


def test_a_disk_without_room_is_known_before_anything_is_fetched(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10**9))
    with pytest.raises(DownloadError, match=r"downloading 96 cases takes about 10\.6 GB in .*new, where 1 GB are free"):
        download(tmp_path / "new", accept_license=True, **quiet)
    assert not (tmp_path / "new").exists()


def test_some_cases_by_the_command_line(server, tmp_path):
    words = ["dataset", "download", "fed_kits19", "--to", str(tmp_path), "--accept-license", "--options"]
    result = CliRunner().invoke(app, [*words, '{"cases": [3, 21]}'])
    assert result.exit_code == 0, (result.output, result.exception)
    assert sorted(path.parent.name for path in tmp_path.rglob("imaging.nii.gz")) == ["case_00003", "case_00021"]
    for wrong, hint in (("case", "'cases'"), ("accept_license", "known"), ("timeout_s", "known")):
        caught = CliRunner().invoke(app, [*words, f'{{"{wrong}": []}}']).exception
        assert isinstance(caught, ConfigError)
        assert hint in str(caught)
