"""The page for data managers is true: its commands' options exist, its program runs, and it leaves no option out."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from polyclinic.node.dataset_kinds import KINDS, get_kind

PAGE = (Path(__file__).parents[3] / "docs" / "add-your-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
OF_ALL_KINDS = {"tags", "name"}
FLAGS = {"--allow-one-class"}  # given without a value


def parsed(command):
    """Kind and options; an option that is given twice becomes a list."""
    program, group, action, _node, kind, *words = shlex.split(command)
    assert (program, group, action) == ("polyclinic", "node", "add-dataset")
    options = {}
    while words:
        option = words.pop(0)
        value = "true" if option in FLAGS else words.pop(0)
        options.setdefault(option.removeprefix("--"), []).append(value)
    assert options.keys() >= OF_ALL_KINDS
    return kind, {k: v[0] if len(v) == 1 else v for k, v in options.items() if k not in OF_ALL_KINDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_every_command_are_taken(command):
    kind, options = parsed(command)
    get_kind(kind).Params.model_validate(options)


def test_every_kind_has_a_command():
    assert {parsed(command)[0] for command in COMMANDS} == set(KINDS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_option_is_on_the_page(kind):
    for field in get_kind(kind).Params.model_fields:
        assert f"--{field.replace('_', '-')}" in PAGE


def test_the_program_of_the_page_makes_a_dataset(tmp_path):
    (program,) = [text for language, text in BLOCKS if language == "python"]
    (tmp_path / "waves.py").write_text(program, encoding="utf-8")
    for name, count in (("train", 5), ("test", 3)):
        np.savez(tmp_path / name, waves=np.ones((count, 12, 100), np.float32), rhythm=np.zeros(count, np.int64))
    python = get_kind("python")
    arguments = {"folder": str(tmp_path), "leads": 2}
    found = python.inspect(python.Params(function=f"{tmp_path}/waves.py:make", arguments=arguments))
    assert (found.num_train, found.num_test, found.shape) == (5, 3, (2, 100))
