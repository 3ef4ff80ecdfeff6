"""The pages on datasets are run: their commands with made-up data, their programs with one update."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from polyclinic.datasets.federated_dataset import FederatedDataset, known_datasets
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.plans.source import extract_source, load_plan_class

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = Path(__file__).parents[2] / "src" / "polyclinic" / "datasets"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("name", known_datasets())
def test_each_dataset_has_its_pages_with_the_counts_of_its_card(name):
    card = FederatedDataset.load(name).card
    for page in (DOCS / "datasets" / f"{name}.md", PACKAGE / name / "README.md"):
        text = page.read_text("utf-8")
        assert card.license.split()[0] in text
        for train, test in card.samples:
            assert re.search(rf"\b{train}\b.*\b{test}\b", text), (page, train, test)
    line = next(
        line for line in (DOCS / "set-up-each-dataset.md").read_text("utf-8").splitlines() if f"[{name}]" in line
    )
    train, test = (sum(center[part] for center in card.samples) for part in (0, 1))
    assert f"| {train} / {test} |" in line
    assert f"| {card.license} |" in line


@pytest.mark.parametrize("name", known_datasets())
def test_the_program_on_each_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = blocks(DOCS / "datasets" / f"{name}.md", "python")
    # A file, as a user would have: a plan's source is read from it.
    path = tmp_path / f"page_of_{name}.py"
    path.write_text(program, encoding="utf-8")
    exec(compile(program, str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})


def commands() -> list[str]:
    pages = [DOCS / "set-up-each-dataset.md", *sorted((DOCS / "datasets").glob("*.md"))]
    lines = [line for page in pages for block in blocks(page, "bash") for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("polyclinic ")})


@pytest.mark.parametrize("command", commands())
def test_each_command_exists_with_these_options(command):
    from polyclinic.cli import app

    words = command.split()[1:]
    # With --help, click checks neither arguments nor options, so the options are looked up in the help's text.
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words[:2], "--help"])
    assert result.exit_code == 0, result.output
    for option in [word for word in words if word.startswith("--")]:
        assert option in result.output


def test_the_programs_of_the_set_up_page_run_on_made_up_data(tmp_path, monkeypatch):
    from polyclinic.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))
    runner = CliRunner()
    page = DOCS / "set-up-each-dataset.md"
    sizes = {"fed_heart_disease": 12, "fed_tcga_brca": 25, "fed_ixi": 2, "fed_synthetic": 10}
    for name, size in sizes.items():
        made = ["dataset", "mock", name, "--to", name, "--patients-per-center", str(size)]
        tag = re.search(rf"polyclinic federation create {name} .*--tags (\w+)", page.read_text("utf-8"))[1]
        for words in (made, ["federation", "create", name, "--data", name, "--tags", tag]):
            result = runner.invoke(app, words)
            assert result.exit_code == 0, (words, result.output, result.exception)
    programs = blocks(page, "python")
    assert len(programs) == len(sizes)
    for number, program in enumerate(programs):
        short = program.replace('"num_updates": 100', '"num_updates": 1')
        short = short.replace("get_nb_max_rounds(num_updates=100)", "1")
        assert short.count('"num_updates": 1}') == short.count("round_limit=1,") == 1
        # A file, as a user would have: the plan's source is read from it.
        path = tmp_path / f"program_{number}.py"
        path.write_text(short)
        monkeypatch.syspath_prepend(str(tmp_path))
        exec(compile(short, str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})


@pytest.mark.parametrize(
    ("name", "number"), [("fed_isic2019", 0), ("fed_camelyon16", 1), ("fed_kits19", 2), ("fed_lidc_idri", 3)]
)
def test_the_programs_for_real_data_are_whole_up_to_the_experiment(name, number, tmp_path, monkeypatch):
    """Without the data: all names are there, and the plan travels and is built by a node, without memory."""
    told = {}

    class Told:
        def __init__(self, **arguments):
            told.update(arguments)

        def run(self): ...

        def evaluate(self): ...

    programs = blocks(DOCS / "set-up-each-dataset.md", "python no-run")
    assert len(programs) == 4
    monkeypatch.setattr("polyclinic.Experiment", Told)
    path = tmp_path / f"real_{name}.py"
    path.write_text(programs[number], encoding="utf-8")
    exec(compile(programs[number], str(path), "exec"), {"__name__": "__main__", "__file__": str(path)})
    dataset = FederatedDataset.load(name)
    args = TrainingArgs(**told["training_args"])
    assert (args.batch_size, args.num_updates, args.lr) == (dataset.batch_size, 100, dataset.lr)
    assert told["round_limit"] == dataset.get_nb_max_rounds(100)
    with torch.device("meta"):
        plan = load_plan_class(extract_source(told["model_class"]))({})
    assert type(plan.model) is dataset.baseline
