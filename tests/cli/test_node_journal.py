"""polyclinic node journal, and report: what an auditor sees, checks and takes along."""

import hashlib
import json
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.errors import ConfigError, JournalBroken
from polyclinic.federation.over_nats.identity import Identity, KeyPair, node_identity_folder
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.federation.places import create_nodes
from polyclinic.node.journal import Journal

SHA = "5e" * 32
ABOUT = {"researcher": "ada", "experiment": "heart-1", "dataset": "fed-heart-disease"}


@pytest.fixture
def node(tmp_path):
    (node,) = create_nodes(tmp_path / "nodes", "fed_heart_disease", centers=[0], tags=["heart"])
    return node


@pytest.fixture
def journal(node):
    """One experiment that was approved, ran two rounds, failed once and was refused once; and one of somebody else."""
    journal = Journal(node.engine, folder=node.folder)
    for number, outcome in enumerate(("done", "done", "failed"), 1):
        of_round = {**ABOUT, "request": f"r{number}", "round": number}
        journal.write("request", **of_round, work="train", plan=SHA, plan_name="Pl\u202ean", purpose="<b>heart</b>")
        journal.write("admitted", **of_round, approval="3f2a", plan=SHA, policy="ab" * 32)
        journal.write("started", **of_round, work="train", approval="3f2a", sandbox="bubblewrap")
        failed = {"code": "training", "stage": "train"} if outcome == "failed" else {}
        left = [] if failed else [("weight", (1, 13), "F32", 52, SHA)]
        journal.write("ended", **of_round, outcome=outcome, work="train", seconds=0.5, rows=172, left=left, **failed)
    journal.write("refused", **ABOUT, request="r4", code="policy", rules=["rounds-per-researcher"])
    journal.write(
        "approved", approval="3f2a", by="dora", plan=SHA, plan_name="Plan", researcher="ada",
        datasets=["fed-heart-disease"], rounds=3, until="2027-01-31T00:00:00Z",
    )  # fmt: skip
    journal.write("request", request="r9", researcher="bob", experiment="lung-7", work="train")
    journal.flush()
    return journal


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        done = CliRunner().invoke(
            app, ["node", *words, "--at", str(tmp_path / "nodes")], env={"COLUMNS": "200", "NO_COLOR": "1"}
        )
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


def lines(text, word):
    return [line for line in text.splitlines() if word in line]


# ---- the journal


def test_the_journal_is_shown_a_row_a_line(journal, run):
    shown = run("journal", "cleveland")
    assert shown == run("journal", "show", "cleveland")
    assert len(lines(shown, "heart-1")) == 13
    assert (
        "done: train of ada on fed-heart-disease, heart-1, round 1, 0.5 s, 172 rows, left: 1 tensors, 52 bytes" in shown
    )
    assert "failed (training at train): train of ada on fed-heart-disease, heart-1, round 3" in shown
    assert "policy: rounds-per-researcher" in shown
    assert "3f2a by dora: Plan for ada on fed-heart-disease, 3 rounds, until 2027-01-31T00:00" in shown
    assert "\u202e" not in shown


def test_rows_are_chosen(journal, run):
    of_experiment = run("journal", "cleveland", "--experiment", "heart-1")
    assert "lung-7" not in of_experiment
    assert "by dora" in of_experiment  # the decision belongs to it
    assert len(run("journal", "cleveland", "--kind", "ended").splitlines()) == 3
    assert run("journal", "cleveland", "--since", "2100-01-01").strip() == "No rows."
    assert run("journal", "cleveland", "--since", "2020-01-01T12:00+02:00") == run("journal", "cleveland")


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--since", "yesterday"), "is no date"), (("--kind", "endet"), "no rows of kind")],
    ids=["date", "kind"],
)
def test_what_cannot_be_chosen_by(journal, run, words, says):
    with pytest.raises(ConfigError, match=says) as caught:
        run("journal", "cleveland", *words)
    assert caught.value.to_do


# ---- whether it is whole


def test_a_whole_journal(journal, run):
    said = run("journal", "verify", "cleveland")
    assert "rows are as they were written, and none is missing" in said
    assert "Not signed" in said


