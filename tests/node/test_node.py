"""A node's folder, who holds it, and what it answers."""

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from polyclinic.errors import ConfigError, NodeError, NodeInUse
from polyclinic.messages.replies import CheckReply, EvaluateReply, Failure, SearchReply, TrainReply
from polyclinic.messages.requests import SearchRequest
from polyclinic.node.database import DATABASE, NodeRow, open_database
from polyclinic.node.node import Node
from polyclinic.node.stop import Stop

TABLE = "a,b,c,y\n" + "".join(f"{k % 7},{k % 5},{k % 3},{k % 11}\n" for k in range(40))


@pytest.fixture
def ward(tmp_path):
    """A node with one table, whose id is as in the requests of conftest.py."""
    (tmp_path / "t.csv").write_text(TABLE)
    node = Node.create(tmp_path / "nodes", "Ward")
    node.registry.add("tabular", {"path": tmp_path / "t.csv", "target": "y"}, tags=["heart"], name="data")
    return node


# ---- folders


def test_create_and_open(tmp_path):
    made = Node.create(tmp_path / "nodes", "Hôpital Saint-Louis")
    assert (made.node_id, made.name) == ("hopital-saint-louis", "Hôpital Saint-Louis")
    assert made.folder == tmp_path / "nodes" / "hopital-saint-louis"
    again = Node.open(made.folder)
    assert (again.node_id, again.name, again.registry.datasets()) == (made.node_id, made.name, [])


def test_a_node_keeps_its_id_when_its_folder_moves(ward, tmp_path):
    ward.folder.rename(tmp_path / "elsewhere")
    assert Node.open(tmp_path / "elsewhere").node_id == "ward"


@pytest.mark.parametrize("second", ["Ward A", "ward-a", "  WARD  a "])
def test_two_names_of_one_id_are_refused(tmp_path, second):
    Node.create(tmp_path, "Ward A")
    with pytest.raises(NodeError, match="there is a node 'ward-a' already, at ") as caught:
        Node.create(tmp_path, second)
    assert caught.value.to_do == "choose another name, or use that node"


def test_a_name_that_names_nothing(tmp_path):
    with pytest.raises(ConfigError, match="no letter or digit"):
        Node.create(tmp_path, "***")
    assert list(tmp_path.iterdir()) == []


def test_opening_what_is_no_node(tmp_path):
    with pytest.raises(NodeError, match="is no node's folder") as caught:
        Node.open(tmp_path)
    assert "polyclinic node create" in caught.value.to_do


def test_a_database_of_another_format(ward):
    with Session(open_database(ward.folder / DATABASE)) as session:
        session.execute(update(NodeRow).values(format_version=99))
        session.commit()
    with pytest.raises(NodeError, match="has format 99, not 1") as caught:
        Node.open(ward.folder)
    assert "the version of Polyclinic that made it" in caught.value.to_do


def test_a_database_that_was_not_finished(tmp_path):
    open_database(tmp_path / DATABASE)
    with pytest.raises(NodeError, match="is incomplete"):
        Node.open(tmp_path)


def test_the_database_survives_a_crash_and_a_power_cut(ward):
    with open_database(ward.folder / DATABASE).connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list a process's open files")
def test_many_nodes_hold_no_files_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    nodes = [Node.create(tmp_path, f"ward {number}") for number in range(5)]
    assert [node.registry.datasets() for node in nodes] == [[]] * 5
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- two programs at one folder

