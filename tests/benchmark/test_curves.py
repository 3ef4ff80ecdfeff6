from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.benchmark.cells import Diverged, Measured
from polyclinic.benchmark.curves import Curve, curve_rounds, run_to_the_end, scratch_folder, training_seconds
from polyclinic.errors import Diverged as NotFinite
from polyclinic.errors import RoundFailed


@pytest.mark.parametrize(
    ("last", "points", "rounds"),
    [
        (10, 5, {2, 4, 6, 8, 10}),
        (10, 10, set(range(1, 11))),
        (3, 10, {1, 2, 3}),
        (10, 3, {4, 8, 10}),
        (7, 1, {7}),
        (7, 0, {7}),
        (1, 0, {1}),
    ],
)
def test_rounds_of_a_curve(last, points, rounds):
    assert curve_rounds(last, points) == rounds


@settings(deadline=None)
@given(last=st.integers(1, 500), points=st.integers(1, 60))
def test_a_curve_has_about_so_many_points_evenly_spread(last, points):
    rounds = sorted(curve_rounds(last, points))
    assert rounds[-1] == last
    assert rounds[0] >= 1
    assert min(last, points) / 2 < len(rounds) <= points
    assert len({b - a for a, b in pairwise([0, *rounds[:-1]])}) <= 1


def record(number, *bytes_of_nodes):
    return SimpleNamespace(round=number, rows=[SimpleNamespace(bytes=count) for count in bytes_of_nodes])


def test_a_curve_judges_at_its_rounds_with_all_bytes_until_then():
    asked = []

    def judge(number, num_bytes):
        asked.append((number, num_bytes))
        return [Measured(number, "pooled", number / 10, 5, num_bytes)]

    curve = Curve(judge, {2, 3}, stop=lambda: "enough" if len(asked) == 2 else None)
    said = [curve.round_ended(record=record(number, 10 * number, 1)) for number in (1, 2, 3)]
    assert asked == [(2, 32), (3, 63)]
    assert said == [None, None, "enough"]
    assert [figure.value for figure in curve.figures] == [0.2, 0.3]


class Run:
    """An experiment that ends as it is told."""

    round = 4

    def __init__(self, folder, error=None):
        self.run_folder, self._error = folder / "cell" / "run", error
        self.run_folder.mkdir(parents=True)

    def run(self):
        if self._error:
            raise self._error


def test_the_run_folder_goes_however_a_run_ends(tmp_path):
    curve = Curve(lambda *_: [], ())
    run_to_the_end(Run(tmp_path), curve)
    assert not (tmp_path / "cell").exists()
    for error in (RoundFailed("lost", codes=["deadline"]), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            run_to_the_end(Run(tmp_path, error), curve)
        assert not (tmp_path / "cell").exists()


def test_a_round_that_failed_since_a_model_diverged(tmp_path):
    curve = Curve(lambda *_: [], ())
    curve.figures.append(Measured(1, "pooled", 0.5, 5))
    with pytest.raises(Diverged, match="all is lost") as caught:
        run_to_the_end(Run(tmp_path, RoundFailed("all is lost", codes=["deadline", NotFinite.code])), curve)
    assert (caught.value.round, caught.value.figures) == (5, curve.figures)


def test_a_model_that_cannot_be_judged_has_diverged():
    def judge(number, num_bytes):
        raise NotFinite("it predicts nothing")

    with pytest.raises(Diverged, match="it predicts nothing") as caught:
        Curve(judge, {2}).round_ended(record=record(2))
    assert (caught.value.round, caught.value.figures) == (2, [])


def test_seconds_of_training_alone():
    def row(split, seconds):
        return SimpleNamespace(split=split, seconds=seconds)

    records = [SimpleNamespace(rows=[row("train", 1.5), row("test", 8)]), SimpleNamespace(rows=[row("train", 0.25)])]
    assert training_seconds(SimpleNamespace(records=records)) == 1.75


def test_a_large_model_is_not_kept_in_memory():
    folders = [scratch_folder(count) for count in (10, 10, 10**9)]
    try:
        assert len(set(folders)) == 3
        assert all(folder.parent.is_dir() and not folder.exists() for folder in folders)
        assert Path("/dev/shm") not in folders[2].parents
    finally:
        for folder in folders:
            folder.parent.rmdir()
