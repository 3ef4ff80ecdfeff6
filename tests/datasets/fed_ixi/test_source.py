from __future__ import annotations

import shutil
import zipfile

import pytest

from polyclinic.datasets.fed_ixi import CARD, download
from polyclinic.datasets.fed_ixi import source as source_module
from polyclinic.errors import ConfigError, DownloadError


@pytest.fixture
def packed(raw, tmp_path):
    return tmp_path / shutil.make_archive(str(tmp_path / "data"), "zip", raw)


def test_nothing_is_downloaded_without_the_licence(tmp_path):
    with pytest.raises(ConfigError, match=r"CC BY-SA 3\.0"):
        download(tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_zip_without_all_subjects_is_refused(packed):
    with pytest.raises(DownloadError, match="holds 15 subjects, expected 566") as caught:
        source_module.check(packed)
    assert CARD.source_url in str(caught.value)


def test_damage_in_a_zip_is_found(packed):
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 0xFF
    packed.write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged"):
        source_module.check(packed)
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(DownloadError, match="is not a whole zip"):
        source_module.check(packed)


def test_damage_that_cannot_be_unpacked_is_found(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    content[40:60] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged: Error -3"):
        source_module.check(path)


def test_a_whole_zip_of_other_bytes_passes_with_a_warning(packed, monkeypatch):
    monkeypatch.setattr(source_module, "_NUM_SUBJECTS", 15)
    with pytest.warns(UserWarning, match="may have been packed anew"):
        source_module.check(packed)


def test_the_second_address_is_tried_when_the_first_is_gone(packed, monkeypatch, tmp_path):
    asked = []

    def fetch(file, folder, **options):
        asked.append(file.url)
        if len(asked) == 1:
            raise DownloadError("gone")
        return packed

    monkeypatch.setattr(source_module, "fetch", fetch)
    monkeypatch.setattr(source_module, "_NUM_SUBJECTS", 15)
    with pytest.warns(UserWarning, match="packed anew"):
        assert download(tmp_path, accept_license=True) == packed
    assert asked == list(source_module._ADDRESSES)

    monkeypatch.setattr(source_module, "_ADDRESSES", source_module._ADDRESSES[:1])
    asked.clear()
    with pytest.raises(DownloadError, match="gone"):
        download(tmp_path, accept_license=True)
