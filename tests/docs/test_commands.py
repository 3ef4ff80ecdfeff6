"""The commands of the documentation are those of the program, and the page of commands leaves none out."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from polyclinic.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = re.compile(r"^```(?:sh|bash)\b[^\n]*\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMANDS_PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def commands_of(page):
    text = page.read_text(encoding="utf-8")
    lines = [line for block in SHELL.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.split("#")[0].strip()]


def of_ours():
    return [(page.name, line) for page in PAGES for line in commands_of(page) if line.startswith("polyclinic ")]


def parse(line):
    """Reads a command line as the program does, up to the point where it would do something."""
    _, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands and hasattr(command, "by_default"):
            words.insert(0, command.by_default)
        assert words[0] in command.commands, f"there is no command {words[0]!r}: {line}"
        command = command.commands[words.pop(0)]
    command.make_context("polyclinic", words)


@pytest.mark.parametrize(("page", "line"), of_ours(), ids=lambda value: value[:60])
def test_every_command_of_the_pages_is_one(page, line):
    parse(line)


@pytest.mark.parametrize(
    "line", ["polyclinic dataset lists", "polyclinic federation show --where x", "polyclinic node create"]
)
def test_a_command_that_is_none_is_found_out(line):
    with pytest.raises(Exception, match=r"no command|[Nn]o such option|Missing parameter"):
        parse(line)


def test_the_make_targets_of_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    named = {line.split()[1] for page in PAGES for line in commands_of(page) if line.startswith("make ")}
    assert {"demo", "test"} <= named <= targets


def all_commands():
    """Every command with its options, as "polyclinic federation show"."""

    def walk(command, name):
        for sub_name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, f"{name} {sub_name}")
        if not hasattr(command, "commands"):
            yield name, {option for p in command.params for option in (*p.opts, *p.secondary_opts) if option[0] == "-"}

    return dict(walk(typer.main.get_command(app), "polyclinic"))


def sections():
    found = re.split(r"^#+ `(polyclinic [a-z -]+)`$", COMMANDS_PAGE, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_the_page_of_commands_has_a_section_for_each():
    assert set(sections()) == set(all_commands())


@pytest.mark.parametrize(("name", "options"), all_commands().items(), ids=[*all_commands()])
def test_the_section_names_all_options_and_no_others(name, options):
    named = set(re.findall(r"--[a-z][a-z-]*", sections()[name]))
    assert named - {"--help"} == options
