import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.node.dataset_kinds.split import split_rows

rows = st.lists(st.binary(max_size=4), min_size=2, max_size=40, unique=True)
strata_of = st.integers(0, 3)


def sides(identities, strata=None, *, fraction=0.3, seed=0):
    labels = None if strata is None else np.array(strata, dtype=np.int64)
    split = split_rows(identities, test_fraction=fraction, seed=seed, strata=labels)
    return dict(zip(identities, split.test.tolist(), strict=True)), split


@given(rows, st.randoms(use_true_random=False), st.lists(strata_of, min_size=40, max_size=40))
def test_the_order_of_the_rows_moves_no_row(identities, random, labels):
    pairs = list(zip(identities, labels, strict=False))
    shuffled = random.sample(pairs, len(pairs))
    before, _ = sides([i for i, _ in pairs], [s for _, s in pairs])
    after, _ = sides([i for i, _ in shuffled], [s for _, s in shuffled])
    assert before == after


@given(rows, rows)
def test_rows_that_are_added_move_at_most_what_was_lent(old, new):
    before, split = sides(old)
    after, _ = sides([*old, *(row for row in new if row not in old)])
    moved = [row for row in old if before[row] != after[row]]
    assert len(moved) <= split.lent


@given(rows, st.lists(strata_of, min_size=40, max_size=40), st.floats(0.01, 0.99))
def test_both_sides_have_every_class_of_two(identities, labels, fraction):
    labels = labels[: len(identities)]
    placed, _ = sides(identities, labels, fraction=fraction)
    assert len(set(placed.values())) == 2
    for label in {label for label in labels if labels.count(label) >= 2}:
        assert {placed[row] for row, of in zip(identities, labels, strict=True) if of == label} == {True, False}


@given(st.lists(st.sampled_from([b"p1", b"p2", b"p3", b"p4"]), min_size=2, max_size=30), st.data())
def test_all_rows_of_one_identity_are_on_one_side(identities, data):
    labels = data.draw(st.lists(strata_of, min_size=len(identities), max_size=len(identities)))
    split = split_rows(identities, test_fraction=0.5, seed=1, strata=np.array(labels, dtype=np.int64))
    placed = {}
    for row, test in zip(identities, split.test.tolist(), strict=True):
        assert placed.setdefault(row, test) == test


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_share_is_near_what_was_asked_and_depends_on_the_seed(fraction):
    identities = [b"%d" % i for i in range(10_000)]
    one, two = (split_rows(identities, test_fraction=fraction, seed=seed).test for seed in (0, 1))
    # Five standard deviations of a binomial share.
    assert abs(one.mean() - fraction) < 5 * (fraction * (1 - fraction) / 10_000) ** 0.5
    assert abs((one & two).mean() - fraction**2) < 0.02


def test_the_places_never_change():
    """Fixed once: another hash would move rows of every hospital from train to test."""
    split = split_rows([b"%d" % i for i in range(12)], test_fraction=0.4, seed=3)
    assert np.flatnonzero(split.test).tolist() == [3, 4, 5, 6, 7, 8, 10, 11]
