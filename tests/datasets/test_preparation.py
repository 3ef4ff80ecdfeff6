from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.datasets.preparation import Item, Preparation, Prepared, ensure, run_preparation
from polyclinic.datasets.prepared import file_name, read_manifest, require_same_parameters
from polyclinic.errors import ConfigError, DatasetError

quiet = {"show_progress": False}
both_forms = pytest.mark.parametrize("stacked", [False, True])


class Counting:
    """Arrays that follow from the item alone; remembers for which items it was asked."""

    def __init__(self, bad=()):
        self.asked = []
        self.bad = bad

    def __call__(self, item):
        self.asked.append(item.id)
        if item.id in self.bad:
            raise DatasetError(f"{item.id} is damaged", to_do="mend it")
        rng = np.random.default_rng(int(hashlib.sha256(item.id.encode()).hexdigest()[:8], 16))
        return {"image": rng.random((4, 5)), "label": rng.integers(0, 9, 3, dtype=np.uint8)}, {"spacing": [1, 2.5]}


def some(num=6, *, work=None, **changes):
    items = [Item(f"scan-{k}", (100 + k, 7), {"center": k % 2}) for k in range(num)]
    return replace(Preparation("fed_x", {"format": 1, "spacing": (1, 2)}, items, work or Counting()), **changes)


def arrays_of(folder):
    data = Prepared(folder)
    return {(item.id, name): np.array(data.array(item.id, name)) for item in data.items for name in ("image", "label")}


def assert_same(folder, other):
    one, two = arrays_of(folder), arrays_of(other)
    assert one.keys() == two.keys()
    assert all((one[key] == two[key]).all() for key in one)


@both_forms
def test_what_is_prepared_is_what_the_work_made(tmp_path, stacked):
    work = Counting()
    assert run_preparation(some(work=work), tmp_path / "out", stacked=stacked, **quiet) == tmp_path / "out"
    data = Prepared(tmp_path / "out", dataset="fed_x", parameters={"format": 1, "spacing": [1, 2]})
    assert [item.id for item in data.items] == [f"scan-{k}" for k in range(6)]
    assert data.items[3].facts == {"center": 1, "spacing": [1, 2.5]}
    assert data.failed == {}
    for item in some().items:
        for name, expected in work(item)[0].items():
            found = data.array(item.id, name)
            assert (found == expected).all()
            assert found.dtype == expected.dtype
            assert isinstance(found, np.memmap)
            with pytest.raises(ValueError, match="read-only"):
                found[0] = 0


@both_forms
def test_the_manifest_names_parameters_versions_and_digests(tmp_path, stacked):
    folder = run_preparation(some(libraries=("numpy", "filelock")), tmp_path / "out", stacked=stacked, **quiet)
    manifest = read_manifest(folder)
    assert manifest["parameters"] == {"format": 1, "spacing": [1, 2]}
    assert set(manifest["versions"]) == {"numpy", "filelock", "polyclinic", "python"}
    files = (
        {folder / f"{name}.npy": array for name, array in manifest["stacked"].items()}
        if stacked
        else {
            folder / "items" / item["id"] / f"{name}.npy": array
            for item in manifest["items"]
            for name, array in item["arrays"].items()
        }
    )
    assert set(folder.rglob("*.npy")) == set(files)
    for path, array in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == array["sha256"]
        assert list(np.load(path).shape) == array["shape"]
    left_over = {path.name for path in folder.iterdir()} - {".lock", "manifest.json", "items", "image.npy", "label.npy"}
    assert left_over == set()


def test_stacked_arrays_have_a_row_for_each_item_that_succeeded(tmp_path):
    folder = run_preparation(some(work=Counting(bad={"scan-2"})), tmp_path / "out", stacked=True, **quiet)
    data = Prepared(folder)
    images = data.stacked("image")
    assert images.shape == (5, 4, 5)
    assert [item.id for item in data.items] == ["scan-0", "scan-1", "scan-3", "scan-4", "scan-5"]
    assert (images[2] == Counting()(Item("scan-3"))[0]["image"]).all()


