"""Hostile plans, run for real in the sandbox of a node."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from polyclinic import tensors
from polyclinic.errors import SandboxError
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.node import sandbox
from tests.node.hostile import Hospital

pytestmark = pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem() or "sandbox works")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    yield made
    made.workshop.end()


TRY = """
def attempt(name, action):
    try:
        found[name] = str(action())
    except BaseException as err:
        found[name] = "refused: " + type(err).__name__
"""


def refused(found: dict[str, Any]) -> bool:
    return bool(found) and all(value.startswith("refused: ") for value in found.values())


def test_an_honest_plan_is_trained_and_its_reply_is_moved_out(hospital):
    answer = hospital.run("")
    assert isinstance(answer.reply, TrainReply), answer.reply
    assert set(tensors.load_file(answer.tensors)) == {"model.weight", "model.bias"}


def test_a_worker_loads_only_what_its_round_needs(hospital):
    found = hospital.found("import sys\nfound['loaded'] = sorted({'sqlalchemy', 'sklearn', 'nats'} & set(sys.modules))")
    assert found == {"loaded": []}  # each of them takes a tenth of a second or more of a first round


def test_it_reads_no_key_database_policy_or_other_dataset(hospital):
    files = [hospital.key, hospital.folder / "node.sqlite", hospital.folder / "policy.toml", hospital.secret]
    files += [Path("/etc/shadow"), Path("/etc/passwd"), hospital.other.folder / "node.sqlite"]
    assert all(path.exists() for path in files)
    found = hospital.found(TRY + f"for path in {[str(f) for f in files]}: attempt(path, lambda: open(path).read())")
    assert len(found) == len(files)
    assert refused(found), found


def test_it_sees_no_process_and_no_variable_of_the_node(hospital, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_DATABASE", "SECRET-PASSWORD")
    act = """
import os
texts = []
for pid in filter(str.isdecimal, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            texts.append(open(f"/proc/{pid}/{name}").read())
        except OSError:
            pass
found["processes"] = len(list(filter(str.isdecimal, os.listdir("/proc"))))
found["texts"] = "".join(texts)
found["variables"] = " ".join(os.environ)
found["root"] = sorted(os.listdir("/root") if os.path.isdir("/root") else [])
"""
    found = hospital.run(act, experiment="fresh").reply.what
    hospital.workshop.end()  # it was started with the variable
    seen = json.loads(found.partition("FOUND")[2])
    assert seen["processes"] == 2
    assert "SECRET" not in found
    assert "POLYCLINIC_DATABASE" not in seen["variables"]
    assert "pytest" not in seen["texts"].replace("pytest-of", "").replace("/pytest", "")


def test_it_reaches_no_socket(hospital):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0polyclinic-test-{os.getpid()}"
        abstract.bind(name)
        abstract.listen()
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        act = f"""
import socket
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), timeout=3))
attempt("far", lambda: socket.create_connection(("192.0.2.1", 4222), timeout=3))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect({name!r}))
attempt("name", lambda: socket.getaddrinfo("example.org", 80))
"""
        found = hospital.found(TRY + act)
    assert len(found) == 4
    assert refused(found), found


def test_it_writes_nowhere_but_where_it_may(hospital, tmp_path):
    package = Path(sandbox.__file__).parent
    data = package.parent / "datasets" / "fed_heart_disease"
    places = [
        tmp_path,
        data,
        Path.home(),
        Path("/"),
        Path("/usr"),
        Path("/dev"),
        Path("/etc"),
        package,
    ]
    act = f"""
for place in {[str(place) for place in places]}:
    attempt(place, lambda: open(place + "/hostile", "w"))
"""
    found = hospital.found(TRY + act)
    assert len(found) == len(set(places))
    assert refused(found), found
    assert not [place for place in places if (place / "hostile").exists()]


def test_it_gains_no_rights(hospital):
    act = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(action):
    if action() == -1:
        raise OSError(ctypes.get_errno(), "no")
attempt("user", lambda: call(lambda: libc.unshare(0x10000000)))
attempt("mount", lambda: call(lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
attempt("trace", lambda: call(lambda: libc.ptrace(16, 1, 0, 0)))
attempt("memory", lambda: os.memfd_create("x"))
attempt("root", lambda: os.setuid(0))
attempt("files", lambda: __import__("resource").setrlimit(7, (10**5, 10**5)))
"""
    found = hospital.found(TRY + act)
    assert len(found) == 6
    assert refused(found), found


def test_it_kills_none_but_its_own(hospital):
    act = f"""
import os, signal
for pid in [1, os.getppid(), {os.getpid()}, {hospital.worker()}]:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        pass
found["alive"] = True
"""
    assert hospital.found(act) == {"alive": True}
    assert isinstance(hospital.run("").reply, TrainReply)


def test_memory_that_one_process_takes_is_refused(hospital):
    found = hospital.found(TRY + 'attempt("memory", lambda: len(bytearray(6 * 10**9)))')
    assert found == {"memory": "refused: MemoryError"}


def test_memory_that_processes_take_together_ends_them(hospital):
    act = """
import os, time
for _ in range(4):
    if not os.fork():
        held = b"x" * 400_000_000
        time.sleep(100)
time.sleep(100)
"""
    reply = hospital.run(act).reply
    assert reply.code == SandboxError.code, reply
    assert "1.5 GB of memory" in reply.what


def test_a_fork_bomb_ends(hospital):
    reply = hospital.run("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass").reply
    assert reply.code == SandboxError.code, reply
    assert "8 processes" in reply.what


