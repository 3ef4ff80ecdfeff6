from pathlib import Path

import pytest

from polyclinic.errors import ConfigError
from polyclinic.node.dataset_kinds import KINDS, get_kind

BY_WORDS = {
    "tabular": {
        "path": "t.csv",
        "target": "num",
        "features": "age, sex,cp",
        "categorical": ["sex=male,female", "cp=1,2"],
        "missing": "median",
        "scale": "standard",
        "test-fraction": ".3",
        "seed": "4",
        "id-column": "pid",
        "stratify": "false",
        "allow-one-class": "true",
        "classes": "no,yes",
    },
    "images": {"path": "d", "size": "32x48", "channels": "3", "patient-pattern": "(p[0-9]+)", "classes": "b,a"},
    "python": {"function": "mod:make", "arguments": '{"n": 3, "deep": {"a": [1, null]}}', "watch": "a,b"},
    "federated": {"module": "fed_ixi", "center": "1", "path": "d", "options": '{"flamby_compatible": true}'},
}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_words_of_a_command_line_become_values_that_survive_the_database(name):
    kind = get_kind(name)
    params = kind.Params.model_validate(BY_WORDS[name])
    assert kind.Params.model_validate(params.model_dump(mode="json")) == params
    assert kind.Params.model_validate_json(params.model_dump_json()) == params


def test_values_of_words():
    params = get_kind("tabular").Params.model_validate(BY_WORDS["tabular"])
    assert params.features == ("age", "sex", "cp")
    assert params.categorical == {"sex": ("male", "female"), "cp": ("1", "2")}
    assert (params.test_fraction, params.seed, params.stratify) == (0.3, 4, False)
    assert params.path == Path.cwd() / "t.csv"
    images = get_kind("images").Params.model_validate(BY_WORDS["images"])
    assert (images.size, images.channels) == ((32, 48), 3)
    python = get_kind("python").Params.model_validate(BY_WORDS["python"])
    assert python.arguments == {"n": 3, "deep": {"a": [1, None]}}
    assert python.watch == (Path.cwd() / "a", Path.cwd() / "b")


@pytest.mark.parametrize(
    "categorical",
    [
        "sex=male,female",
        ["sex=male,female"],
        {"sex": ["male", "female"]},
        {"sex": "male,female"},
        '{"sex": ["male", "female"]}',
    ],
)
def test_all_ways_to_declare_categories_are_the_same(categorical):
    params = get_kind("tabular").Params(path="t.csv", target="y", categorical=categorical)
    assert params.categorical == {"sex": ("male", "female")}


def test_a_list_keeps_commas_in_names():
    params = get_kind("tabular").Params(path="t.csv", target=["age, years", "y"])
    assert params.target == ("age, years", "y")


@pytest.mark.parametrize(
    ("name", "settings", "what", "to_do"),
    [
        ("tabular", {"targt": "y"}, "unknown setting 'targt'", "'target'"),
        ("tabular", {"path": "t.csv"}, "missing setting target", "--target"),
        ("tabular", {}, "missing setting path, target", "--path and --target"),
        ("tabular", {"path": "t", "target": "y", "test_fraction": 1}, "test_fraction: .*less than 1", "add-your-data"),
        ("tabular", {"path": "t", "target": "y", "missing": "zero"}, "missing: .*'median'", "add-your-data"),
        ("tabular", {"path": "t", "target": "y", "categorical": "sex"}, "column=first,second", "add-your-data"),
        ("images", {"path": "d", "patient_pattern": "p[0-9]+"}, "group in parentheses", "add-your-data"),
        ("images", {"path": "d", "patient_pattern": "(p"}, "not a regular expression", "add-your-data"),
        ("images", {"path": "d", "size": "0x4"}, "size", "add-your-data"),
        ("python", {"function": "make"}, "module:function", "add-your-data"),
        ("python", {"function": "m:make", "arguments": "{n: 1}"}, "not JSON", "add-your-data"),
        ("federated", {"module": "fed_ixi"}, "missing setting center", "--center"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name, settings, what, to_do):
    with pytest.raises(ConfigError, match=what) as caught:
        get_kind(name).Params.model_validate(settings)
    assert to_do in caught.value.to_do
