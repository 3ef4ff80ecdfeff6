"""Messages between versions. Headers of other versions are written by hand here, not by our codec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import Field

from polyclinic.errors import MessageError, OtherVersion
from polyclinic.messages import codec, replies, requests
from polyclinic.messages.message import Message, Part
from polyclinic.messages.version import MAJOR, MINOR, VERSION, as_of, later, needed_minor, parse_version

SEARCH = {"kind": "search-request/1", "request_id": "r", "tags": ["heart"]}
FOUND = {
    "kind": "search-reply/1",
    "request_id": "r",
    "node_id": "guys",
    "node_name": "Guys",
    "datasets": [
        {"dataset_id": "d", "name": "D", "dataset_kind": "tabular", "tags": [], "num_train": 3, "num_test": 1},
        {"dataset_id": "e", "name": "E", "dataset_kind": "tabular", "tags": [], "num_train": 3, "num_test": 1},
    ],
}


def written(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return b"PLYC" + len(text).to_bytes(4, "little") + text + (2).to_bytes(8, "little") + b"{}"


def header_of(message: Message) -> dict[str, Any]:
    whole = b"".join(codec.encode(message))
    found: dict[str, Any] = json.loads(whole[8 : 8 + int.from_bytes(whole[4:8], "little")])
    return found


# ---- what an earlier version wrote


def test_a_message_without_the_fields_that_came_later_is_read() -> None:
    old = {**SEARCH, "kind": "search-request/1"}
    del old["tags"]
    assert codec.decode(written(old)) == requests.SearchRequest(request_id="r")


# ---- what a later version wrote


@pytest.mark.parametrize("minor", sorted({1, MINOR}))
def test_a_minor_version_that_is_known_changes_nothing(minor: int) -> None:
    assert codec.decode(written({**SEARCH, "minor": minor})) == requests.SearchRequest(request_id="r", tags=("heart",))


def test_a_later_request_with_nothing_new_in_it_is_done() -> None:
    message = codec.decode(written({**SEARCH, "minor": MINOR + 6}))
    assert message == requests.SearchRequest(request_id="r", tags=("heart",))


def test_a_request_for_something_new_is_refused_with_both_versions() -> None:
    with pytest.raises(OtherVersion) as caught:
        codec.decode(written({**SEARCH, "minor": MINOR + 6, "noise": 3.0}))
    assert f"of message version {MAJOR}.{MINOR + 6} has noise" in caught.value.what
    assert f"up to version {VERSION}" in caught.value.what
    assert "newer Polyclinic" in caught.value.to_do


def test_a_new_value_of_an_old_field_is_one_of_another_version_too() -> None:
    with pytest.raises(OtherVersion, match=r"has tags\.0"):
        codec.decode(written({**SEARCH, "minor": MINOR + 1, "tags": [{"any": "heart"}]}))


def test_of_a_later_reply_what_is_not_known_is_left_out() -> None:
    later_one = json.loads(json.dumps(FOUND)) | {"minor": MINOR + 1, "region": "south"}
    later_one["datasets"][0]["license"] = "open"
    later_one["datasets"][1] |= {"license": "open", "year": 2031}
    assert codec.decode(written(later_one)) == codec.decode(written(FOUND))


def test_a_later_reply_that_lacks_something_is_refused() -> None:
    lacking = {name: value for name, value in FOUND.items() if name != "node_name"}
    with pytest.raises(OtherVersion, match="has node_name"):
        codec.decode(written({**lacking, "minor": MINOR + 1, "region": "south"}))


def test_a_field_that_is_unknown_to_a_known_version_is_refused() -> None:
    for header in (SEARCH, FOUND):
        with pytest.raises(MessageError, match="unfit fields: region"):
            codec.decode(written({**header, "minor": MINOR, "region": "south"}))


@pytest.mark.parametrize("minor", ["1", 0, -1, 1.0, True, None, 10**9, [1]])
def test_a_minor_version_that_is_none(minor: object) -> None:
    with pytest.raises(MessageError, match="no fit minor version"):
        codec.decode(written({**SEARCH, "minor": minor}))


def test_another_major_version_is_no_message_of_ours() -> None:
    with pytest.raises(OtherVersion, match=r"'search-request/2'; this Polyclinic reads 'search-request/1'"):
        codec.decode(written({"kind": "search-request/2", "anything": 1}))


# ---- what we write


class Old(Part):
    unit: str = "mm"


class New(Part):
    inner: tuple[Old, ...] = ()
    speed: str = later(4, "slow")
    depth: int | None = later(9, None, ge=0)
    width: int = Field(1, json_schema_extra={"other": 1})


def test_what_has_its_default_is_left_out_and_needs_no_later_version() -> None:
    assert New().model_dump(mode="json") == {"inner": [], "width": 1}
    assert needed_minor(New(inner=(Old(unit="m"),), width=7)) == 0


def test_what_is_used_is_written_and_names_its_version() -> None:
    assert New(speed="fast").model_dump(mode="json") == {"inner": [], "speed": "fast", "width": 1}
    assert needed_minor(New(speed="fast")) == 4
    assert needed_minor(New(speed="fast", depth=0)) == 9


def test_a_field_within_a_part_counts_for_the_whole() -> None:
    class Whole(Part):
        parts: tuple[New, ...]
        one: New | None = None

    assert needed_minor(Whole(parts=(New(), New(depth=2)))) == 9
    assert needed_minor(Whole(parts=(), one=New(speed="fast"))) == 4


def test_what_an_earlier_version_can_do_without_is_left_out_for_it() -> None:
    class Told(New):
        remark: str = later(3, "", droppable=True)

    told = Told(remark="hello", speed="fast")
    assert as_of(told, 3) == told
    assert as_of(told, 2) == Told(speed="fast")
    assert (needed_minor(told), needed_minor(as_of(told, 2))) == (4, 4)
    assert needed_minor(as_of(Told(remark="hello"), 2)) == 0


def test_messages_that_use_nothing_new_name_no_version() -> None:
    assert header_of(requests.SearchRequest(request_id="r", tags=("heart",))) == SEARCH
    assert "minor" not in header_of(
        replies.Failure(request_id="r", node_id="n", code="node", stage="train", what="it rains")
    )


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.1", (1, 1)), ("2.10", (2, 10)), (VERSION, (MAJOR, MINOR))],
)
def test_versions_are_read(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "1", "1.x", "1.²", "1." + "9" * 30, None, {}])
def test_what_is_no_version(text: object) -> None:
    assert parse_version(text) is None
