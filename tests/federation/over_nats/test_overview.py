"""The table of a hub's nodes."""

from __future__ import annotations

import time

import polyclinic
from polyclinic.federation.over_nats.directory import KnownNode
from polyclinic.federation.over_nats.overview import COLUMNS, overview
from polyclinic.messages.version import VERSION

HEART = {
    "dataset_id": "h",
    "name": "Heart",
    "dataset_kind": "tabular",
    "tags": ["a", "b"],
    "num_train": 3,
    "num_test": 1,
}
LUNG = HEART | {"name": "Lung", "tags": [], "problem": "the file has vanished"}


def test_a_row_for_each_dataset_and_one_for_a_node_without_any() -> None:
    there = KnownNode("Guys", "", [HEART, LUNG, {"unknown": "kind"}], heard=time.monotonic())
    away = KnownNode("Toms", "", last_heard=time.time())
    never = KnownNode("Never", "", [HEART])
    found = overview({"toms": away, "guys": there, "never": never})
    assert found.rows == (
        ("guys", "idle", "Heart", "a, b", "3", "1"),
        ("", "", "Lung", "", "3", "1"),
        ("never", "offline", "Heart", "a, b", "3", "1"),
        ("toms", f"offline since {time.strftime('%H:%M', time.localtime(away.last_heard))}", "(none)", "", "", ""),
    )
    assert {len(row) for row in found.rows} == {len(COLUMNS)}
    assert found.remarks == ("guys, Lung: the file has vanished",)


def test_nodes_of_another_version_are_named_with_both() -> None:
    same = KnownNode("A", "", versions={"polyclinic": polyclinic.__version__, "messages": VERSION})
    other = KnownNode("B", "", versions={"polyclinic": "0.0.7", "messages": "1.0"})
    unknown = KnownNode("C", "")
    (remark,) = overview({"a": same, "b": other, "c": unknown}).remarks
    assert remark == (
        f"b has Polyclinic 0.0.7 and messages of version 1.0; here they are {polyclinic.__version__} and {VERSION}"
    )
