import gzip
import os
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.preprocessing import StandardScaler

from polyclinic.errors import ConfigError, DatasetError
from polyclinic.node.dataset_kinds import get_kind

TABULAR = get_kind("tabular")
HEART = Path(__file__).parents[4] / "shared" / "data" / "heart_disease"
NAMES = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]


def table(num_rows=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "pid": [f"p{i // 2}" for i in range(num_rows)],
            "age": rng.integers(20, 90, num_rows),
            "bmi": rng.normal(26, 4, num_rows).round(3),
            "sex": rng.choice(["male", "female"], num_rows),
            "num": rng.integers(0, 3, num_rows),
        }
    )


def params(path, **given):
    given = {"path": path, "target": "num", "categorical": "sex=male,female", "id_column": "pid"} | given
    return TABULAR.Params(**given)


@pytest.fixture
def csv(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def write(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def both(given):
    return TABULAR.load(given, train=True), TABULAR.load(given, train=False)


def test_what_is_found_and_loaded_agree(csv):
    found = TABULAR.inspect(params(csv))
    train, test = both(params(csv))
    assert (len(train), len(test)) == (found.num_train, found.num_test)
    assert len(train) + len(test) == 60
    assert found.features == ("age", "bmi", "sex=male", "sex=female")
    assert (found.shape, found.target, found.classes) == ((4,), "num (numeric, 3 distinct integer values)", ())
    x, y = train[0]
    assert (x.dtype, x.shape, y.dtype, y.shape) == (torch.float32, (4,), torch.float32, (1,))
    assert train.tensors[0].shape == (len(train), 4)


def test_every_row_arrives_once_with_its_values(csv):
    rows = torch.cat([torch.cat(part.tensors, dim=1) for part in both(params(csv))])
    frame = pd.read_csv(csv)
    frame["male"], frame["female"] = frame.sex == "male", frame.sex == "female"
    expected = frame[["age", "bmi", "male", "female", "num"]].to_numpy(np.float32)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv", "t.tsv.gz", "t.parquet", "T.CSV"])
def test_every_format_gives_the_same_split_and_values(csv, tmp_path, name):
    frame = table()
    if name == "t.parquet":
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
    for one, other in zip(both(params(csv)), both(params(tmp_path / name)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))
    # Also when rows are known by their content.
    plain = {"id_column": None, "features": "age,bmi", "categorical": {}}
    for one, other in zip(both(params(csv, **plain)), both(params(tmp_path / name, **plain)), strict=True):
        assert torch.equal(one.tensors[0], other.tensors[0])


def test_features_come_in_the_order_that_was_asked(csv):
    found = TABULAR.inspect(params(csv, features="sex,age"))
    assert found.features == ("sex=male", "sex=female", "age")


def test_all_rows_of_a_patient_are_on_one_side(csv):
    frame = pd.read_csv(csv).drop_duplicates("bmi")
    patient = dict(zip(frame.bmi.astype(np.float32).tolist(), frame.pid, strict=True))
    train, test = ({patient[row[1].item()] for row, _ in part} for part in both(params(csv)))
    assert train
    assert test
    assert not train & test


numbers = st.integers(0, 9)
contents = st.lists(st.tuples(numbers, numbers, st.integers(0, 1)), min_size=4, max_size=25)


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(old=contents, new=contents, random=st.randoms(use_true_random=False))
def test_neither_order_nor_new_rows_move_a_row(tmp_path, old, new, random):
    """Rows with equal content too: as many of them stay in train and in test as before."""

    def counts(rows):
        path = write(tmp_path, "a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
        given = TABULAR.Params(path=path, target="y", allow_one_class=True, stratify=False, test_fraction=0.4)
        return [pd.Series(map(tuple, torch.cat(part.tensors, 1).tolist())).value_counts() for part in both(given)], (
            any("moved" in note for note in TABULAR.inspect(given).notes)
        )

    (train, test), lent = counts(old)
    (train_shuffled, test_shuffled), _ = counts(random.sample(old, len(old)))
    pd.testing.assert_series_equal(train.sort_index(), train_shuffled.sort_index())
    pd.testing.assert_series_equal(test.sort_index(), test_shuffled.sort_index())
    if not lent:
        (train_more, test_more), _ = counts(random.sample(old + new, len(old + new)))
        assert (train_more.reindex(train.index, fill_value=0) >= train).all()
        assert (test_more.reindex(test.index, fill_value=0) >= test).all()


def test_missing_cells_are_counted_and_filled_by_training_rows(csv):
    frame = table()
    frame["bmi"] = frame["bmi"].astype(object)
    frame.loc[:9, "bmi"] = ["", "?", "NA", "nan", "NULL", "N/A", None, "-nan", " ", "#N/A"]
    frame.to_csv(csv, index=False)
    found = TABULAR.inspect(params(csv))
    assert found.missing == {"bmi": 10}
    assert any("mean" in note for note in found.notes)
    train, test = both(params(csv))
    filled = torch.cat([train.tensors[0], test.tensors[0]])[:, 1]
    value, count = torch.unique(filled, return_counts=True)
    common = value[count.argmax()].item()
    assert count.max() == 10
    known = train.tensors[0][:, 1].double()
    assert_allclose(known[known != common].mean().item(), common, rtol=1e-6)
    dropped = TABULAR.inspect(params(csv, missing="drop"))
    assert dropped.num_train + dropped.num_test == 50
    assert "10 of 60 rows have a missing cell and were left out." in dropped.notes


def test_dropping_rows_moves_no_other_row(csv):
    given = params(csv, missing="drop", stratify=False)
    train_before, test_before = (set(part.tensors[0][:, 1].tolist()) for part in both(given))
    frame = table()
    frame.loc[:9, "age"] = None
    frame.to_csv(csv, index=False)
    assert not any("moved" in note for note in TABULAR.inspect(given).notes)
    train, test = (set(part.tensors[0][:, 1].tolist()) for part in both(given))
    assert train < train_before
    assert test < test_before
    assert len(train) + len(test) == 50


def test_a_column_without_any_value_is_zero_and_noted(csv):
    table().assign(bmi="?").to_csv(csv, index=False)
    found = TABULAR.inspect(params(csv))
    assert any("'bmi'" in note and "0 stands" in note for note in found.notes)
    assert (TABULAR.load(params(csv), train=True).tensors[0][:, 1] == 0).all()


def test_standard_scale_equals_scikit_learn_on_training_rows(csv):
    raw, scaled = both(params(csv)), both(params(csv, scale="standard"))
    scaler = StandardScaler().fit(raw[0].tensors[0].double().numpy())
    for before, after in zip(raw, scaled, strict=True):
        expected = scaler.transform(before.tensors[0].double().numpy())
        assert_allclose(after.tensors[0].numpy(), expected, atol=1e-5)


def test_a_text_target_becomes_the_index_of_its_sorted_class(csv):
    found = TABULAR.inspect(params(csv, target="sex", categorical={}))
    assert (found.classes, found.target) == (("female", "male"), "sex (2 classes)")
    train = TABULAR.load(params(csv, target="sex", categorical={}), train=True)
    _, y = train[0]
    assert (y.dtype, y.shape) == (torch.int64, ())
    frame = pd.read_csv(csv)
    sex = dict(zip(frame.bmi.astype(np.float32).tolist(), frame.sex, strict=True))
    assert all(found.classes[y] == sex[row[1].item()] for row, y in train)


def test_declared_classes_fix_the_index_also_of_numbers(csv):
    given = params(csv, classes="3,2,1,0")
    found = TABULAR.inspect(given)
    assert found.classes == ("3", "2", "1", "0")
    assert "No row has the class '3'." in found.notes
    parts = [torch.cat([part.tensors[1] for part in both(p)]) for p in (given, params(csv))]
    assert sorted((3 - parts[0]).tolist()) == sorted(parts[1].flatten().tolist())


def test_several_numeric_targets(csv):
    given = params(csv, target="num,bmi", features="age", categorical={})
    assert "bmi (numeric, 60 distinct values)" in TABULAR.inspect(given).target
    assert TABULAR.load(given, train=True).tensors[1].shape[1:] == (2,)


def test_a_hospital_of_one_class_must_be_meant(csv):
    table().assign(num=1).to_csv(csv, index=False)
    with pytest.raises(DatasetError, match="'num' has the same value in all 60 rows") as caught:
        TABULAR.inspect(params(csv))
    assert "--allow-one-class" in caught.value.to_do
    found = TABULAR.inspect(params(csv, allow_one_class=True))
    assert "The training rows hold one class only." in found.notes
    assert found.target == "num (numeric, 1 distinct integer value)"


def test_two_rows_are_split_into_one_and_one(tmp_path):
    for seed in range(5):
        given = TABULAR.Params(path=write(tmp_path, "a,y\n1,0\n2,1\n"), target="y", seed=seed)
        found = TABULAR.inspect(given)
        assert (found.num_train, found.num_test) == (1, 1)


def test_changed_and_vanished(csv):
    found = TABULAR.inspect(params(csv))
    assert TABULAR.changed(params(csv), found.fingerprint) is None
    os.utime(csv)
    assert TABULAR.changed(params(csv), found.fingerprint) is None
    with csv.open("a") as stream:
        stream.write("p99,30,20,male,1\n")
    assert "changed" in TABULAR.changed(params(csv), found.fingerprint)
    assert TABULAR.paths(params(csv)) == (csv,)
    csv.unlink()
    assert "vanished" in TABULAR.changed(params(csv), found.fingerprint)


PLAIN = "a,b,y\n1,2,0\n3,4,1\n5,6,0\n"
BAD_FILES = [
    ("", "t.csv is empty", "export is complete"),
    ("\n\n", "t.csv is empty", "export is complete"),
    ("a,b,y\n", "has a header but no rows", "export is complete"),
    ("a,b,y\n1,2,0\n", "has one row only", "at least two rows"),
    ("a,b,y\n1,2,0\n1,2,3,4\n", "cannot be read as a table", "as many cells"),
    ("63,1,0\n64,0,1\n65,0,1\n", "first row of t.csv holds values", "columns' names"),
    ("a,a,y\n1,2,0\n3,4,1\n", "more than one column of the name 'a'", "rename"),
    (",a,y\n0,2,0\n1,4,1\n", "column 1 of t.csv has no name", "index=False"),
    ("a;b;y\n1;2;0\n3;4;1\n", "semicolons", "commas"),
    ("a,b,y\n1,inf,0\n3,4,1\n", "'b' holds infinite values in 1 of 2", "correct"),
    ("a,b,y\n1,1e300,0\n3,4,1\n", "'b' holds values too large for 32 bits in 1 of 2", "another unit"),
    ("a,b,y\n1,2,inf\n3,4,1\n", "target column 'y' holds values that are infinite", "correct"),
    ("a,b,y\n1,2,\n3,4,1\n5,6,0\n", "target column 'y' has no value in 1 of 3", "--missing drop"),
    ("a,b,y\n1,2,\n3,4,?\n", "target column 'y' is empty", "--target"),
    ("a,b,y\n1,2,7\n3,4,7\n", "same value in all 2 rows", "--allow-one-class"),
    ("a,b,y\n1,2,7\n3,4,yes\n", "text in 1 rows and numbers in 1", "--classes"),
    ("a,b,y\n1,low,0\n3,high,1\n4,,0\n", r"text where numbers are expected, in column 'b' \(in 2 rows\)", "b=first"),
]


@pytest.mark.parametrize(("text", "what", "to_do"), BAD_FILES)
def test_bad_files(tmp_path, text, what, to_do):
    with pytest.raises(DatasetError, match=what) as caught:
        TABULAR.inspect(TABULAR.Params(path=write(tmp_path, text), target="y"))
    assert to_do in caught.value.to_do


@pytest.mark.parametrize(
    ("given", "what", "to_do"),
    [
        ({"target": "yy"}, "t.csv has no column 'yy', which --target names", "'y'"),
        ({"features": "a,c"}, "no column 'c', which --features names", "known: a, b, y"),
        ({"features": "a,a"}, "names column 'a' twice", "once"),
        ({"features": "a,y"}, "'y' is a feature and also target", "once"),
        ({"id_column": "y"}, "'y' is target and id", "once"),
        ({"target": "a,b,y"}, "no column is left", "--target"),
        ({"target": ""}, "no target column", "known: a, b, y"),
        ({"categorical": "c=1,2"}, "no column 'c', which --categorical names", "known"),
        ({"categorical": "y=0,1"}, "'y', which is not a feature", "--classes"),
        ({"categorical": "a=1,2"}, "'a' holds something outside its declared categories in 2 of 3", "--categorical a="),
        ({"classes": "0,2"}, "'y' holds something outside its declared categories in 1 of 3", "--classes"),
        ({"target": "y,a", "classes": "0,1"}, "--classes is given for 2 targets", "one target"),
    ],
)
def test_settings_that_do_not_fit_the_file(tmp_path, given, what, to_do):
    with pytest.raises(DatasetError, match=what) as caught:
        TABULAR.inspect(TABULAR.Params(**{"path": write(tmp_path, PLAIN), "target": "y"} | given))
    assert to_do in caught.value.to_do


def test_files_that_are_not_there_or_no_tables(tmp_path):
    for name, content, what in [
        ("none.csv", None, "there is no file"),
        ("t.xlsx", b"x", "suffix that is not known"),
        ("latin.csv", "größe,y\n1,0\n2,1\n".encode("latin-1"), "cannot be read as a table"),
        ("t.csv.gz", b"no gzip", "cannot be read as a table"),
        ("cut.csv.gz", gzip.compress(PLAIN.encode() * 99)[:60], "cannot be read as a table"),
        ("t.parquet", b"no parquet at all", "cannot be read as a table"),
        ("empty.parquet", b"", "is empty"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=what) as caught:
            TABULAR.inspect(TABULAR.Params(path=tmp_path / name, target="y"))
        assert caught.value.to_do


def test_missing_ids_one_patient_and_all_rows_dropped(tmp_path):
    for text, given, what in [
        ("p,a,y\n1,1,0\n,2,1\n3,3,1\n", {"id_column": "p"}, "id column 'p' is empty in 1 of 3"),
        ("p,a,y\n7,1,0\n7,2,1\n", {"id_column": "p"}, "all 2 rows have the same id"),
        ("a,y\n,0\n2,1\n,1\n", {"missing": "drop"}, "1 of 3 rows have no missing cell"),
        ("a,y\n,0\n2,1\n,1\n", {"missing": "error"}, r"missing cells in column 'a' \(2\)"),
        ("a,b,s,t\n1,2,x,0\n2,3,y,1\n", {"target": "s,t"}, "'s' holds text, and there are 2 targets"),
    ]:
        with pytest.raises(DatasetError, match=what) as caught:
            TABULAR.inspect(TABULAR.Params(**{"path": write(tmp_path, text), "target": "y"} | given))
        assert caught.value.to_do


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("pid,a,y\n1,SECRET,0\n2,2,1\n3,4,1\n", {}),
        ("pid,a,y\n1,SECRET,0\n2,2,1\n3,4,1\n", {"categorical": "a=2,4"}),
        ("pid,a,y\n1,1,SECRET\n2,2,SECRET\n", {}),
        ("pid,a,y\n1,1,SECRET\n2,2,1\n", {}),
        ("pid,a,y\n1,1,SECRET\n2,2,x\n", {"classes": "x,z"}),
        ("pid,a,y\nSECRET,1,0\nSECRET,2,1\n", {"id_column": "pid"}),
        ('pid,a,y\n1,"SECRET,0\n2,2,1\n', {}),
        ("pid,a,y\n1,2,0\n2,2,1,SECRET\n", {}),
    ],
)
def test_no_error_shows_a_value(tmp_path, text, given):
    with pytest.raises((DatasetError, ConfigError)) as caught:
        TABULAR.inspect(TABULAR.Params(**{"path": write(tmp_path, text), "target": "y"} | given))
    assert "SECRET" not in str(caught.value)


def test_spaces_a_byte_order_mark_and_true_false(tmp_path):
    path = write(tmp_path, "\ufeff a , smoker,y\n 1 , TRUE,0\n2,false , 1\n3,,1\n")
    found = TABULAR.inspect(TABULAR.Params(path=path, target="y"))
    assert found.features == ("a", "smoker")
    assert found.missing == {"smoker": 1}


@pytest.mark.skipif(not HEART.is_dir(), reason="needs the UCI heart disease files beside the checkout")
@pytest.mark.parametrize(
    ("center", "rows", "classes", "missing_ca"),
    [("cleveland", 303, 5, 4), ("hungarian", 294, 2, 291), ("switzerland", 123, 5, 118), ("va", 200, 5, 198)],
)
def test_the_four_hospitals_of_the_heart_disease_study(tmp_path, center, rows, classes, missing_ca):
    path = write(tmp_path, ",".join(NAMES) + "\n" + (HEART / f"processed.{center}.data").read_text())
    given = TABULAR.Params(path=path, target="num", categorical=["cp=1,2,3,4"], scale="standard")
    found = TABULAR.inspect(given)
    assert found.num_train + found.num_test == rows
    assert found.missing["ca"] == missing_ca
    assert found.target == f"num (numeric, {classes} distinct integer values)"
    assert found.shape == (16,)
    assert TABULAR.inspect(TABULAR.Params(path=path, target="num")).shape == (13,)
    expected = pd.read_csv(path, na_values="?").isna().sum()
    assert found.missing == {name: n for name, n in expected.items() if n}
    for part in both(given):
        assert set(part.tensors[1].unique().tolist()) == set(map(float, range(classes)))  # every class on both sides
