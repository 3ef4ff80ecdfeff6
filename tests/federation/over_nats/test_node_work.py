"""Turns between researchers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from polyclinic.federation.over_nats.node_work import Turns


def job(name: str) -> Any:
    """A job whose name begins with its researcher's."""
    return SimpleNamespace(name=name, envelope=SimpleNamespace(sender=name[0]))


def add(turns: Turns, *names: str) -> None:
    for name in names:
        turns.add(job(name))


def taken(turns: Turns, count: int) -> list[Any]:
    async def take() -> list[Any]:
        return [(await asyncio.wait_for(turns.take(), 10)).name for _ in range(count)]  # type: ignore[attr-defined]

    return asyncio.run(take())


def names(turns: Turns) -> list[str]:
    return [one.name for one in turns.order()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("waiting", "order"),
    [
        ([], []),
        (["a1", "a2", "a3"], ["a1", "a2", "a3"]),
        (["a1", "a2", "a3", "b1"], ["a1", "b1", "a2", "a3"]),
        (["a1", "a2", "b1", "b2", "c1"], ["a1", "b1", "c1", "a2", "b2"]),
    ],
)
def test_researchers_take_turns_in_the_order_that_is_told(waiting: list[str], order: list[str]) -> None:
    turns = Turns()
    add(turns, *waiting)
    assert names(turns) == order
    assert taken(turns, len(order)) == order
    assert names(turns) == []


def test_who_comes_back_has_not_had_their_turn_if_the_other_had_theirs_since() -> None:
    turns = Turns()
    add(turns, "b1", "a1", "a2", "a3")
    assert taken(turns, 2) == ["b1", "a1"]
    # The next round of b is sent while a's is done.
    add(turns, "b2")
    assert names(turns) == ["b2", "a2", "a3"]
    assert taken(turns, 2) == ["b2", "a2"]
    add(turns, "b3")
    assert taken(turns, 2) == ["b3", "a3"]


def test_a_new_researcher_comes_next() -> None:
    turns = Turns()
    add(turns, "a1", "b1", "a2", "b2")
    assert taken(turns, 2) == ["a1", "b1"]
    add(turns, "c1")
    assert taken(turns, 3) == ["c1", "a2", "b2"]


def test_one_that_is_removed_leaves_its_place_to_the_next() -> None:
    turns = Turns()
    jobs = {name: job(name) for name in ("a1", "a2", "b1")}
    for one in jobs.values():
        turns.add(one)
    assert turns.remove(jobs["a1"])
    assert not turns.remove(jobs["a1"])
    assert names(turns) == ["a2", "b1"]
    assert turns.remove(jobs["b1"])
    assert taken(turns, 1) == ["a2"]
    assert not turns.remove(jobs["a2"])


def test_one_that_comes_when_the_last_was_removed_is_taken() -> None:
    async def wait() -> Any:
        turns = Turns()
        turns.add(first := job("a1"))
        turns.remove(first)
        taking = asyncio.ensure_future(turns.take())
        await asyncio.sleep(0)
        assert not taking.done()
        turns.add(job("b1"))
        return await asyncio.wait_for(taking, 10)

    assert asyncio.run(wait()).name == "b1"


def test_one_that_comes_is_taken_at_once() -> None:
    async def wait() -> Any:
        turns = Turns()
        taking = asyncio.ensure_future(turns.take())
        await asyncio.sleep(0)
        turns.add(job("a1"))
        return await asyncio.wait_for(taking, 10)

    assert asyncio.run(wait()).name == "a1"
