import os

from polyclinic.node.dataset_kinds.fingerprint import changed_files, files_below, fingerprint


def make(folder, **texts):
    for name, text in texts.items():
        (folder / name).write_text(text)
    return sorted(folder / name for name in texts)


def touch(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def test_a_touched_file_is_not_changed_but_an_edited_one_is(tmp_path):
    files = make(tmp_path, a="one", b="two")
    before = fingerprint(tmp_path, files)
    assert changed_files(tmp_path, files, before) is None
    touch(files[0])
    assert changed_files(tmp_path, files, before) is None
    files[0].write_text("eno")
    touch(files[0])
    assert "has changed" in changed_files(tmp_path, files, before)


def test_without_contents_a_time_counts(tmp_path):
    files = make(tmp_path, a="one")
    before = fingerprint(tmp_path, files, contents=False)
    assert changed_files(tmp_path, files, before) is None
    touch(files[0])
    assert "has changed" in changed_files(tmp_path, files, before)


def test_unchanged_files_are_not_read(tmp_path, monkeypatch):
    files = make(tmp_path, a="one")
    before = fingerprint(tmp_path, files)
    monkeypatch.setattr("polyclinic.node.dataset_kinds.fingerprint._content_digest", None)
    assert changed_files(tmp_path, files, before) is None


def test_what_vanished_was_added_renamed_or_set_otherwise_is_told_without_a_path(tmp_path):
    files = make(tmp_path, a="one", b="two")
    before = fingerprint(tmp_path, files, settings="x")
    told = [
        changed_files(tmp_path, files, before, settings="y"),
        changed_files(tmp_path, files[:1], before, settings="x"),
    ]
    files[1].unlink()
    told.append(changed_files(tmp_path, files, before, settings="x"))
    (tmp_path / "c").write_text("two")
    told.append(changed_files(tmp_path, [files[0], tmp_path / "c"], before, settings="x"))
    for sentence, word in zip(told, ["settings", "2 files", "vanished", "changed"], strict=True):
        assert word in sentence
        assert str(tmp_path) not in sentence


def test_files_below_are_sorted_bounded_and_not_hidden(tmp_path):
    (tmp_path / "z").mkdir()
    make(tmp_path, b="", a="", **{".hidden": ""})
    make(tmp_path / "z", c="")
    assert [f.name for f in files_below(tmp_path, limit=9)] == ["a", "b", "c"]
    assert [f.name for f in files_below(tmp_path, limit=2)] == ["a", "b"]
    assert files_below(tmp_path / "gone", limit=2) == (tmp_path / "gone",)
