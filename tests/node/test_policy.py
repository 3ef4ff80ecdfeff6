"""The policy file: what it says, and that whatever is wrong with it stops the node."""

import hashlib
import os
import tomllib

import pytest

from polyclinic.errors import PolicyInvalid
from polyclinic.node.node import Node
from polyclinic.node.policy import Policy, PolicyFile, default_text
from polyclinic.node.policy_file import POLICY_FILE, look_at, read_policy, write_policy

as_root = pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def folder(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path


def put(folder, text):
    write_policy(folder, text.encode())


def aged(folder):
    """The file, as if it had been written a minute ago: then only a change of it makes the node read it again."""
    found = (folder / POLICY_FILE).stat()
    os.utime(folder / POLICY_FILE, ns=(found.st_atime_ns, found.st_mtime_ns - 60 * 10**9))


# ---- what it says


def test_without_a_file_the_defaults_hold(folder):
    policy = Policy.load(folder)
    assert policy == Policy()
    assert (policy.approval, policy.sandbox) == ("required", "bubblewrap")
    assert (policy.every_dataset.minimum_training_rows, policy.every_dataset.minimum_test_rows) == (10, 10)
    assert policy.leaves.tracebacks is False
    assert policy.digest == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_commented_file_says_what_holds_without_one_and_leaves_no_key_out():
    assert Policy.parse(default_text().encode()).model_dump() == Policy().model_dump()
    said = tomllib.loads(default_text())
    fields = {name for name in Policy.model_fields if name not in ("digest", "datasets", "researchers")}
    assert said.keys() == fields
    for table in ("hours", "leaves", "every_dataset", "resources"):
        known = set(type(getattr(Policy(), table)).model_fields)
        assert known - said[table].keys() <= {"cpu_cores"}  # its default, all of them, is no number
    assert "# cpu_cores" in default_text()


def test_a_datasets_table_has_its_own_keys_and_those_of_every_dataset_otherwise():
    policy = Policy.parse(
        b"[every_dataset]\nminimum_training_rows = 20\nmaximum_rounds = 7\n"
        b"[datasets.heart]\nminimum_test_rows = 5\nmaximum_rounds = 'unlimited'\n"
    )
    heart, other = policy.of_dataset("heart"), policy.of_dataset("lung")
    assert (heart.minimum_training_rows, heart.minimum_test_rows, heart.maximum_rounds) == (20, 5, "unlimited")
    assert (other.minimum_training_rows, other.minimum_test_rows, other.maximum_rounds) == (20, 10, 7)


def test_who_is_not_listed_is_trusted_unless_only_listed_ones_are():
    listed = b"[researchers.ada]\ndatasets = ['heart']\n"
    ada, bob = (Policy.parse(listed).of_researcher(name) for name in ("ada", "bob"))
    assert (ada.datasets, ada.purposes, bob.datasets) == (("heart",), ("*",), ("*",))
    strict = Policy.parse(b"only_listed_researchers = true\n" + listed)
    assert strict.of_researcher("bob") is None
    assert strict.of_researcher("ada").datasets == ("heart",)


def test_the_digest_is_that_of_the_file(folder):
    put(folder, "approval = 'off'\n")
    assert Policy.load(folder).digest == hashlib.sha256(b"approval = 'off'\n").hexdigest()


def test_a_metric_may_leave_if_it_is_named_and_a_loss_if_losses_may():
    def leaves(text):
        return Policy.parse(f"[leaves]\n{text}".encode()).leaves

    assert leaves("").metric("accuracy")
    assert leaves("").metric("loss")
    assert not leaves("losses = false").metric("loss")
    assert not leaves("metrics = ['accuracy']").metric("f1")
    assert leaves("metrics = ['accuracy']").metric("accuracy")
    assert not leaves("metrics = []").metric("accuracy")


# ---- what is wrong with it


@pytest.mark.parametrize(
    ("text", "what", "to_do"),
    [
        ("approvl = 'off'", "unknown key 'approvl'", "did you mean 'approval'?"),
        ("[leaves]\nmetric = []", "unknown key 'leaves.metric'", "did you mean 'metrics'?"),
        ("[every_dataset]\nminimum_rows = 3", "unknown key 'every_dataset.minimum_rows'", "did you mean 'minimum_"),
        ("[datasets.a]\nmaximum_hour = 3", "unknown key 'datasets.a.maximum_hour'", "'maximum_hours'"),
        ("[researchers.ada]\ndataset = ['x']", "unknown key 'researchers.ada.dataset'", "'datasets'"),
        ("digest = 'x'", "unknown key 'digest'", "policy edit"),
        ("approval = 'maybe'", "approval: ", "policy edit"),
        ("[leaves]\nlosses = 'no'", "leaves.losses: ", "policy edit"),
        ("[leaves]\nmetrics = 'accuracy'", "leaves.metrics: ", "policy edit"),
        ("[every_dataset]\nminimum_training_rows = true", "every_dataset.minimum_training_rows: ", "policy edit"),
        ("[every_dataset]\nminimum_training_rows = 0", "every_dataset.minimum_training_rows: ", "policy edit"),
        ("[every_dataset]\nminimum_training_rows = 9.5", "every_dataset.minimum_training_rows: ", "policy edit"),
        ("[every_dataset]\nmaximum_rounds = 'none'\n[datasets.a]", "every_dataset.maximum_rounds: ", "policy edit"),
        ("[every_dataset]\nmaximum_rounds = 'none'", 'or "unlimited"', "policy edit"),
        ("[every_dataset]\nmaximum_hours = nan", "every_dataset.maximum_hours: ", "policy edit"),
        ("[every_dataset]\nmaximum_hours = inf", "every_dataset.maximum_hours: ", "policy edit"),
        ("[every_dataset]\nprivacy = 'dp'", "'differential-privacy', got 'dp'", "policy edit"),
        ("[resources]\nmemory_gb = 0", "resources.memory_gb: ", "policy edit"),
        ("[hours]\nranges = ['7-19']", 'as "19:00-07:00"', "policy edit"),
        ("[hours]\ntime_zone = 'Mars/Olympus'", "a time zone that this machine knows", "policy edit"),
        ("datasets = 3", "datasets: ", "policy edit"),
        ("since = 2020-01-01", "date or time", "policy edit"),
        ("approval = ", "is no TOML", "policy edit"),
        ("approval = 'off'\napproval = 'off'", "is no TOML", "policy edit"),
        ("x = " + "[" * 5000, "is no TOML", "policy edit"),
    ],
    ids=range(25),
)
def test_whatever_is_wrong_is_named(text, what, to_do):
    with pytest.raises(PolicyInvalid) as caught:
        Policy.parse(text.encode())
    assert what in caught.value.what
    assert to_do in caught.value.to_do


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(PolicyInvalid, match="is no TOML"):
        Policy.parse(b"approval = '\xff'")


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666], ids=oct)
def test_a_file_that_others_may_write_is_refused(folder, mode):
    put(folder, "")
    (folder / POLICY_FILE).chmod(mode)
    with pytest.raises(PolicyInvalid, match=f"may be written by others than its owner .mode {mode:o}"):
        Policy.load(folder)


