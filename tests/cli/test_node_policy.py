"""polyclinic node policy: what is in force, and how it is changed without losing anything."""

import re

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.errors import ConfigError, PolicyInvalid
from polyclinic.node.database import open_database
from polyclinic.node.journal import Journal
from polyclinic.node.journal_check import read
from polyclinic.node.policy import Policy, default_text
from polyclinic.node.policy_edit import DRAFT


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "place"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("VISUAL", raising=False)
    return tmp_path / "place"


@pytest.fixture
def run(place):
    def run(*words, answer=None, fails=False):
        result = CliRunner().invoke(app, ["node", *words], input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert (result.exit_code != 0) == fails
        return result.output

    run("create", "guys")
    return run


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """What the editor does to the file: each call takes the next of these sed programs."""
    script, programs = tmp_path / "editor", tmp_path / "programs"
    script.write_text(
        f"#!/bin/sh\nset -e\nline=$(head -n 1 {programs})\nsed -i 1d {programs}\n"
        '[ "$line" = fail ] && exit 3\nsed -i "$line" "$1"\n'
    )
    script.chmod(0o700)
    monkeypatch.setenv("EDITOR", str(script))
    return lambda *lines: programs.write_text("".join(f"{line}\n" for line in lines))


def policy(place):
    return Policy.load(place / "guys")


def noted(place):
    """The facts of the journal's policy rows."""
    engine = open_database(place / "guys" / "node.sqlite")
    Journal(engine)
    return [row.facts for row in read(engine) if row.kind == "policy"]


def test_a_new_node_has_the_commented_file(run, place):
    assert (place / "guys" / "policy.toml").read_text(encoding="utf-8") == default_text()
    assert (place / "guys" / "policy.toml").stat().st_mode & 0o777 == 0o600


def test_show_says_what_is_in_force(run, place):
    run("policy", "edit", "guys", "--set", "datasets.heart.minimum_training_rows=50", "--set", "leaves.tracebacks=true")
    out = re.sub(r" +", " ", run("policy", "show", "guys"))
    for told in (
        f"SHA-256 {policy(place).digest[:16]}",
        "plans run only after the data manager's yes",
        "tracebacks leave",
        "losses leave",
        "every dataset 10 rows at least in an update",
        "dataset heart 50 rows at least in an update",
        "Note: no dataset 'heart' is registered here",
    ):
        assert told in out


def test_show_says_what_is_wrong(run, place):
    (place / "guys" / "policy.toml").write_text("approvel = 1\n")
    with pytest.raises(PolicyInvalid, match="unknown key 'approvel'"):
        run("policy", "show", "guys")


def test_without_a_file_the_defaults_are_shown(run, place):
    (place / "guys" / "policy.toml").unlink()
    assert "the defaults: there is no file yet" in run("policy", "show", "guys")


# ---- single values


def test_a_value_is_set_and_everything_else_stays(run, place):
    out = run("policy", "edit", "guys", "--set", "every_dataset.maximum_rounds=7", "--set", "approval=off")
    assert out == 'approval: "required" -> "off"\nevery_dataset.maximum_rounds: "unlimited" -> 7\n'
    now = (place / "guys" / "policy.toml").read_text(encoding="utf-8")
    changed = [(a, b) for a, b in zip(default_text().splitlines(), now.splitlines(), strict=True) if a != b]
    assert changed == [
        ('approval = "required"', 'approval = "off"'),
        ('maximum_rounds = "unlimited"', "maximum_rounds = 7"),
    ]


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("leaves.metrics=['accuracy', 'roc_auc']", "leaves.metrics", ("accuracy", "roc_auc")),
        ("resources.cpu_cores=2", "resources.cpu_cores", 2.0),
        ("hours.ranges=['19:00-07:00']", "hours.ranges", ("19:00-07:00",)),
        ("every_dataset.privacy=secure-aggregation", "every_dataset.privacy", "secure-aggregation"),
    ],
    ids=range(4),
)
def test_values_are_written_as_in_toml_and_a_word_is_a_text(run, place, assignment, key, value):
    run("policy", "edit", "guys", "--set", assignment)
    found = policy(place)
    for step in key.split("."):
        found = getattr(found, step)
    assert found == value