def test_a_full_disk_is_prevented(hospital):
    act = """
import os, time
(place,) = [p for p in (line.split()[1] for line in open("/proc/mounts")) if p.endswith("/written")]
attempt("one file", lambda: open(place + "/large", "wb").write(bytes(21_000_000)))
"""
    # By the process's own limit; or by the watch, if it looks when the file has just come as far as that.
    reply = hospital.run(TRY + act).reply
    assert reply.code == SandboxError.code or refused(json.loads(reply.what.partition("FOUND")[2])), reply
    act = """
import time
(place,) = [p for p in (line.split()[1] for line in open("/proc/mounts")) if p.endswith("/written")]
import os
files = []
for number in range(3):
    files.append(open(f"{place}/file-{number}", "wb"))
    os.unlink(f"{place}/file-{number}")
    files[-1].write(bytes(15_000_000))
    files[-1].flush()
time.sleep(100)
"""
    reply = hospital.run(act).reply
    assert reply.code == SandboxError.code, reply
    assert "0.02 GB of files" in reply.what


def test_what_it_prints_without_end_is_not_held(hospital):
    act = """
import sys, os
for _ in range(100):
    os.write(2, b"SECRET-ROW" * 1000)
    os.write(1, b"SECRET-ROW" * 1000)
"""
    assert isinstance(hospital.run(act).reply, TrainReply)
    (boxed,) = hospital.workshop._boxes._boxes.values()
    assert len(boxed.worker._said) <= 2000


def test_what_ignores_signals_and_runs_for_ever_is_stopped(hospital):
    act = """
import signal, time
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(0.1)
"""
    reply = hospital.run(act, stop_after=0.3).reply
    assert reply.code == "cancelled", reply


def test_forged_frames_are_its_own_reply_at_the_most(hospital):
    act = """
import os, stat
from polyclinic.messages import codec
for number in range(3, 100):
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.write(number, (2**32 - 1).to_bytes(4, "little") * 100)
    except OSError:
        pass
"""
    reply = hospital.run(act).reply
    assert isinstance(reply, Failure)
    assert reply.stage == "process"
    # The next one has a new worker, and hears nothing of it.
    assert isinstance(hospital.run("").reply, TrainReply)


def test_a_second_answer_is_not_heard_in_the_next_round(hospital):
    act = """
import io, os, stat
from polyclinic.messages.replies import Failure
from polyclinic.node.worker import write_frame
frame = io.BytesIO()
reply = Failure(request_id="r9999", node_id="x", code="node", stage="x", what="x")
write_frame(frame, {"tensors": "/etc/shadow"}, reply)
for number in range(3, 100):
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.write(number, frame.getvalue())
    except OSError:
        pass
"""
    reply = hospital.run(act).reply
    assert isinstance(reply, Failure)
    assert (reply.stage, reply.request_id) == ("process", f"r{hospital.count}")
    assert isinstance(hospital.run("").reply, TrainReply)


@pytest.mark.parametrize("trick", ["symlink", "fifo", "folder"])
def test_what_is_no_file_is_not_taken_for_a_reply(hospital, trick):
    # It answers by itself, and then waits: the node must not follow, wait for or open what lies there.
    make = {
        "symlink": f"os.symlink({str(hospital.key)!r}, path)",
        "fifo": "os.mkfifo(path)",
        "folder": "os.mkdir(path)",
    }
    act = f"""
import io, os, stat, time, gc
from polyclinic.messages.replies import TrainReply
from polyclinic.node.worker import write_frame
(place,) = [p for p in (line.split()[1] for line in open("/proc/mounts")) if p.endswith("/written")]
path = place + "/reply.safetensors"
{make[trick]}
frame = io.BytesIO()
reply = TrainReply(request_id="r{hospital.count + 1}", node_id="x", num_samples=1, num_updates=1, loss=0.0, seconds=0.0)
write_frame(frame, {{"tensors": path}}, reply)
for number in range(3, 100):
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.write(number, frame.getvalue())
    except OSError:
        pass
time.sleep(100)
"""
    answer = hospital.run(act)
    assert isinstance(answer.reply, Failure), answer.reply
    assert answer.reply.stage == "process"
    assert answer.tensors is None
    assert hospital.key.read_text() == "SECRET-SEED"


def test_links_in_its_state_lead_nowhere(hospital):
    act = f"""
import os
(place,) = [p for p in (line.split()[1] for line in open("/proc/mounts")) if p.endswith("/experiments/linked")]
os.symlink({str(hospital.key)!r}, place + "/round-000000.safetensors")
attempt("key", lambda: open(place + "/round-000000.safetensors").read())
attempt("hard link", lambda: os.link({str(hospital.key)!r}, place + "/key"))
"""
    reply = hospital.run(TRY + act, experiment="linked").reply
    assert refused(json.loads(reply.what.partition("FOUND")[2])), reply
    (boxed,) = [b for key, b in hospital.workshop._boxes._boxes.items() if "linked" in key]
    hospital.workshop._boxes.drop(boxed)
    assert hospital.key.read_text() == "SECRET-SEED"


def test_what_is_left_behind_ends(hospital):
    act = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(1000)
    os._exit(0)
"""
    answer = hospital.run(act)
    assert isinstance(answer.reply, TrainReply), answer.reply
    boxed = next(reversed(hospital.workshop._boxes._boxes.values()))
    ended = threading.Event()
    for _ in range(600):
        if not boxed.worker.alive:
            ended.set()
            break
        time.sleep(0.05)
    assert ended.is_set()
    assert "goes on after the answer" in boxed.over