def test_items_of_different_shape_cannot_be_stacked(tmp_path):
    preparation = some(2, work=lambda item: ({"image": np.zeros(2 + int(item.id[-1]))}, {}))
    with pytest.raises(DatasetError, match=r"'image' of scan-0 and scan-1 differ in form .* \[2\] <f8 and \[3\] <f8"):
        run_preparation(preparation, tmp_path / "out", stacked=True, **quiet)
    assert len(Prepared(run_preparation(preparation, tmp_path / "out", **quiet)).items) == 2


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 3), dtype=np.int16),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::2],
        np.arange(4, dtype=">u2"),
        np.array([True, False]),
    ],
    ids=["one number", "empty", "fortran order", "strides", "big endian", "bool"],
)
@both_forms
def test_arrays_of_every_kind_come_back(tmp_path, array, stacked):
    folder = run_preparation(some(2, work=lambda _: ({"a": array}, {})), tmp_path / "out", stacked=stacked, **quiet)
    found = Prepared(folder).array("scan-1", "a")
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    assert (found == array).all()


KILLED = """
import os, signal, sys
import test_preparation
class Killing(test_preparation.Counting):
    def __call__(self, item):
        if len(self.asked) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)
test_preparation.run_preparation(
    test_preparation.some(work=Killing()), sys.argv[1], stacked=sys.argv[2] == "True", workers=1, show_progress=False
)
"""


@both_forms
def test_a_preparation_that_was_killed_goes_on_where_it_was(tmp_path, stacked):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(out), str(stacked)]
    process = subprocess.run(command, check=False, cwd=Path(__file__).parent)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(DatasetError, match="by another version of Polyclinic"):
        run_preparation(some(parameters={"format": 2, "spacing": (1, 2)}), out, stacked=stacked, **quiet)
    with (out / "preparing.jsonl").open("a") as journal:
        journal.write('{"id": "scan-9", "num_by')  # as a kill in the middle of a line leaves it
    work = Counting()
    run_preparation(some(work=work), out, stacked=stacked, **quiet)
    assert sorted(work.asked) == ["scan-4", "scan-5"]
    assert_same(out, run_preparation(some(), tmp_path / "at once", stacked=stacked, **quiet))


@both_forms
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_arrays_are_found_and_made_anew(tmp_path, stacked, damage):
    out = run_preparation(some(), tmp_path / "out", stacked=stacked, **quiet)
    work = Counting()
    run_preparation(some(work=work), out, stacked=stacked, **quiet)
    assert work.asked == []
    path = out / "image.npy" if stacked else out / "items" / "scan-3" / "image.npy"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-5] + (b"xxxxx" if damage == "changed" else b""))
    run_preparation(some(work=work), out, stacked=stacked, **quiet)
    assert sorted(work.asked) == ([f"scan-{k}" for k in range(6)] if stacked else ["scan-3"])
    assert path.read_bytes() == content


@both_forms
def test_an_item_whose_raw_files_changed_is_prepared_anew(tmp_path, stacked):
    out = run_preparation(some(), tmp_path / "out", stacked=stacked, **quiet)
    work = Counting()
    changed = some(work=work)
    items = [replace(item, num_bytes=(1, 7)) if item.id == "scan-1" else item for item in changed.items]
    run_preparation(replace(changed, items=items), out, stacked=stacked, **quiet)
    assert sorted(work.asked) == ([f"scan-{k}" for k in range(6)] if stacked else ["scan-1"])
    assert read_manifest(out)["items"][1]["num_bytes"] == [1, 7]


def test_a_fact_that_changed_is_taken_over_without_work(tmp_path):
    out = run_preparation(some(), tmp_path / "out", **quiet)
    work = Counting()
    changed = some(work=work)
    items = [replace(item, facts={"center": 5}) for item in changed.items]
    run_preparation(replace(changed, items=items), out, **quiet)
    assert work.asked == []
    assert [item.facts for item in Prepared(out).items] == [{"center": 5, "spacing": [1, 2.5]}] * 6


