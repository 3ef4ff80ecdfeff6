"""Control groups: what is read of them as text, and what they do for real where this system lets us divide ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from polyclinic.errors import SandboxError
from polyclinic.messages.replies import Failure
from polyclinic.node import sandbox
from polyclinic.node.cgroups import Group, Groups, divide, own_group
from polyclinic.node.policy import Resources
from polyclinic.node.sandbox_limits import Watch, group_settings, passed_in
from tests.node.hostile import Hospital

V2 = "25 20 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 30 0:26 / /sys/fs/cgroup/pids rw shared:11 - cgroup cgroup rw,pids\n"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "found"),
    [
        ("0::/system.slice/node.service\n", V2, "/sys/fs/cgroup/system.slice/node.service"),
        ("8:pids:/x\n0::/\n", V1 + V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "), "/sys/fs/cgroup/unified"),
        ("0::/a/b/c\n", V2.replace(" / ", " /a/b "), "/sys/fs/cgroup/c"),
        ("0::/a\n", V2.replace("/sys/fs/cgroup ", "/my\\040groups "), "/my groups/a"),
        ("0::/a\n", V2.replace(" / ", " /b "), None),  # another part of the tree is mounted
        ("0::/../a\n", V2, None),  # outside of what this namespace sees
        ("8:pids:/x\n", V1, None),
        ("0::/a\n", V1, None),
        ("", "", None),
    ],
)
def test_the_groups_folder_is_found(cgroup: str, mountinfo: str, found: str | None) -> None:
    assert own_group(cgroup, mountinfo) == (found and Path(found))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files as the system has them in a group."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io pids\n")
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_the_node_moves_down_and_hands_on_what_there_is(folder: Path) -> None:
    left, busy = folder / "worker-left", folder / "worker-busy"
    left.mkdir()
    (busy / "x").mkdir(parents=True)
    assert divide(folder) == Groups(folder, ("cpu", "pids"))
    assert (folder / "node" / "cgroup.procs").read_text() == "0"
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +pids"
    assert (left.exists(), busy.exists()) == (False, True)


def test_a_group_without_a_controller_is_left_as_it_is(folder: Path) -> None:
    (folder / "cgroup.controllers").write_text("hugetlb\n")
    assert divide(folder) is None
    assert not (folder / "node").exists()


def test_where_it_may_not_be_divided_the_node_goes_back(folder: Path) -> None:
    (folder / "cgroup.subtree_control").unlink()
    (folder / "cgroup.subtree_control").mkdir()  # cannot be written, also not by root
    with pytest.raises(OSError, match="subtree_control"):
        divide(folder)
    assert (folder / "cgroup.procs").read_text() == "0"


def test_settings_are_the_policys() -> None:
    settings = group_settings(Resources(memory_gb=1.5, cpu_cores=0.5, processes=8))
    assert settings["memory.max"] == "1500000000"
    assert settings["memory.swap.max"] == "0"
    assert settings["cpu.max"] == "50000 100000"
    assert settings["pids.max"] == str(8 + 8 * (os.cpu_count() or 1) + 2)
    assert group_settings(Resources())["cpu.max"] == "max 100000"


def test_only_settings_that_the_system_has_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "worker-1"
    monkeypatch.setattr("polyclinic.node.cgroups.tempfile.mkdtemp", lambda **_: str(made))
    made.mkdir()
    for name in ("pids.max", "memory.max", "cpu.max"):
        (made / name).write_text("max")
    Groups(tmp_path, ("memory", "pids")).make(group_settings(Resources(memory_gb=2, processes=4, cpu_cores=1)))
    assert (made / "memory.max").read_text() == "2000000000"
    assert (made / "pids.max").read_text() != "max"
    assert (made / "cpu.max").read_text() == "max"
    assert not (made / "memory.swap.max").exists()


def test_a_group_that_cannot_be_made_is_an_error_for_the_data_manager(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot make a control group") as caught:
        Groups(tmp_path / "gone", ()).make({})
    assert str(tmp_path / "gone") in caught.value.to_do


@pytest.mark.parametrize(
    ("file", "text", "passed"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\n", "more than 16 GB of memory"),
        ("memory.events", "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n", ""),
        ("pids.events", "max 2\n", "more than 64 processes, counted with their threads"),
        ("pids.events", "max 0\n", ""),
    ],
)
def test_events_say_which_limit_was_passed(tmp_path: Path, file: str, text: str, passed: str) -> None:
    (tmp_path / file).write_text(text)
    assert passed_in(Group(tmp_path), Resources()) == passed


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """Its workers have a folder in place of a group: what the system writes there is written by hand."""
    if why := sandbox.problem():
        pytest.skip(why)
    made = Hospital(tmp_path)
    made.workshop._boxes._groups = Groups(tmp_path / "groups", ())
    (tmp_path / "groups").mkdir()
    yield made
    made.workshop.end()


def _its_worker(hospital: Hospital) -> tuple[Watch, Path]:
    assert isinstance(hospital.run("found['x'] = 1").reply, Failure)
    (boxed,) = hospital.workshop._boxes._boxes.values()
    assert boxed.worker._group is not None
    assert boxed.worker.watch is not None
    return boxed.worker.watch, boxed.worker._group.folder


@pytest.mark.parametrize(
    ("file", "event", "passed"),
    [("pids.events", "max 1\n", "more than 8 processes"), ("memory.events", "oom_kill 1\n", "1.5 GB of memory")],
)
def test_what_a_group_refused_is_told_as_a_limit_of_the_policy(
    hospital: Hospital, file: str, event: str, passed: str
) -> None:
    watch, group = _its_worker(hospital)
    assert (group / "cgroup.procs").read_text() == "0\n"  # it has entered

    def happens_at_work() -> None:
        while not watch.busy:  # a worker that is ended at rest has another one in its place
            time.sleep(0.01)
        (group / file).write_text(event)

    happening = threading.Thread(target=happens_at_work)
    happening.start()
    reply = hospital.run("import time; time.sleep(999)").reply
    happening.join()
    assert reply.code == SandboxError.code, reply
    assert passed in reply.what
    assert (group / "cgroup.kill").read_text() == "1"


def test_what_the_system_killed_before_the_watch_looked_is_told_the_same(hospital: Hospital) -> None:
    watch, group = _its_worker(hospital)
    watch.stop()
    (group / "memory.events").write_text("oom_kill 2\n")
    reply = hospital.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").reply
    assert reply.code == SandboxError.code, reply
    assert "1.5 GB of memory" in reply.what


# ---- for real


@contextmanager
def _part_of_ours(*wanted: str) -> Iterator[tuple[Path, list[str]]]:
    """A new group below the one of this process, and the controllers that it has; the test is skipped where the system
    does not allow that, or has not got those wanted."""
    own = own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("this process is in no control group (v2) that it may write")
    known = (own / "cgroup.controllers").read_text().split()
    if lacking := set(wanted) - set(known):
        pytest.skip(f"no controller {', '.join(sorted(lacking))} in the control group (v2) of this process")
    before = (own / "cgroup.subtree_control").read_text().split()
    added = [name for name in known if name not in before]
    try:
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in added))
        made = Path(tempfile.mkdtemp(prefix="polyclinic-test-", dir=own))
    except OSError as err:
        pytest.skip(f"the control group (v2) of this process cannot be divided: {err}")
    try:
        yield made, known
    finally:
        for folder in (*made.glob("*/"), made):
            Group(folder).end()
        with suppress(OSError):
            (own / "cgroup.subtree_control").write_text(" ".join(f"-{name}" for name in added))


def _python_in(group: Path, program: str, *words: str) -> dict[str, object]:
    """What a program prints that is started in a group."""
    command = Group(group).entering([sys.executable, "-c", program, *words])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


DIVIDE = """
import json, subprocess, sys
from pathlib import Path
from polyclinic.node import cgroups

