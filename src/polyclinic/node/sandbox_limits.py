"""How much a plan may use: limits that its process has, and a watch over all processes of its sandbox.

A process's own limits hold at once, but each for itself. The watch adds up over processes and files, a few times a
second, and has the whole sandbox killed when it uses more than it may. Where there are control groups, the system adds
up memory, processes and processors itself, and at once.
"""

from __future__ import annotations

import logging
import os
import resource
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from polyclinic.node.cgroups import Group
from polyclinic.node.policy import Resources

log = logging.getLogger("polyclinic.node")

_BUSY_SECONDS, _IDLE_SECONDS = 0.1, 1.0
_MANY_FILES = 10_000
# Torch reserves more than a gigabyte when it first computes, and touches little of it.
_RESERVED_BYTES = 2 << 30
# A process's threads count as processes for the system; libraries start some for each core.
_THREADS_A_CORE = 8
_CPU_PERIOD = 100_000  # microseconds


def limits_of(resources: Resources, *, own_user: bool) -> dict[str, int]:
    """The limits of each process, by their names in the module ``resource``.

    Args:
        own_user: see `sandbox.worker_command`.
    """
    limits = {
        # Memory of its own, also in maps; not RLIMIT_AS, which counts what is only mapped, as torch does plenty.
        "RLIMIT_DATA": int(resources.memory_gb * 1e9),
        "RLIMIT_FSIZE": int(resources.file_gb * 1e9),
        "RLIMIT_NOFILE": resources.open_files,
        "RLIMIT_CORE": 0,
    }
    if own_user:
        limits["RLIMIT_NPROC"] = _tasks(resources)
    return limits


def group_settings(resources: Resources) -> dict[str, str]:
    """The settings of a worker's control group, by their files' names."""
    cores = resources.cpu_cores
    return {
        "cpu.max": f"{'max' if cores is None else max(1000, round(cores * _CPU_PERIOD))} {_CPU_PERIOD}",
        "memory.max": str(int(resources.memory_gb * 1e9)),
        "memory.swap.max": "0",
        "memory.oom.group": "1",  # all or nothing: a worker without one of its processes would only hang
        "pids.max": str(_tasks(resources) + 2),  # two of bubblewrap
    }


def passed_in(group: Group, resources: Resources) -> str:
    """The limit that a control group has refused to pass, for a reader; empty if none."""
    if group.count("memory.events", "oom_kill"):
        return _more_memory(resources)
    if group.count("pids.events", "max"):
        return f"more than {resources.processes} processes, counted with their threads"
    return ""


def _more_memory(resources: Resources) -> str:
    return f"more than {resources.memory_gb:g} GB of memory"


def _tasks(resources: Resources) -> int:
    return resources.processes + _THREADS_A_CORE * (os.cpu_count() or 1)


def apply(limits: Mapping[str, int], cores: float | None = None) -> None:
    """Sets limits of this process, for good; a lower limit that it has already stays.

    To be called when torch has been imported: its memory, most of which is never touched, is not the plan's.
    """
    for name, value in limits.items():
        if name == "RLIMIT_DATA":
            value += _data_bytes() + _RESERVED_BYTES
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (least, least))
    if cores is not None:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: max(1, round(cores))])


def _data_bytes() -> int:
    """What this process has of what RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


class Watch:
    """Looks after the processes below one, in a thread of its own, until they have ended.

    Args:
        root: the process id whose descendants are looked after.
        own: how many processes there are without any that a plan started, the root included.
        resources: the limits.
        folders: where they may write.
        end: kills them all.
        group: that they are in, if any.
    """

    def __init__(
        self,
        root: int,
        own: int,
        resources: Resources,
        folders: tuple[Path, ...],
        end: Callable[[], None],
        group: Group | None = None,
    ) -> None:
        self._group = group
        self.busy = True
        self.over = ""  # the limit that was passed, for a reader
        self._root, self._own, self._resources = root, own, resources
        self._folders, self._end = folders, end
        self._ended = threading.Event()
        self._strays = 0
        threading.Thread(target=self._run, name="sandbox-watch", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_BUSY_SECONDS if self.busy else _IDLE_SECONDS):
            try:
                passed = self._passed()
            except OSError:  # what was looked at was going away
                continue
            except Exception:
                # A plan that nobody watches any more must not go on.
                log.exception("a plan's use cannot be watched")
                passed = "what cannot be watched"
            if passed:
                self.over = passed
                self._end()
                return

    def _passed(self) -> str:
        if self._group is not None and (passed := passed_in(self._group, self._resources)):
            return passed
        most = self._resources.processes + self._own
        found = processes_below(self._root, most)
        if len(found) > most:
            return f"more than {self._resources.processes} processes"
        # What a plan leaves behind when it has answered would go on unseen.
        self._strays = 0 if self.busy or len(found) <= self._own else self._strays + 1
        if self._strays > 1:
            return "a process that goes on after the answer"
        most_memory = self._resources.memory_gb * 1e9
        # What forked processes share is counted for each of them at first; the exact sum takes longer.
        if memory_of(found) > most_memory and exact_memory_of(found) > most_memory:
            return _more_memory(self._resources)
        if disk_of(found, self._folders) > self._resources.file_gb * 1e9:
            return f"more than {self._resources.file_gb:g} GB of files, or than {_MANY_FILES} files"
        return ""


def processes_below(root: int, most: int) -> list[int]:
    """The ids of a process and of what descends from it; a few more than ``most`` at the most."""
    found: list[int] = []
    waiting = [root]
    while waiting and len(found) <= most:
        pid = waiting.pop()
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            found.append(pid)
    return found


def memory_of(pids: list[int]) -> float:
    """Bytes that these processes hold and that are in no file; what several share counts several times."""
    return sum(_in_status(pid) for pid in pids)


def exact_memory_of(pids: list[int]) -> float:
    """As `memory_of`, where what several share counts once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def disk_of(pids: list[int], folders: tuple[Path, ...]) -> float:
    """Bytes of the files in some folders, and of files that have no name any more and are open still.

    Infinite for very many files.
    """
    used = [0, 0]
    for folder in folders:
        _add_up(folder, used)
    devices = {folder.stat().st_dev for folder in folders if folder.exists()}
    seen = set()
    for pid in pids:
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    about = descriptor.stat()
                    key = about.st_dev, about.st_ino
                    if not about.st_nlink and key not in seen and about.st_dev in devices:
                        seen.add(key)
                        used[0] += about.st_blocks * 512
    return float("inf") if used[1] > _MANY_FILES else float(used[0])


def _add_up(folder: str | Path, used: list[int]) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            used[1] += 1
            if used[1] > _MANY_FILES:
                return
            with suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                used[0] += about.st_blocks * 512
                if stat.S_ISDIR(about.st_mode):
                    _add_up(entry.path, used)


def _in_status(pid: int) -> int:
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total
