import stat

from polyclinic.messages.replies import Failure
from polyclinic.node import failures_file
from polyclinic.node.failures_file import FILE, note_failure


def failure(what, reference="12ab34cd"):
    return Failure(
        request_id="r", node_id="n", code="training", stage="train", what=what, reference=reference, traceback="line 1"
    )


def test_errors_are_added_for_the_nodes_user_alone(tmp_path):
    note_failure(tmp_path, failure("age 99"))
    note_failure(tmp_path, failure("\x1b[2Jage 98", reference=""))
    text = (tmp_path / FILE).read_text()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert "reference 12ab34cd, request r\ntraining at train: age 99\nline 1\n\n== " in text
    assert "reference none" in text
    assert "?[2Jage 98" in text


def test_the_file_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(failures_file, "_MAX_BYTES", 300)
    for number in range(20):
        note_failure(tmp_path, failure(f"age {number}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, f"{FILE}.1"]
    assert all(path.stat().st_size < 600 for path in tmp_path.iterdir())
    assert "age 19" in (tmp_path / FILE).read_text()