@pytest.mark.parametrize("mode", [0o770, 0o777], ids=oct)
def test_a_folder_that_others_may_write_is_refused_because_they_could_replace_the_file(folder, mode):
    folder.chmod(mode)
    with pytest.raises(PolicyInvalid, match="the node's folder may be written by others"):
        Policy.load(folder)
    folder.chmod(0o700)


@as_root
def test_a_file_that_cannot_be_read_is_refused(folder):
    put(folder, "")
    (folder / POLICY_FILE).chmod(0)
    with pytest.raises(PolicyInvalid, match="cannot be read: Permission denied"):
        Policy.load(folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(folder, monkeypatch):
    put(folder, "")
    os.chown(folder / POLICY_FILE, 12345, -1)
    with pytest.raises(PolicyInvalid, match="belongs to another user"):
        Policy.load(folder)


def test_a_folder_or_a_pipe_in_the_place_of_the_file_is_refused_and_nothing_waits_for_it(folder):
    (folder / POLICY_FILE).mkdir()
    with pytest.raises(PolicyInvalid):
        Policy.load(folder)
    (folder / POLICY_FILE).rmdir()
    os.mkfifo(folder / POLICY_FILE, 0o600)
    with pytest.raises(PolicyInvalid, match="is no file"):
        Policy.load(folder)


def test_a_file_without_end_is_refused(folder):
    put(folder, "#" * (1 << 20) + "\n")
    with pytest.raises(PolicyInvalid, match="more than 1048576 bytes"):
        Policy.load(folder)


# ---- following it


def test_a_change_is_seen_and_a_broken_file_stops_all_until_it_is_mended(folder):
    put(folder, "approval = 'off'\n")
    file = PolicyFile(folder)
    assert file.current().approval == "off"
    put(folder, "approval = \n")
    for _ in range(2):
        with pytest.raises(PolicyInvalid, match="is no TOML"):
            file.current()
    put(folder, "sandbox = 'limits-only'\n")
    assert file.current().sandbox == "limits-only"


def test_a_change_in_place_of_the_same_length_is_seen_also_at_the_same_time(folder):
    path = folder / POLICY_FILE
    put(folder, "approval = 'off'    #\n")
    file = PolicyFile(folder)
    assert file.current().approval == "off"
    before = path.stat()
    path.write_text("approval = 'required'")
    path.write_text("approval = 'required'\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.current().approval == "required"


def test_an_old_file_is_not_read_again_and_again(folder, monkeypatch):
    put(folder, "approval = 'off'\n")
    aged(folder)
    now = look_at.__globals__["time"].time()
    monkeypatch.setattr("polyclinic.node.policy_file.time.time", lambda: now + 60)
    file = PolicyFile(folder)
    file.current()
    monkeypatch.setattr("polyclinic.node.policy.read_policy", lambda _: pytest.fail("read again"))
    assert file.current().approval == "off"


def test_a_mode_that_changes_is_seen(folder):
    put(folder, "approval = 'off'\n")
    file = PolicyFile(folder)
    file.current()
    (folder / POLICY_FILE).chmod(0o666)
    with pytest.raises(PolicyInvalid, match="may be written by others"):
        file.current()
    (folder / POLICY_FILE).chmod(0o600)
    assert file.current().approval == "off"


def test_a_file_that_is_taken_away_does_not_bring_the_defaults_back(folder):
    put(folder, "[every_dataset]\nminimum_training_rows = 100\n")
    file = PolicyFile(folder)
    file.current()
    (folder / POLICY_FILE).unlink()
    with pytest.raises(PolicyInvalid, match="not there any more"):
        file.current()


def test_a_file_that_is_put_there_is_seen(folder):
    file = PolicyFile(folder)
    assert file.current().approval == "required"
    put(folder, "approval = 'off'\n")
    assert file.current().approval == "off"


# ---- replacing it


def test_a_written_file_is_its_owners_alone_and_whole(folder):
    before = os.umask(0)
    try:
        put(folder, "approval = 'off'\n")
    finally:
        os.umask(before)
    assert (folder / POLICY_FILE).stat().st_mode & 0o777 == 0o600
    assert read_policy(folder) == b"approval = 'off'\n"
    assert [path.name for path in folder.iterdir()] == [POLICY_FILE]


def test_a_new_nodes_folder_is_its_owners_alone_whatever_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        node = Node.create(tmp_path, "Guy's")
    finally:
        os.umask(before)
    assert Policy.load(node.folder) == Policy()