def test_a_change_is_in_the_journal_with_the_digests_of_before_and_after(run, place):
    before = policy(place).digest
    run("policy", "edit", "guys", "--set", "leaves.losses=false")
    (row,) = noted(place)
    assert (row["before"], row["digest"], row["valid"]) == (before, policy(place).digest, True)
    assert row["by"]
    assert run("policy", "edit", "guys", "--set", "leaves.losses=false") == "Nothing was changed.\n"
    assert len(noted(place)) == 1


@pytest.mark.parametrize(
    ("assignment", "what"),
    [
        ("leaves.loses=false", "unknown key 'leaves.loses'"),
        ("leaves.losses=maybe", "leaves.losses: "),
        ("leaves.losses", "'leaves.losses' is no assignment"),
        ("=3", "'=3' is no assignment"),
        ("approval.x=3", "'approval' is no table"),
    ],
    ids=range(5),
)
def test_a_wrong_value_changes_nothing(run, place, assignment, what):
    with pytest.raises(ConfigError, match=re.escape(what)):
        run("policy", "edit", "guys", "--set", "approval=off", "--set", assignment)
    assert (place / "guys" / "policy.toml").read_text(encoding="utf-8") == default_text()
    assert noted(place) == []


def test_a_broken_file_is_mended_by_a_value(run, place):
    (place / "guys" / "policy.toml").write_text("approval = 'maybe'\n")
    (place / "guys" / "policy.toml").chmod(0o666)
    run("policy", "edit", "guys", "--set", "approval=off")
    assert policy(place).approval == "off"


# ---- the editor


def test_what_the_editor_makes_takes_the_files_place(run, place, editor):
    editor("s/^losses = true/losses = false/")
    assert run("policy", "edit", "guys") == "leaves.losses: true -> false\n"
    assert policy(place).leaves.losses is False
    assert not (place / "guys" / DRAFT).exists()


def test_a_draft_that_is_not_valid_is_edited_again(run, place, editor):
    editor("s/^losses = true/losses = 7/", "s/^losses = 7/losses = false/")
    out = run("policy", "edit", "guys", answer="y\n")
    assert "leaves.losses: Input should be a valid boolean, got 7" in out
    assert policy(place).leaves.losses is False


def test_a_draft_that_is_not_valid_is_kept_and_the_policy_stays(run, place, editor):
    editor("s/^losses = true/losses = 7/", "s/^losses = 7/losses = false/")
    out = run("policy", "edit", "guys", answer="n\n", fails=True)
    assert f"Your draft is at {place / 'guys' / DRAFT}" in out
    assert policy(place).leaves.losses is True
    assert "losses = 7" in (place / "guys" / DRAFT).read_text(encoding="utf-8")
    assert (place / "guys" / DRAFT).stat().st_mode & 0o777 == 0o600
    assert "This goes on with the draft" in run("policy", "edit", "guys")
    assert policy(place).leaves.losses is False


def test_a_draft_can_be_discarded(run, place, editor):
    (place / "guys" / DRAFT).write_text("nonsense")
    editor("s/^losses = true/losses = false/")
    run("policy", "edit", "guys", "--discard-draft")
    assert policy(place).leaves.losses is False


def test_an_editor_that_fails_or_is_not_there_changes_nothing(run, place, editor, monkeypatch):
    editor("fail")
    with pytest.raises(ConfigError, match="the editor ended with code 3; nothing was changed"):
        run("policy", "edit", "guys")
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    with pytest.raises(ConfigError, match="there is no editor '/no/such/editor'"):
        run("policy", "edit", "guys")
    assert (place / "guys" / "policy.toml").read_text(encoding="utf-8") == default_text()


def test_a_change_that_somebody_else_made_meanwhile_is_not_undone(run, place, editor):
    other = place / "guys" / "policy.toml"
    editor(f"s/^losses = true/losses = false/; w {other}", "")
    # The editor itself writes the other change into the file in force; the second look at it is taken.
    out = run("policy", "edit", "guys", answer="n\n", fails=True)
    assert "the policy was changed by somebody else meanwhile" in out
    assert "losses = false" in (place / "guys" / DRAFT).read_text(encoding="utf-8")


def test_a_folder_that_others_may_write_is_told(run, place):
    (place / "guys").chmod(0o777)
    with pytest.raises(PolicyInvalid, match="the node's folder may be written by others"):
        run("policy", "edit", "guys", "--set", "approval=off")
    (place / "guys").chmod(0o700)
