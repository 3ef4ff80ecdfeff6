"""The page on policies: its table of keys, its example and its rules are those of the program."""

import json
import re
from pathlib import Path

from polyclinic.node import rules
from polyclinic.node.policy import DatasetRules, Policy

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "policy.md").read_text(encoding="utf-8")


def flat(value, place=""):
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{place}.{name}" if place else name).items()}


def test_the_table_has_every_key_with_its_default():
    keys = PAGE.partition("## What researchers see")[0]
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `?([^|`]+)`? \|", keys, re.MULTILINE))
    defaults = flat({k: v for k, v in Policy().model_dump(mode="json").items() if k not in ("datasets", "researchers")})
    assert rows.keys() == defaults.keys()
    assert rows.pop("resources.cpu_cores") == "all"
    assert {key: json.loads(value) for key, value in rows.items()} == {key: defaults[key] for key in rows}


def test_the_example_is_a_policy():
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    policy = Policy.parse(example.encode())
    assert policy.of_dataset("heart") == DatasetRules(
        minimum_training_rows=20, purposes=("research",), maximum_rounds=500
    )


def test_the_table_has_every_rule():
    cells = re.findall(r"^\| (`.*?) \|", PAGE.partition("names the rule:")[2], re.MULTILINE)
    told = set(re.findall(r"`([a-z-]+)`", " ".join(cells)))
    source = Path(rules.__file__).read_text(encoding="utf-8")
    in_code = set(re.findall(r'_Verdict\(\s*"([a-z-]+)"', source)) | {"minimum-training-rows", rules.POLICY_FILE_RULE}
    assert told == in_code - {"minimum-test-rows"}
    assert "`minimum-test-rows` refuses nothing" in PAGE