HOLD = """
import sys
from pathlib import Path
from polyclinic.node.node import Node
with Node.open(Path(sys.argv[1])).in_use():
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(ward):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(ward.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_two_programs_at_one_node(ward, holder):
    with pytest.raises(NodeInUse, match=f"node 'Ward' is in use by process {holder.pid}") as caught, ward.in_use():
        pass
    assert "wait until it is done or stop it" in caught.value.to_do
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "free\n"
    with ward.in_use():
        assert str(os.getpid()) in (ward.folder / "in-use-by.txt").read_text()


def test_a_killed_program_holds_nothing(ward, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with ward.in_use():
        pass


def test_one_program_may_use_its_node_twice_and_an_error_frees_it(ward):
    with ward.in_use(), Node.open(ward.folder).in_use():
        pass
    with pytest.raises(ZeroDivisionError), ward.in_use():
        _ = 1 / 0
    held = subprocess.run(
        [sys.executable, "-c", HOLD, str(ward.folder)], input="\n\n", capture_output=True, text=True, check=True
    )
    assert held.stdout == "held\nfree\n"


def test_a_node_without_a_folder_is_nobodys(node):
    with node.in_use(), node.in_use():
        pass


# ---- requests


def search(node, *tags):
    return node.handle(SearchRequest(request_id="q", tags=tags))


def test_a_search_finds_what_has_all_tags(ward, tmp_path):
    ward.registry.add("tabular", {"path": tmp_path / "t.csv", "target": "a"}, tags=["heart", "old"], name="more")

    def found(*tags):
        reply = search(ward, *tags)
        assert isinstance(reply, SearchReply)
        assert (reply.request_id, reply.node_id, reply.node_name) == ("q", "ward", "Ward")
        return [dataset.dataset_id for dataset in reply.datasets]

    assert found() == found("heart") == ["data", "more"]
    assert found("old", "heart") == ["more"]
    assert found("young") == found("heart", "young") == []


def test_every_request_has_its_reply(ward, work):
    replies = [ward.handle(request(work.plan())) for request in (work.train, work.evaluate, work.check)]
    assert [type(reply) for reply in replies] == [TrainReply, EvaluateReply, CheckReply]
    assert {(reply.request_id, reply.node_id) for reply in replies} == {("r", "ward")}


@pytest.mark.parametrize("ask", ["train", "evaluate"])
def test_a_dataset_that_is_not_there(ward, work, ask):
    reply = ward.handle(getattr(work, ask)(work.plan()).model_copy(update={"dataset_id": "dat"}))
    assert isinstance(reply, Failure)
    assert (reply.code, reply.stage) == ("config", ask)
    assert (reply.what, reply.to_do) == ("node 'Ward' has no dataset 'dat'", "did you mean 'data'?")
    assert "ConfigError" in reply.traceback
    assert re.fullmatch("[0-9a-f]{8}", reply.reference)


def test_two_failures_have_two_references(ward, work):
    replies = [ward.handle(work.train(work.plan("raise OSError(28, 'full')"))) for _ in range(2)]
    assert len({reply.reference for reply in replies}) == 2
    assert replies[0].what == "OSError: [Errno 28] full"


def test_the_reference_leads_to_the_log(ward, work, caplog):
    with caplog.at_level("DEBUG", logger="polyclinic.node"):
        reply = ward.handle(work.train(work.plan("raise RuntimeError('abc')")))
    (record,) = caplog.records
    assert reply.reference in record.getMessage()
    assert "abc" in caplog.text


def test_a_model_that_is_not_the_plans(ward, work):
    state = work.initial(work.plan())
    reply = ward.handle(work.train(work.plan(model="nn.Linear(3, 2)"), state))
    assert (reply.code, reply.stage) == ("aggregation", "train")
    assert "tensor 'model.weight' has shape (1, 3), the plan's has (2, 3)" in reply.what
    reply = ward.handle(work.train(work.plan(model="nn.Sequential(nn.Linear(3, 1))"), state))
    assert "the model that was sent is not the plan's: tensors model.0.bias" in reply.what


# ---- data that change between rounds


@pytest.mark.parametrize("ask", ["train", "evaluate"])
def test_a_file_that_is_deleted_or_edited_between_rounds(ward, work, tmp_path, ask):
    request = getattr(work, ask)(work.plan())
    assert not isinstance(ward.handle(request), Failure)
    (tmp_path / "t.csv").write_text(TABLE.replace("3,3", "3,4"))
    reply = ward.handle(request)
    assert (reply.code, reply.stage) == ("dataset-changed", ask)
    assert "dataset 'data' is not as it was registered: The content of the dataset's files has changed" in reply.what
    (tmp_path / "t.csv").unlink()
    reply = ward.handle(request)
    assert (reply.code, reply.what.endswith("t.csv is not there any more")) == ("dataset-changed", True)
    assert "put the data back, or register the dataset again at this node" in reply.to_do
    (tmp_path / "t.csv").write_text(TABLE)
    assert not isinstance(ward.handle(request), Failure)


FOLDER = """
from pathlib import Path
import torch