def test_the_first_broken_row_is_named(journal, node, run):
    with node.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER journal_no_update")
        connection.exec_driver_sql("UPDATE journal SET facts = replace(facts, '172', '173') WHERE kind = 'ended'")
        first = connection.exec_driver_sql("SELECT min(number) FROM journal WHERE kind = 'ended'").scalar()
    with pytest.raises(JournalBroken, match=f"row {first} of the journal of node cleveland"):
        run("journal", "verify", "cleveland")


# ---- taking it along


def test_an_export_without_a_key(journal, run, tmp_path):
    said = run("journal", "export", "cleveland", "--to", "out.jsonl")
    assert "Not signed" in said
    rows = (tmp_path / "out.jsonl").read_bytes().splitlines()
    previous = "0" * 64
    for number, row in enumerate(rows, 1):
        assert json.loads(row)["previous"] == previous
        assert json.loads(row)["number"] == number
        previous = hashlib.sha256(row).hexdigest()
    digest, name = (tmp_path / "out.jsonl.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256((tmp_path / "out.jsonl").read_bytes()).hexdigest(), "out.jsonl")
    with pytest.raises(ConfigError, match="exists already"):
        run("journal", "export", "cleveland", "--to", "out.jsonl")


def test_an_export_is_checked_with_openssl_alone(journal, node, run, tmp_path):
    folder = node_identity_folder(node.folder)
    Identity(Role.NODE, "cleveland", "Cleveland", "hub", ("tls://127.0.0.1:1",), "", KeyPair.generate()).save(folder)
    said = run("journal", "export", "cleveland", "--to", "out.jsonl")
    assert "Not signed" not in said
    assert "Signed up to row" in run("journal", "verify", "cleveland")
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")

    def check():
        words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "out.jsonl.key.pem", "-rawin"]
        words += ["-in", "out.jsonl.sha256", "-sigfile", "out.jsonl.sha256.sig"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert check()
    sums = tmp_path / "out.jsonl.sha256"
    sums.write_text(sums.read_text().replace("a", "b", 1).replace("0", "1", 1))
    assert not check()


# ---- the report


def test_a_report_tells_all_of_one_experiment(journal, run, tmp_path):
    run("report", "cleveland", "heart-1", "--to", "reports")
    text = (tmp_path / "reports" / "cleveland-heart-1.txt").read_text()
    page = (tmp_path / "reports" / "cleveland-heart-1.html").read_text()
    for told in (
        "ada", "172", SHA, "2 done, 1 failed", "2 tensors, 104 bytes", "rounds-per-researcher", "dora",
        "without network", "until 2027-01-31", "ab" * 32, "none is missing", "training at train",
    ):  # fmt: skip
        assert told in text, told
        assert told in page, told
    assert "lung-7" not in text + page
    assert "bob" not in text


def test_a_report_loads_nothing_and_shows_texts_as_they_are(journal, run, tmp_path):
    run("report", "cleveland", "heart-1")
    page = (tmp_path / "cleveland-heart-1.html").read_text()
    assert "&lt;b&gt;heart&lt;/b&gt;" in page
    assert "<b>heart</b>" not in page
    assert "\u202e" not in page
    for loads in ("src=", "href=", "url(", "@import", "<script"):
        assert loads not in page


def test_a_report_of_a_broken_journal_says_so_first(journal, node, run, tmp_path):
    with node.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER journal_no_delete")
        connection.exec_driver_sql("DELETE FROM journal WHERE number = 3")
    run("report", "cleveland", "heart-1")
    assert "is broken" in (tmp_path / "cleveland-heart-1.txt").read_text()
    page = (tmp_path / "cleveland-heart-1.html").read_text()
    assert page.index("is broken") < page.index("In short")


def test_a_report_of_an_experiment_that_there_is_not(journal, run):
    with pytest.raises(ConfigError, match="knows of no experiment 'hart-1'") as caught:
        run("report", "cleveland", "hart-1")
    assert "heart-1" in caught.value.to_do