cgroups._WANTED = tuple(sys.argv[1].split())
groups = cgroups.delegated()
assert groups is not None
assert cgroups.delegated() is groups
group = groups.make({})
orphan = "import os, time\\nif not os.fork():\\n    os.setsid()\\n    os.fork()\\n    time.sleep(999)\\n"
subprocess.run(group.entering([sys.executable, "-c", orphan]), check=True)
within = []
while len(within) < 2:  # the two that have left their parent's session behind
    within = (group.folder / "cgroup.procs").read_text().split()
group.end()
print(json.dumps({
    "me": Path("/proc/self/cgroup").read_text(),
    "controllers": groups.controllers,
    "handed_on": (groups.folder / "cgroup.subtree_control").read_text().split(),
    "left": group.folder.exists(),  # a group with a process in it cannot be removed
}))
"""


def test_a_process_divides_its_group_and_ends_all_that_entered_a_part() -> None:
    with _part_of_ours() as (made, known):
        if not known:
            pytest.skip("no controller at all in the control group (v2) of this process")
        found = _python_in(made, DIVIDE, " ".join(known))
        assert f"/{made.name}/node\n" in str(found["me"])
        assert sorted(found["controllers"]) == sorted(found["handed_on"]) == sorted(known)  # type: ignore[call-overload]
        assert found["left"] is False


def test_a_group_with_other_programs_in_it_is_not_divided() -> None:
    with _part_of_ours() as (made, known):
        other = subprocess.Popen(Group(made).entering(["/bin/sleep", "999"]))
        try:
            while str(other.pid) not in (made / "cgroup.procs").read_text().split():
                time.sleep(0.01)
            program = DIVIDE.partition("assert")[0] + 'print(json.dumps({"none": groups is None}))'
            assert _python_in(made, program, " ".join(known)) == {"none": True}
            assert not (made / "node").exists()
        finally:
            other.kill()
            other.wait()


BOMB = """
import json, os, sys, time
count = 0
try:
    while count < 1000:
        if not os.fork():
            time.sleep(999)
            os._exit(0)
        count += 1
