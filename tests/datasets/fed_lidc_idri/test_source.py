from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest

from polyclinic.datasets.fed_lidc_idri import CARD, download
from polyclinic.datasets.fed_lidc_idri import source as source_module
from polyclinic.datasets.fed_lidc_idri.raw import find_scans
from polyclinic.errors import ConfigError, DownloadError

QUICK = {"backoff_s": 0.01, "timeout_s": 5.0, "show_progress": False}


class Archive(ThreadingHTTPServer):
    """Answers as the archive does: a list of series, one zip a series made on request, a zip of XML files."""

    def __init__(self, raw) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        folders = sorted(path.parent for path in raw.rglob("1-001.dcm"))[:3]
        self.zips = {folder.name: packed(sorted(folder.glob("*.dcm"))) for folder in folders}
        annotations = io.BytesIO()
        with zipfile.ZipFile(annotations, "w") as archive:
            for path in raw.rglob("*.xml"):
                archive.write(path, f"tcia-lidc-xml/{path.name}")
        self.annotations = annotations.getvalue()
        self.listed: object = [{"SeriesInstanceUID": uid, "ImageCount": 20, "Modality": "CT"} for uid in self.zips]
        self.asked: list[str] = []
        self.broken: dict[str, list[str]] = {}  # path or UID -> what goes wrong the next times


def packed(files, *, spoil=False):
    content = io.BytesIO()
    lines = ["SOPInstanceUID,Filename,MD5Hash"[15:]]
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            data = path.read_bytes()
            lines.append(f"{path.name},{hashlib.md5(data).hexdigest()}")
            archive.writestr(path.name, data[:-1] + b"!" if spoil else data)
        archive.writestr("md5hashes.csv", "\n".join(lines))
        archive.writestr("LICENSE", "CC BY 3.0")
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        uid = parse_qs(parts.query).get("SeriesInstanceUID", [""])[0]
        name = uid or parts.path.strip("/").split("/")[-1]
        self.server.asked.append(name)
        trouble = self.server.broken.get(name, [])
        what = trouble.pop(0) if trouble else ""
        if what.isdecimal():
            self.send_error(int(what))
            return
        if uid:
            content = self.server.zips[uid]
        elif name == "getSeries":
            content = json.dumps(self.server.listed).encode()
        else:
            content = self.server.annotations
        # No length, as the archive sends none: the end of the connection is the end of the file.
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if what == "cut" else content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def archive(raw, monkeypatch) -> Iterator[Archive]:
    with Archive(raw) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        addresses = {
            "series list": (f"{running.url}/getSeries?Collection=LIDC-IDRI",),
            "series": (
                f"{running.url}/gone/getImage?SeriesInstanceUID={{uid}}",
                f"{running.url}/getImage?SeriesInstanceUID={{uid}}",
            ),
            "annotations": (f"{running.url}/LIDC-XML-only.zip",),
        }
        monkeypatch.setattr(source_module, "ADDRESSES", addresses)
        monkeypatch.setattr(source_module, "_REPORTED_SHA256", hashlib.sha256(running.annotations).hexdigest())
        yield running
        running.shutdown()
        thread.join()


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC BY 3\.0"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_series_and_annotations_arrive_as_raw_data(archive, raw, tmp_path):
    to = download(tmp_path, accept_license=True, series=list(archive.zips), **QUICK)
    scans = find_scans(to)
    assert [scan.uid for scan in scans] == sorted(archive.zips)
    assert all(len(scan.files) == 20 and not scan.problem for scan in scans)
    original = next(raw.rglob(f"{scans[0].uid}/1-004.dcm"))
    assert (to / "LIDC-IDRI" / scans[0].uid / "1-004.dcm").read_bytes() == original.read_bytes()
    assert not list(to.rglob("*.tmp"))
    assert [path.name for path in to.glob("*.zip")] == ["LIDC-XML-only.zip"]


def test_a_disk_without_room_is_known_before_any_series_is_fetched(archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    # Three series of 20 slices of half a megabyte take 31 MB.
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=30 * 10**6))
    with pytest.raises(DownloadError, match=r"downloading 3 series takes about 0\.0315 GB"):
        download(tmp_path, accept_license=True, series=list(archive.zips), **QUICK)
    assert not set(archive.asked) & set(archive.zips)


