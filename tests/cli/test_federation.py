"""polyclinic federation: from a dataset's name to nodes that an experiment finds."""

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.errors import DatasetError, FederationError, NodeError, NodeInUse
from polyclinic.federation.in_process import InProcessFederation


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "place"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words, answer=None):
        result = CliRunner().invoke(app, words, input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_create_makes_one_node_a_center_and_show_lists_them(run, tmp_path):
    out = run("federation", "create", "fed_heart_disease", "--tags", "heart,uci")
    for words in (["cleveland", "199", "104"], ["hungary", "172", "89"], ["switzerland", "30", "16"]):
        assert any(all(word in line for word in [*words, "heart, uci"]) for line in out.splitlines())
    assert [n.node_id for n in InProcessFederation.at(tmp_path / "place").nodes()] == [
        "cleveland",
        "hungary",
        "long-beach-va",
        "switzerland",
    ]
    assert run("federation", "show").splitlines() == out.splitlines()[1:-1]


def test_at_goes_before_the_environment(run, tmp_path):
    run("federation", "create", "fed_heart_disease", "--at", str(tmp_path / "other"), "--centers", "0,Hungary")
    assert "hungary" in run("federation", "show", "--at", str(tmp_path / "other"))
    with pytest.raises(FederationError, match="there are no nodes"):
        run("federation", "show")


def test_creating_twice_is_refused_and_changes_nothing(run):
    run("federation", "create", "fed_heart_disease", "--centers", "1")
    with pytest.raises(NodeError, match="'hungary'"):
        run("federation", "create", "fed_heart_disease")
    assert "cleveland" not in run("federation", "show")


def test_data_that_cannot_be_read_leave_no_node_behind(run, tmp_path):
    with pytest.raises(DatasetError):
        run("federation", "create", "fed_ixi", "--data", str(tmp_path / "nowhere"))
    assert not list(tmp_path.glob("place/*"))


def test_an_unknown_dataset_names_the_nearest(run):
    with pytest.raises(DatasetError) as caught:
        run("federation", "create", "fed_hart_disease")
    assert "fed_heart_disease" in caught.value.to_do


def test_remove_asks_and_removes(run):
    run("federation", "create", "fed_heart_disease", "--centers", "0,1")
    assert "Aborted" in run("federation", "remove", "cleveland", answer="n\n")
    assert "Removed cleveland" in run("federation", "remove", "cleveland", "--yes")
    assert "cleveland" not in run("federation", "show")
    with pytest.raises(NodeError, match="'cleveland'"):
        run("federation", "remove", "cleveland", "--yes")


def test_a_node_in_use_is_not_removed(run, tmp_path):
    import subprocess
    import sys

    run("federation", "create", "fed_heart_disease", "--centers", "0")
    program = (
        "import sys; from pathlib import Path; from polyclinic.node.node import Node\n"
        "with Node.open(Path(sys.argv[1])).in_use(): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "place" / "cleveland")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(NodeInUse, match=str(holder.pid)):
            run("federation", "remove", "--yes")
        holder.stdin.close()
    assert "cleveland" in run("federation", "show")


def test_the_compatible_way_reaches_the_data(run, tmp_path):
    raw = tmp_path / "raw"
    run("dataset", "mock", "fed_ixi", "--to", str(raw), "--patients-per-center", "3")
    run("federation", "create", "fed_ixi", "--data", str(raw), "--flamby-compatible", "--tags", "ixi")
    node = InProcessFederation.at(tmp_path / "place").each_node()[0]
    assert node.registry.datasets()[0].params.options == {"flamby_compatible": True}
    assert node.registry.datasets()[0].load(train=True)[0][1].shape == (2, 48, 60, 48)
