import re
import subprocess
import sys
from pathlib import Path

import pytest

from polyclinic import errors
from polyclinic.errors import ConfigError, PlanError, PolyclinicError, during, nearest, reject_unknown

PAGES = Path(__file__).parents[1] / "docs" / "errors"
CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PolyclinicError)]


def source_without_gaps():
    files = Path(errors.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    # One literal over several lines is one text to the reader.
    return re.sub(r'"\s*\n\s*f?"', "", text)


def drawn_tree():
    """(class, code, parent) of each line of the docstring's drawing; four columns are one level."""
    path, rows = [], []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)(?: +([a-z-]+)  +\S)?", line):
            lead, name, code = found.groups()
            level = len(lead) // 4
            del path[level:]
            rows.append((name, code or "polyclinic", path[-1] if path else "Exception"))
            path.append(name)
    return rows


def test_the_tree_in_the_docstring_is_the_classes():
    assert sorted(drawn_tree()) == sorted((cls.__name__, cls.code, cls.__base__.__name__) for cls in CLASSES)


def test_every_code_is_unique():
    codes = [cls.code for cls in CLASSES]
    assert len(codes) == len(set(codes))


def all_codes():
    """Those of the classes, and those that only stand in a reply (`Failure(code=…)`)."""
    return {cls.code for cls in CLASSES} | set(re.findall(r'\bcode="([a-z-]+)"', source_without_gaps()))


@pytest.mark.parametrize("code", sorted(all_codes()))
def test_every_code_has_a_page_that_says_what_to_do(code):
    page = (PAGES / f"{code}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {code}\n")
    assert "\n## What to do\n" in page
    assert "\n## Typical causes\n" in page or code == "polyclinic"


def test_there_is_no_page_of_an_error_that_is_gone():
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == all_codes()


def test_the_messages_on_the_pages_are_those_of_the_code():
    """A page quotes `…` for what differs from case to case; the longest fixed part must stand in the code."""
    # reject_unknown puts these together from a kind.
    source = source_without_gaps() + "unknown training argument"
    stale = [
        f"{path.name}: {fixed}"
        for path in PAGES.glob("*.md")
        for quoted in re.findall(r"^### `(.+)`$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if (fixed := max(quoted.split("…"), key=len).strip()) not in source
    ]
    assert stale == []


# ---- the text of an error


def test_an_error_says_what_where_and_what_to_do():
    error = PolyclinicError("the lights went out", to_do="switch them on", node="va", round=3)
    assert str(error) == "the lights went out (node va, round 3)\n  What to do: switch them on"
    assert (error.what, error.to_do, error.where) == (
        "the lights went out",
        "switch them on",
        {"node": "va", "round": 3},
    )


def test_an_error_without_place_and_advice_is_one_line():
    assert str(ConfigError("no")) == "no"


def test_during_adds_the_place_and_the_innermost_wins():
    with pytest.raises(PlanError) as caught, during(node="va", stage="round"), during(stage="train", batch=2):
        raise PlanError("no", line=7)
    assert caught.value.where == {"node": "va", "stage": "train", "batch": 2, "line": 7}


def test_during_leaves_other_errors_alone():
    with pytest.raises(ValueError, match=r"^no$"), during(node="va"):
        raise ValueError("no")


def test_during_without_an_error():
    with during(node="va"):
        pass


# ---- hints


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("epoch", ["epochs", "lr"], "did you mean 'epochs'?"),
        ("xyz", ["b", "a"], "known: a, b"),
        ("xyz", [], "known: none"),
        ("lr", iter(["lrr"]), "did you mean 'lrr'?"),
    ],
)
def test_nearest(word, known, hint):
    assert nearest(word, known) == hint


def test_reject_unknown_names_the_key_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        reject_unknown({"lr": 1, "batchsize": 2}, ["lr", "batch_size"], kind="training argument")
    assert caught.value.what == "unknown training argument 'batchsize'"
    assert caught.value.to_do == "did you mean 'batch_size'?"


def test_reject_unknown_takes_keys_that_are_no_text():
    with pytest.raises(ConfigError, match="unknown setting 1"):
        reject_unknown({1: 2, "zz": 3}, ["lr"])


def test_reject_unknown_takes_what_is_known():
    reject_unknown([], [])
    reject_unknown(iter(["a"]), iter(["a", "b"]))


def test_importing_errors_imports_nothing_heavy():
    program = "import sys, polyclinic.errors; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