class Files:
    def __init__(self, folder):
        self.files = sorted(Path(folder).glob("*.txt"))
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        return torch.tensor([float(word) for word in self.files[index].read_text().split()]), torch.ones(1)

def make(folder):
    return Files(folder), Files(folder)
"""


@pytest.fixture
def of_files(tmp_path):
    """A node whose data are many files in a folder, which are not looked at before each use."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"{number} 1 2")
    (tmp_path / "hospital.py").write_text(FOLDER)
    node = Node.create(tmp_path / "nodes", "Files")
    node.registry.add(
        "python",
        {"function": f"{tmp_path / 'hospital.py'}:make", "arguments": {"folder": str(folder)}, "watch": [folder]},
        tags=["t"],
        name="data",
    )
    return node, folder


def test_one_of_many_files_that_is_deleted_between_rounds(of_files, work):
    node, folder = of_files
    request = work.train(work.plan(), num_updates=None, epochs=1, lr=0.001)
    assert isinstance(node.handle(request), TrainReply)
    (folder / "5.txt").unlink()
    reply = node.handle(request)
    assert (reply.code, reply.stage) == ("dataset-changed", "train")
    assert "There were 8 files when the dataset was registered; now there are 7." in reply.what
    assert "FileNotFoundError" in reply.traceback  # what was noticed first


def test_a_failure_of_the_plan_is_not_blamed_on_data_that_are_as_they_were(of_files, work):
    node, _ = of_files
    assert node.handle(work.train(work.plan("raise ValueError('mine')"))).what == "ValueError: mine"


def test_a_cancel_is_a_cancel_even_if_data_have_changed(of_files, work):
    node, folder = of_files
    search(node)
    (folder / "5.txt").unlink()
    stop = Stop()
    stop.cancelled.set()
    assert node.handle(work.train(work.plan()), stop).code == "cancelled"


def test_a_search_reports_what_has_changed(of_files):
    node, folder = of_files
    (folder / "9.txt").write_text("1 2 3")
    (dataset,) = search(node).datasets
    assert dataset.problem == "There were 8 files when the dataset was registered; now there are 9."


def test_a_dataset_that_is_registered_again_is_read_again(ward, work, tmp_path):
    request = work.evaluate(work.plan(), split="train")
    before = ward.handle(request).num_samples
    (tmp_path / "t.csv").write_text(TABLE + TABLE.partition("\n")[2].replace("3,", "4,"))
    ward.registry.remove("data")
    ward.registry.add("tabular", {"path": tmp_path / "t.csv", "target": "y"}, tags=["heart"], name="data")
    search(ward)
    assert ward.handle(request).num_samples > before


# ---- check


def detail(reply, name):
    (item,) = [item for item in reply.items if item.name == name]
    return item


def test_a_check_says_what_was_checked(ward, work):
    reply = ward.handle(work.check(work.plan()))
    assert [(item.name, item.ok) for item in reply.items] == [
        ("versions", True),
        ("data", True),
        ("plan", True),
        ("one step", True),
    ]
    assert torch.__version__ in detail(reply, "versions").detail
    found = ward.registry.datasets()[0].found
    assert detail(reply, "data").detail == f"data: {found.num_train} train, {found.num_test} test"
    assert detail(reply, "plan").detail == "4 parameters"
    assert re.fullmatch(r"loss \d+\.?\d* on one batch", detail(reply, "one step").detail)