def test_a_second_call_fetches_only_what_is_missing(archive, tmp_path):
    uids = list(archive.zips)
    archive.broken[uids[1]] = ["404", "404"]  # at either address
    with pytest.raises(DownloadError, match=rf"1 of 3 series could not be downloaded; {uids[1]}") as caught:
        download(tmp_path, accept_license=True, series=uids, **QUICK)
    assert CARD.source_url in caught.value.to_do
    archive.asked.clear()
    download(tmp_path, accept_license=True, series=uids, **QUICK)
    assert archive.asked == [uids[1]]
    assert len(list((tmp_path / "LIDC-IDRI").iterdir())) == 3


def test_the_second_address_is_tried(archive, tmp_path):
    uid = next(iter(archive.zips))
    archive.broken[uid] = ["404"]
    download(tmp_path, accept_license=True, series=[uid], **QUICK)
    assert archive.asked.count(uid) == 2


def test_a_zip_that_was_cut_off_is_not_kept(archive, tmp_path):
    uid = next(iter(archive.zips))
    archive.broken[uid] = ["cut"]
    with pytest.raises(DownloadError, match="is not a whole zip"):
        download(tmp_path, accept_license=True, series=[uid], **QUICK)
    assert not (tmp_path / "LIDC-IDRI" / uid).exists()
    download(tmp_path, accept_license=True, series=[uid], **QUICK)
    assert len(list((tmp_path / "LIDC-IDRI" / uid).glob("*.dcm"))) == 20


def test_slices_that_are_missing_or_damaged_are_found(archive, raw, tmp_path):
    uid = next(iter(archive.zips))
    files = sorted(next(raw.rglob(uid)).glob("*.dcm"))
    archive.zips[uid] = packed(files[:19])
    with pytest.raises(DownloadError, match="holds 19 slices, the archive lists 20"):
        download(tmp_path, accept_license=True, series=[uid], **QUICK)
    archive.zips[uid] = packed(files, spoil=True)
    with pytest.raises(DownloadError, match=r"its file 1-001\.dcm is damaged"):
        download(tmp_path, accept_license=True, series=[uid], **QUICK)
    assert not (tmp_path / "LIDC-IDRI" / uid).exists()


def test_a_series_that_the_archive_does_not_list_is_told(archive, tmp_path):
    with pytest.raises(DownloadError, match=r"lacks 1 series, the first is 1\.2\.3"):
        download(tmp_path, accept_license=True, series=["1.2.3"], **QUICK)
    (tmp_path / "series.json").unlink()
    archive.listed = {"error": "down for maintenance"}
    with pytest.raises(DownloadError, match="list of series cannot be understood"):
        download(tmp_path, accept_license=True, **QUICK)
    # What cannot be understood is not kept either.
    archive.listed = []
    with pytest.raises(DownloadError, match="lacks 1018 series"):
        download(tmp_path, accept_license=True, **QUICK)


def test_annotations_of_other_bytes_pass_with_a_warning(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "_REPORTED_SHA256", "0" * 64)
    with pytest.warns(UserWarning, match="may have been packed anew"):
        download(tmp_path, accept_license=True, series=[], **QUICK)
    assert len(list((tmp_path / "LIDC-XML-only").rglob("*.xml"))) == 8


def test_annotations_that_were_cut_off_are_not_kept(archive, tmp_path):
    archive.broken["LIDC-XML-only.zip"] = ["cut"]
    with pytest.raises(DownloadError, match="is not a whole zip"):
        download(tmp_path, accept_license=True, series=[], **QUICK)
    download(tmp_path, accept_license=True, series=[], **QUICK)
    assert (tmp_path / "LIDC-XML-only").is_dir()


def test_addresses_are_of_the_archive_and_secure():
    addresses = [address for kind in source_module.ADDRESSES.values() for address in kind]
    assert all(urlsplit(address).scheme == "https" for address in addresses)
    assert all(urlsplit(address).hostname.endswith("cancerimagingarchive.net") for address in addresses)


def test_the_mock_slices_are_valid_dicom(raw):
    header = pydicom.dcmread(next(raw.rglob("*.dcm")))
    assert header.pixel_array.shape == (48, 48)
    assert all(len(str(header[name].value)) <= 64 for name in ("SOPInstanceUID", "StudyInstanceUID"))
