"""Control groups (cgroup v2) for a node's workers, where the system lets the node divide the group that it is in.

::

    <its group>/node/        the node itself: a group that hands controllers on holds no process
    <its group>/worker-…/    one worker, with all that it starts

A service manager gives a node its group (systemd: ``Delegate=yes``). Where it has none that it may divide, or shares it
with other programs, there are no groups, and limits are those of `sandbox_limits` alone.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from polyclinic.errors import SandboxError

log = logging.getLogger("polyclinic.node")

_WANTED = ("cpu", "memory", "pids")
_WORKER = "worker-"
# What was killed is gone after milliseconds, but not at once.
_END_SECONDS, _PAUSE_SECONDS = 1.0, 0.005


@dataclass(frozen=True)
class Group:
    """The group of one worker."""

    folder: Path

    def entering(self, words: list[str]) -> list[str]:
        """The command line that enters the group, and then becomes the one given: nothing of that runs outside."""
        return ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *words]

    def count(self, file: str, event: str) -> int:
        """How often an event has happened, by one of the group's files; 0 where there is no such file."""
        with suppress(OSError):
            for line in (self.folder / file).read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == event:
                    return int(number)
        return 0

    def kill(self) -> None:
        """Kills all that is in it."""
        with suppress(OSError):
            (self.folder / "cgroup.kill").write_text("1")

    def end(self) -> None:
        """Kills all that is in it, and removes it."""
        self.kill()
        latest = time.monotonic() + _END_SECONDS
        while True:
            try:
                self.folder.rmdir()
                return
            except OSError as err:
                if err.errno != errno.EBUSY or time.monotonic() > latest:
                    log.debug("control group %s stays: %s", self.folder, err)
                    return
            time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True)
class Groups:
    """A group that the node may divide, and the controllers that hold in the groups below it."""

    folder: Path
    controllers: tuple[str, ...]

    def make(self, settings: Mapping[str, str]) -> Group:
        """A new group.

        Args:
            settings: by their files' names; what the system has no controller for is left out.

        Raises:
            SandboxError: the system does not take it.
        """
        try:
            group = Group(Path(tempfile.mkdtemp(prefix=_WORKER, dir=self.folder)))
            for name, value in settings.items():
                file = group.folder / name
                # Some are missing although their controller is there: memory.swap.max, where swap is not counted.
                if name.partition(".")[0] in self.controllers and file.exists():
                    file.write_text(value)
        except OSError as err:
            raise SandboxError(
                f"this node cannot make a control group for what it runs: {err.strerror or err}",
                to_do=f"its data manager looks at {self.folder}, or starts the node again",
                stage="sandbox",
            ) from err
        return group


@cache
def delegated() -> Groups | None:
    """The groups of this process, which is moved for it; None if it has none."""
    try:
        own = own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        # The outermost group has no type: it is the system's, and was delegated to nobody.
        return divide(own) if own is not None and (own / "cgroup.type").exists() else None
    except OSError as err:
        log.debug("no control groups: %s", err)
        return None


def own_group(cgroup: str, mountinfo: str) -> Path | None:
    """The folder of a process's group, by the text of its ``cgroup`` and ``mountinfo`` in ``/proc``; None if it cannot
    be seen, or is not of version 2."""
    paths = [line.removeprefix("0::") for line in cgroup.splitlines() if line.startswith("0::/")]
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        if not paths or kind.split()[:1] != ["cgroup2"]:
            continue
        root, mounted = (_unescaped(field) for field in place.split()[3:5])
        path = Path(paths[0])
        if path.is_relative_to(root) and ".." not in path.parts:
            return Path(mounted) / path.relative_to(root)
    return None


def divide(own: Path) -> Groups | None:
    """Moves this process to a group of its own below this one, and hands the controllers on; None if none is there.

    Raises:
        OSError: the group may not be divided, or holds other programs too. All is as it was then.
    """
    known = (own / "cgroup.controllers").read_text().split()
    controllers = tuple(name for name in _WANTED if name in known)
    if not controllers:
        return None
    leaf = own / "node"
    leaf.mkdir(exist_ok=True)
    try:
        (leaf / "cgroup.procs").write_text("0")  # 0: whoever writes it
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    except OSError:
        with suppress(OSError):
            (own / "cgroup.procs").write_text("0")
            leaf.rmdir()
        raise
    for left in own.glob(f"{_WORKER}*"):  # by a node that was killed
        with suppress(OSError):
            left.rmdir()
    return Groups(own, controllers)


def _unescaped(field: str) -> str:
    return os.fsdecode(field.encode().decode("unicode_escape").encode("latin-1"))