@both_forms
def test_items_join_and_leave(tmp_path, stacked):
    out = run_preparation(some(4), tmp_path / "out", stacked=stacked, **quiet)
    work = Counting()
    more = some(6, work=work)
    run_preparation(replace(more, items=more.items[1:]), out, stacked=stacked, **quiet)
    assert [item.id for item in Prepared(out).items] == [f"scan-{k}" for k in range(1, 6)]
    assert stacked or sorted(work.asked) == ["scan-4", "scan-5"]
    # Nothing of one who has left remains.
    assert not list(out.rglob("*scan-0*"))
    assert "scan-0" not in (out / "manifest.json").read_text()


@both_forms
def test_what_fails_is_listed_and_tried_again_and_does_not_stop_the_others(tmp_path, stacked):
    out = run_preparation(some(work=Counting(bad={"scan-1", "scan-4"})), tmp_path / "out", stacked=stacked, **quiet)
    data = Prepared(out)
    assert data.failed == {"scan-1": "scan-1 is damaged", "scan-4": "scan-4 is damaged"}
    with pytest.raises(DatasetError, match=r"holds no scan-1, it could not be prepared: scan-1 is damaged"):
        data.array("scan-1", "image")
    work = Counting(bad={"scan-4"})
    run_preparation(some(work=work), out, stacked=stacked, **quiet)
    assert Prepared(out).failed.keys() == {"scan-4"}
    assert stacked or sorted(work.asked) == ["scan-1", "scan-4"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("bad header"), "ValueError: bad header"),
        (FileNotFoundError(2, "No such file or directory", "/hospital/scan-1.dcm"), "No such file or directory"),
        (EOFError(), "EOFError: "),
    ],
)
def test_an_error_of_any_library_is_of_that_item_alone(tmp_path, error, why):
    def work(item):
        if item.id == "scan-1":
            raise error
        return Counting()(item)

    failed = Prepared(run_preparation(some(work=work), tmp_path / "out", **quiet)).failed
    assert failed.keys() == {"scan-1"}
    assert why in failed["scan-1"]
    assert "hospital" not in failed["scan-1"]


def test_an_error_that_is_not_of_an_item_stops_at_once(tmp_path):
    def work(item):
        raise ConfigError("monai is not installed", to_do="pip install 'polyclinic[imaging]'")

    with pytest.raises(ConfigError, match="monai is not installed"):
        run_preparation(some(work=work), tmp_path / "out", **quiet)


def test_without_any_good_item_it_is_an_error_with_the_first_reason(tmp_path):
    bad = {f"scan-{k}" for k in range(6)}
    with pytest.raises(DatasetError, match=r"none of the 6 items of fed_x .*; scan-0: scan-0 is damaged"):
        run_preparation(some(work=Counting(bad)), tmp_path / "out", **quiet)
    with pytest.raises(DatasetError, match="there is nothing of fed_x to prepare"):
        run_preparation(some(0), tmp_path / "out", **quiet)


@pytest.mark.parametrize("ids", [("a", "a"), ("Scan", "scan")])
def test_two_items_of_one_name_are_refused(tmp_path, ids):
    with pytest.raises(DatasetError, match=r"two items of fed_x have one name: '\w+' and '\w+'"):
        run_preparation(some(items=[Item(name) for name in ids]), tmp_path / "out", **quiet)


def test_a_full_disk_is_no_bad_item_and_what_is_done_is_kept(tmp_path, monkeypatch):
    from polyclinic.datasets import preparation as module

    real, written = module.save_array, []

    def full(path, *args):
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return real(path, *args)

    monkeypatch.setattr(module, "save_array", full)
    with pytest.raises(DatasetError, match=r"cannot be written to .*: No space left on device") as caught:
        run_preparation(some(), tmp_path / "out", workers=1, **quiet)
    assert "finished items are kept" in str(caught.value)
    monkeypatch.undo()
    work = Counting()
    run_preparation(some(work=work), tmp_path / "out", **quiet)
    assert sorted(work.asked) == ["scan-2", "scan-3", "scan-4", "scan-5"]


