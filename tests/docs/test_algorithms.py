"""The page of algorithms has a row and a section for each, and its settings and defaults are the code's."""

import inspect
import re
from pathlib import Path

import pytest

from polyclinic.aggregators import AGGREGATORS

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| [^|]+ \| ?([^|]*) ?\|$", PAGE, flags=re.MULTILINE))


@pytest.mark.parametrize("name", sorted(AGGREGATORS))
def test_each_algorithm_is_described(name):
    assert f"\n## {name}\n" in PAGE
    settings = {
        key: (f"`{key}`" if p.default is p.empty else f"`{key}` = `{p.default!r}`".replace("'", '"'))
        for key, p in inspect.signature(AGGREGATORS[name]).parameters.items()
    }
    assert ROWS[name].strip() == ", ".join(settings.values())


def test_no_algorithm_is_described_that_does_not_exist():
    assert set(ROWS) == set(AGGREGATORS)