@pytest.mark.parametrize(
    ("request_of", "failed", "what"),
    [
        (lambda work: work.check(work.plan()).model_copy(update={"dataset_id": "x"}), "data", "no dataset 'x'"),
        (lambda work: work.check(work.plan(), device="cuda:9"), "plan", "device 'cuda:9' is not there"),
        (lambda work: work.check(work.plan("return self.model(x)")), "one step", "as a scalar tensor"),
        (lambda work: work.check(work.plan("sys.exit(3)")), "one step", "SystemExit: 3"),
        (
            lambda work: work.check(work.plan()).model_copy(update={"tensors": {}}),
            "one step",
            "the model that was sent is not the plan's",
        ),
    ],
)
def test_a_check_ends_at_the_first_thing_that_fails(ward, work, request_of, failed, what):
    reply = ward.handle(request_of(work))
    assert isinstance(reply, CheckReply)
    assert [item.name for item in reply.items if not item.ok] == [failed] == [reply.items[-1].name]
    assert what in reply.items[-1].detail


def test_a_check_finds_data_that_have_changed(of_files, work):
    node, folder = of_files
    search(node)
    (folder / "5.txt").unlink()
    reply = node.handle(work.check(work.plan()))
    assert "'data' is not as it was registered: There were 8 files" in reply.items[-1].detail


@pytest.mark.parametrize("step", ["return F.mse_loss(self.model(x), y)", "raise ValueError('no')"])
def test_a_check_leaves_nothing_behind(ward, work, clone, step):
    """A round comes out the same whether there was a check before it or not."""
    text = work.plan(optimizer="torch.optim.Adam(self.parameters(), lr=0.1)", model="nn.Sequential(nn.Linear(3, 1))")
    bad = text.model_copy(update={"text": text.text.replace("return F.mse_loss(self.model(x), y)", step)})
    given = {"optimizer_state": "kept", "buffers": "local"}
    sent = work.check(text if step.startswith("return") else bad, **given)
    before = clone(sent.tensors)
    ward.handle(sent)
    assert not (ward.folder / "experiments").exists()
    one = work.train(text, **given)
    expected = clone(ward.handle(one).tensors)
    (kept,) = (path for path in (ward.folder / "experiments").rglob("*") if path.is_file())
    content = kept.read_bytes()
    ward.handle(sent)
    assert kept.read_bytes() == content
    for name, tensor in before.items():
        assert torch.equal(sent.tensors[name], tensor)
    again = ward.handle(one)
    assert again.notes == ()
    for name, tensor in expected.items():
        assert torch.equal(again.tensors[name], tensor)


def test_a_check_begins_with_the_model_that_was_sent(node, work):
    """Not with what the last training left: a run that ended in nan can be checked after it was mended."""
    text = work.plan()
    first = node.handle(work.check(text)).items[-1].detail
    assert isinstance(node.handle(work.train(text, lr=1e30)), Failure)
    assert node.handle(work.check(text)).items[-1].detail == first


# ---- throw-away nodes


def test_a_throw_away_node_keeps_nothing_on_disk_unless_it_must(work, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    node = work.node(work.rows(8))
    node.handle(work.train(work.plan()))
    assert list(tmp_path.iterdir()) == []
    node.handle(work.train(work.plan(), buffers="local"))
    assert len(list(tmp_path.iterdir())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del node
    assert list(tmp_path.iterdir()) == []


COUNTING = """
import torch
from torch.utils.data import TensorDataset

def make():
    print("made")
    part = TensorDataset(torch.ones(5, 3), torch.ones(5, 1))
    return part, part
"""


def test_a_node_reads_its_data_once(tmp_path, work, capsys):
    (tmp_path / "hospital.py").write_text(COUNTING)
    node = Node.create(tmp_path / "nodes", "n")
    node.registry.add("python", {"function": f"{tmp_path / 'hospital.py'}:make"}, tags=["t"], name="data")
    capsys.readouterr()
    for number in (1, 2, 3):
        assert isinstance(node.handle(work.train(work.plan(), round_index=number)), TrainReply)
    assert capsys.readouterr().out == "made\n"