@both_forms
def test_too_little_room_is_known_before_anything_is_begun(tmp_path, monkeypatch, stacked):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=8 * 10**9))
    work = Counting()
    needs = some(work=work, bytes_an_item=10**9)
    if not stacked:
        # Six items, 1 GB each: there is room. Stacked, they are there twice.
        assert run_preparation(needs, tmp_path / "enough", **quiet)
        needs = some(9, work=(work := Counting()), bytes_an_item=10**9)
    with pytest.raises(DatasetError, match=r"takes about (9|12) GB in .*, where 8 GB are free"):
        run_preparation(needs, tmp_path / "out", stacked=stacked, **quiet)
    assert work.asked == []
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}


@both_forms
def test_two_programs_on_one_folder_do_the_work_once(tmp_path, stacked):
    work = Counting()

    def slow(item):
        time.sleep(0.01)
        return work(item)

    with ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(run_preparation, some(work=slow), tmp_path / "out", stacked=stacked, workers=2, **quiet)
            for _ in range(3)
        ]
        assert [job.result() for job in jobs] == [tmp_path / "out"] * 3
    assert sorted(work.asked) == [f"scan-{k}" for k in range(6)]


def test_as_many_items_are_held_at_once_as_there_are_workers(tmp_path):
    held, most, lock = 0, 0, threading.Lock()

    def work(item):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.005)
        with lock:
            held -= 1
        return Counting()(item)

    run_preparation(some(20, work=work), tmp_path / "out", workers=3, **quiet)
    assert most == 3


def test_memory_does_not_grow_with_the_items(tmp_path):
    import tracemalloc

    num_bytes = 2**21

    def peak(num, folder):
        tracemalloc.start()
        run_preparation(
            some(num, work=lambda _: ({"a": np.zeros(num_bytes, np.uint8)}, {})),
            folder,
            workers=1,
            stacked=True,
            **quiet,
        )
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(2, tmp_path / "few"), peak(16, tmp_path / "many")
    assert many < few + num_bytes / 2


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_every_id_has_a_safe_name_of_its_own(one, two):
    name = file_name(one)
    assert len(name) <= 100
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-", "_"))
    assert (file_name(two) == name) == (one == two)


@pytest.mark.parametrize(
    "item_id",
    ["../../etc/passwd", "a/b", "a\\b", "con", "NUL.txt", "x.", ".", "..", "a:b", "ä", "\ud800", "x.tmp", " a"],
)
def test_ids_that_are_no_file_names_stay_in_the_folder(tmp_path, item_id):
    preparation = some(items=[Item(item_id), Item("plain")], work=lambda _: ({"a": np.ones(2)}, {}))
    folder = run_preparation(preparation, tmp_path / "out", **quiet)
    assert file_name(item_id) != item_id
    assert (Prepared(folder).array(item_id, "a") == 1).all()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_of_twenty_thousand_items_the_manifest_is_read_once(tmp_path, monkeypatch):
    entry = {"num_bytes": [1], "facts": {"center": 0}, "found": {}}
    arrays = {"a": {"dtype": "<f8", "shape": [2], "sha256": ""}}
    manifest = {"dataset": "fed_x", "parameters": {}, "versions": {}, "stacked": None, "failed": []}
    items = [{"id": f"i{k}", "arrays": arrays} | entry for k in range(20_000)]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"items": items}))
    for k in range(0, 20_000, 100):
        (tmp_path / "items" / f"i{k}").mkdir(parents=True)
        np.save(tmp_path / "items" / f"i{k}" / "a.npy", np.full(2, k, float))
    reads = []
    real = json.loads
    monkeypatch.setattr("json.loads", lambda text: reads.append(text) or real(text))
    data = Prepared(tmp_path)
    assert [data.array(f"i{k}", "a")[0] for k in range(0, 20_000, 100)] == list(range(0, 20_000, 100))
    assert len(reads) == 1


@both_forms
def test_a_worker_process_maps_the_files_itself(tmp_path, stacked):
    data = Prepared(run_preparation(some(), tmp_path / "out", stacked=stacked, **quiet), dataset="fed_x")
    expected = np.array(data.array("scan-2", "image"))
    packed = pickle.dumps(data)
    assert len(packed) < 500
    assert (pickle.loads(packed).array("scan-2", "image") == expected).all()


