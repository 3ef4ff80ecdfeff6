from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.errors import ConfigError, DatasetError
from polyclinic.node.dataset_kinds.columns import index_of, one_hot, parse_column, row_identities


def column(*cells, name="c", known=()):
    return parse_column(name, pd.Series(list(cells), dtype=object), known)


def test_each_cell_is_a_number_a_word_or_missing():
    parsed = column("1", "-2.5e3", "TRUE", "false", "", "?", "NaN", "None", None, "12 mg")
    assert parsed.number[:4].tolist() == [1, -2500, 1, 0]
    assert np.isnan(parsed.number[4:]).all()
    assert parsed.missing.tolist() == [False] * 4 + [True] * 5 + [False]
    assert parsed.word.tolist() == [""] * 9 + ["12 mg"]


@given(st.lists(st.sampled_from(["1", "2.0", "x", "NA", "true", "inf"]), min_size=1, max_size=6), st.text(max_size=4))
def test_what_a_cell_is_does_not_depend_on_the_others(cells, other):
    alone, beside = column(*cells), column(*cells, other)
    np.testing.assert_array_equal(alone.number, beside.number[:-1])
    assert alone.word.tolist() == beside.word[:-1].tolist()
    assert alone.missing.tolist() == beside.missing[:-1].tolist()


@pytest.mark.parametrize(
    "typed",
    [
        pd.Series([1, 2, 0], dtype="int64"),
        pd.Series([1.0, 2.0, 0.0]),
        pd.Series([1, 2, 0], dtype="Int16"),
        pd.Series(["1", "2", "0"], dtype="category"),
    ],
)
def test_typed_columns_are_read_as_their_text_is(typed):
    np.testing.assert_array_equal(parse_column("c", typed).number, column("1", "2.0", "0").number)


def test_missing_in_typed_columns():
    assert parse_column("c", pd.Series([1, None], dtype="Int64")).missing.tolist() == [False, True]
    assert parse_column("c", pd.Series([True, None], dtype="boolean")).number[0] == 1
    assert parse_column("c", pd.Series(pd.to_datetime(["2020-01-01", None]))).missing.tolist() == [False, True]


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series(pd.to_datetime(["2020-01-01", "2021-01-01"])),
        pd.Series(pd.to_timedelta([1, 2], unit="D")),
        pd.Series([[1, 2], [3]]),
        pd.Series([{"a": 1}, {"a": 2}]),
    ],
)
def test_what_is_no_number_and_no_text_counts_as_words(cells):
    assert parse_column("c", cells).is_word.all()


def test_exact_numbers_of_a_database():
    assert parse_column("c", pd.Series([Decimal("1.5"), None], dtype=object)).number[0] == 1.5


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5).filter(lambda w: w.lower() != "nan")


@given(st.lists(words, min_size=1, max_size=6, unique_by=lambda w: parse_key(w)), st.data())
def test_one_hot_round_trip(categories, data):
    chosen = data.draw(st.lists(st.sampled_from([*categories, None]), min_size=1, max_size=20))
    hot = one_hot(index_of(column(*chosen, known=categories), categories, option="--x"), len(categories))
    back = [None if np.isnan(row).all() else categories[int(row.argmax())] for row in hot]
    assert back == chosen
    assert set(hot[~np.isnan(hot)].tolist()) <= {0, 1}


def parse_key(word):
    parsed = column(word, known=[word])
    return parsed.word[0] or float(parsed.number[0])


def test_a_number_among_categories_stands_for_every_way_to_write_it():
    assert index_of(column("4.0", "1", "4"), ["1", "4"], option="--x").tolist() == [1, 0, 1]


def test_a_declared_category_wins_over_a_spelling_of_missing():
    alcohol = ["None", "Moderate"]
    parsed = column("None", "Moderate", "", known=alcohol)
    assert index_of(parsed, alcohol, option="--x").tolist() == [0, 1, -1]


def test_a_value_outside_the_categories_is_counted_not_shown():
    with pytest.raises(DatasetError, match=r"'c' holds something outside its declared categories in 2 of 3") as caught:
        index_of(column("male", "SECRET", "7"), ["male", "female"], option="--categorical c=…")
    assert "SECRET" not in str(caught.value)


def test_a_category_that_is_declared_twice():
    with pytest.raises(ConfigError, match="declared twice"):
        index_of(column("1"), ["1", "1.0"], option="--x")


def test_the_identity_of_a_row_is_its_content_and_its_place_among_equals():
    a, b = column("1", "2", "1.0", "1", name="a"), column("x", "", "x", "y", name="b")
    keys = row_identities([a, b])
    assert len(set(keys)) == 4
    assert keys[0][:-1] == keys[2][:-1]  # equal rows differ in the count alone
    assert row_identities([b, a]) == keys
