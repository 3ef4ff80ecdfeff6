"""Downloads from a local server that misbehaves on purpose, one behaviour a request."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from filelock import FileLock

from polyclinic.datasets.download import RemoteFile, fetch, require_license
from polyclinic.datasets.fed_ixi.source import CARD
from polyclinic.errors import ConfigError, DownloadError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = CONTENT[::-1]


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``script`` says what each request gets, "ok" when it is at its end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.script: list[str] = []
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/data.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        what = self.server.script.pop(0) if self.server.script else "ok"
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        if what.isdecimal():
            self.send_error(int(what))
            return
        content = self.server.content
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = 0
        same = self.headers.get("If-Range", etag) == etag
        if wanted and what != "no-ranges" and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            shown = 0 if what == "wrong-range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        self.end_headers()
        # A dropped connection: half of what is left, then the end.
        self.wfile.write(body[: len(body) // 2] if what == "drop" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, **more: str) -> RemoteFile:
    more.setdefault("sha256", hashlib.sha256(CONTENT).hexdigest())
    return RemoteFile(url=server.url, name="data.bin", by_hand="By hand: ask the librarian.", **more)


def get(server: Server, folder, **options):
    return fetch(remote(server), folder, backoff_s=0.0, show_progress=False, **options)


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(server, tmp_path):
    path = get(server, tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["data.bin"]


def test_a_connection_that_drops_is_continued_where_it_broke(server, tmp_path):
    server.script = ["drop", "drop", "drop"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    n = len(CONTENT)
    assert server.ranges == [None, f"bytes={n // 2}-", f"bytes={n * 3 // 4}-", f"bytes={n * 7 // 8}-"]


def test_a_later_program_continues_the_part_of_an_earlier_one(server, tmp_path):
    server.script = ["drop"]
    with pytest.raises(DownloadError, match="it ended after 524288 of 1048576 bytes"):
        get(server, tmp_path, attempts=1)
    assert (tmp_path / "data.bin.part").stat().st_size == len(CONTENT) // 2
    assert not (tmp_path / "data.bin").exists()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={len(CONTENT) // 2}-"


def test_a_file_that_changed_on_the_server_is_fetched_from_its_start(server, tmp_path):
    server.content, server.script = OTHER, ["drop"]
    with pytest.raises(DownloadError):
        get(server, tmp_path, attempts=1)
    server.content = CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2


@pytest.mark.parametrize("behaviour", ["no-ranges", "wrong-range"])
def test_a_server_that_does_not_continue_properly_costs_only_time(server, tmp_path, behaviour):
    server.script = ["drop", behaviour]
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("rest", [b"x" * 10, b"x" * (len(CONTENT) + 5)])
def test_a_part_that_is_not_of_this_file_is_given_up(server, tmp_path, rest):
    (tmp_path / "data.bin.part").write_bytes(rest)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_lacks_only_its_name_becomes_the_file(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_wrong_bytes_never_get_the_files_name(server, tmp_path):
    server.content = OTHER
    with pytest.raises(DownloadError, match="is not the expected file: its sha256 is") as caught:
        get(server, tmp_path)
    assert "By hand: ask the librarian." in str(caught.value)
    assert not (tmp_path / "data.bin").exists()
    assert not (tmp_path / "data.bin.part").exists()


def test_md5_is_checked_too(server, tmp_path):
    with pytest.raises(DownloadError, match="its md5 is"):
        fetch(remote(server, md5="0" * 32), tmp_path, show_progress=False)


def test_a_file_that_is_there_is_verified_and_not_fetched(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.ranges == []
    (tmp_path / "data.bin").write_bytes(OTHER)
    with pytest.raises(DownloadError, match="is not the expected file"):
        get(server, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == OTHER


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_a_refusal_is_not_tried_again(server, tmp_path, code):
    server.script = [code]
    with pytest.raises(DownloadError, match=f"cannot be downloaded: the server answers {code}") as caught:
        get(server, tmp_path)
    assert len(server.ranges) == 1
    assert "By hand" in str(caught.value)


def test_trouble_at_the_server_is_tried_again(server, tmp_path):
    server.script = ["503", "429", "500"]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_trouble_without_end_is_given_up(server, tmp_path):
    server.script = ["503"] * 10
    with pytest.raises(DownloadError, match=r"answers 503 .*\(3 attempts\)"):
        get(server, tmp_path, attempts=3)
    assert len(server.ranges) == 3


def test_no_server_at_all_says_what_to_do(tmp_path):
    with Server() as closed:
        url = closed.url
    with pytest.raises(DownloadError, match=r"the connection failed: .*refused") as caught:
        fetch(RemoteFile(url=url, name="x"), tmp_path, attempts=2, backoff_s=0.0, show_progress=False)
    assert "try again later" in str(caught.value)


def test_two_programs_do_not_write_one_file(server, tmp_path):
    with FileLock(tmp_path / ".data.bin.lock"), pytest.raises(DownloadError, match="another program is downloading"):
        get(server, tmp_path)


def test_a_folder_that_is_a_file_is_said(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be written"):
        get(server, tmp_path / "file")


def test_the_licence_is_shown_and_must_be_accepted():
    with pytest.raises(ConfigError, match=r"CC BY-SA 3\.0") as caught:
        require_license(CARD, accepted=False)
    assert CARD.license_url in str(caught.value)
    assert "comes under this licence too" in str(caught.value)
    assert "--accept-license" in str(caught.value)
    require_license(CARD, accepted=True)


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(DownloadError, match=r"downloading data\.bin takes about 0\.00105 GB in .*, where 0\.00105 GB"):
        fetch(remote(server), tmp_path / "to", attempts=3, show_progress=False)
    assert not [path for path in (tmp_path / "to").iterdir() if path.stat().st_size]
    assert len(server.ranges) == 1  # asking again would not make room
    # What is there already needs no room.
    (tmp_path / "to" / "data.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(remote(server), tmp_path / "to", show_progress=False).read_bytes() == CONTENT