@both_forms
def test_arrays_that_are_not_those_written_are_refused(tmp_path, stacked):
    out = run_preparation(some(), tmp_path / "out", stacked=stacked, **quiet)
    path = out / "image.npy" if stacked else out / "items" / "scan-3" / "image.npy"
    np.save(path, np.zeros(3, np.float32))
    with pytest.raises(DatasetError, match=r"image\.npy does not fit its manifest: \(3,\) float32, not \("):
        Prepared(out).array("scan-3", "image")
    path.write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"image\.npy cannot be read"):
        Prepared(out).array("scan-3", "image")
    with pytest.raises(DatasetError, match=r"no array 'mask' was prepared; there are image, label"):
        Prepared(out).array("scan-3", "mask")
    with pytest.raises(DatasetError, match=r"holds no scan-77\n"):
        Prepared(out).array("scan-77", "image")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "cannot be read"),
        ("[1]", "is not of prepared fed_x data"),
        ('{"dataset": "fed_other"}', "is not of prepared fed_x data but of fed_other"),
        ('{"dataset": "fed_x", "parameters": {"format": 0}, "subjects": []}', "by another version of Polyclinic"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path, content, why):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DatasetError, match=why):
        Prepared(tmp_path, dataset="fed_x")
    with pytest.raises(DatasetError, match=why):
        run_preparation(some(), tmp_path, **quiet)


def test_data_prepared_by_another_version_are_refused_and_say_so(tmp_path):
    there, wanted = {"format": 1, "size": 3}, {"format": 2, "size": 4}
    with pytest.raises(DatasetError, match="was prepared by another version of Polyclinic") as caught:
        require_same_parameters(there, wanted, tmp_path)
    assert "prepare the data again" in caught.value.to_do
    with pytest.raises(DatasetError, match=r"in another way \(size: 3, not 4\)"):
        require_same_parameters(there | {"format": 2}, wanted, tmp_path)
    require_same_parameters(wanted, wanted, tmp_path)


def ensured(path, **changes):
    preparation = some(**changes)
    return ensure(
        path,
        lambda _: preparation,
        dataset="fed_x",
        parameters=preparation.parameters,
        how_to_get_it="buy it",
        show_progress=False,
    )


def test_raw_data_are_prepared_once_beside_them(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    work = Counting(bad={"scan-0"})
    assert ensured(raw, work=work) == tmp_path / "raw-prepared"
    assert ensured(raw, work=work) == tmp_path / "raw-prepared"
    # What fails is not tried at each start, only when one asks to prepare.
    assert len(work.asked) == 6
    assert ensured(tmp_path / "raw-prepared") == tmp_path / "raw-prepared"
    with pytest.raises(DatasetError, match=r"another way \(spacing: \[1, 2\], not \[3\]\)"):
        ensured(tmp_path / "raw-prepared", parameters={"format": 1, "spacing": [3]})
    with pytest.raises(DatasetError, match=r"another way \(spacing: \[1, 2\], not \[3\]\)"):
        ensured(raw, parameters={"format": 1, "spacing": [3]})


def test_where_nothing_can_be_written_the_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the owner of the tests may be root
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    (tmp_path / "raw.zip").touch()
    found = ensured(tmp_path / "raw.zip")
    assert found.parent == tmp_path / "polyclinic"
    assert found.name.startswith("raw-prepared-")
    assert ensured(tmp_path / "raw.zip") == found


def test_what_is_prepared_needs_no_writing(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    expected = ensured(tmp_path / "raw")
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *args, **kwargs: pytest.fail("a folder was made"))
    assert ensured(tmp_path / "raw") == expected


def test_no_data_says_how_to_get_them(tmp_path):
    with pytest.raises(DatasetError, match=r"fed_x needs data, which do not ship with us\n.*buy it"):
        ensured(None)
    with pytest.raises(DatasetError, match=r"there is no .*nowhere\n.*buy it"):
        ensured(tmp_path / "nowhere")
