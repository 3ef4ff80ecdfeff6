"""The whole way, as a user goes it: made-up data, nodes by the command line, the program on the dataset's page."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.datasets.fed_lidc_idri import Baseline, FedLidcIdri

PAGE = Path(__file__).parents[3] / "docs" / "datasets" / "fed_lidc_idri.md"


@pytest.fixture
def small(monkeypatch):
    """A narrow V-Net, and patches of 16 in a box of 48, which made-up scans fill."""
    monkeypatch.setattr(Baseline.__init__, "__defaults__", (1, True, 2))
    monkeypatch.setitem(FedLidcIdri.__init__.__kwdefaults__, "out_shape", (48, 48, 48))
    monkeypatch.setitem(FedLidcIdri.__init__.__kwdefaults__, "patch_size", 16)


def test_from_made_up_data_to_an_evaluated_model(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))
    runner = CliRunner()
    create = ["federation", "create", "fed_lidc_idri", "--data", "raw", "--tags", "lidc", "--centers", "0,SIEMENS"]
    for words in (["dataset", "mock", "fed_lidc_idri", "--to", "raw", "--patients-per-center", "2"], create):
        result = runner.invoke(app, words)
        assert result.exit_code == 0, (words, result.output, result.exception)
    assert (tmp_path / "raw-prepared" / "manifest.json").is_file()

    (program,) = re.findall(r"```py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    short = program.replace('"num_updates": 100', '"num_updates": 1')
    short = short.replace("get_nb_max_rounds(num_updates=100)", "1")
    short = short.replace("print(nodules.evaluate())", "result = nodules.evaluate()")
    assert short.count('"num_updates": 1}') == short.count("round_limit=1,") == short.count("result = ") == 1
    # A file, as a user would have: the plan's source is read from it.
    (tmp_path / "program.py").write_text(short)
    names = {"__name__": "__main__", "__file__": str(tmp_path / "program.py")}
    exec(compile(short, str(tmp_path / "program.py"), "exec"), names)

    result = names["result"]
    pooled = result.pooled["dice"]
    assert pooled.num_samples == 2  # scans, not patches
    assert 0 < pooled.value < 1
    values = [values["dice"].value for values in result.nodes.values()]
    assert len(values) == 2
    assert math.isclose(pooled.value, sum(values) / 2, rel_tol=1e-9)