except OSError as err:
    print(json.dumps({"forked": count, "refused": err.errno}))
"""


def test_more_processes_than_a_group_may_have_are_refused() -> None:
    with _part_of_ours("pids") as (made, _):
        (made / "cgroup.subtree_control").write_text("+pids")
        groups = Groups(made, ("pids",))
        group = groups.make(group_settings(Resources(processes=8)))
        most = int((group.folder / "pids.max").read_text())
        process = subprocess.Popen(group.entering([sys.executable, "-c", BOMB]), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        assert found["forked"] == most - 1
        assert passed_in(group, Resources(processes=8)).startswith("more than 8 processes")
        group.end()
        process.wait()
        process.stdout.close()
        assert not group.folder.exists()


def test_memory_above_that_of_a_group_ends_all_in_it() -> None:
    with _part_of_ours("memory") as (made, _):
        (made / "cgroup.subtree_control").write_text("+memory")
        resources = Resources(memory_gb=0.1)
        group = Groups(made, ("memory",)).make(group_settings(resources))
        act = "import os, time\nos.fork()\nheld = b'x' * 80_000_000\ntime.sleep(999)\n"
        process = subprocess.Popen(group.entering([sys.executable, "-c", act]))
        assert process.wait() == -9
        assert passed_in(group, resources) == "more than 0.1 GB of memory"
        group.end()
        assert not group.folder.exists()


HOSTILE = """
import json, sys
from pathlib import Path
from polyclinic.node import cgroups
from tests.node.hostile import Hospital

cgroups._WANTED = tuple(sys.argv[2].split())
hospital = Hospital(Path(sys.argv[1]))
said = hospital.workshop.describe()
hospital.run("")
(group,) = cgroups.delegated().folder.glob("worker-*")
within = (group / "cgroup.procs").read_text().split()
bomb = "import os\\nwhile True:\\n    try:\\n        os.fork()\\n    except OSError:\\n        pass"
reply = hospital.run(bomb).reply
again = hospital.run("").reply
hospital.workshop.end()
left = [path.name for path in cgroups.delegated().folder.glob("worker-*")]
print(json.dumps({
    "said": said, "within": len(within), "code": reply.code, "what": reply.what,
    "again": type(again).__name__, "left": left,
}))
"""


@pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem() or "sandbox works")
@pytest.mark.parametrize("wanted", ["pids", ""])
def test_a_fork_bomb_in_a_sandbox_is_refused_and_the_next_round_is_done(tmp_path: Path, wanted: str) -> None:
    # Without a controller that holds them, the watch ends it; the group is there all the same.
    with _part_of_ours(*wanted.split()) as (made, known):
        if not known:
            pytest.skip("no controller at all in the control group (v2) of this process")
        found = _python_in(made, HOSTILE, str(tmp_path), wanted or known[0])
        assert f"control groups ({wanted or known[0]})" in str(found["said"])
        assert found["within"] == 3  # two of bubblewrap, and the worker
        assert found["code"] == SandboxError.code
        assert "more than 8 processes" in str(found["what"])
        assert (found["again"], found["left"]) == ("TrainReply", [])
