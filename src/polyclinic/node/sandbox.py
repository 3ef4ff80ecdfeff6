"""What a plan can see and use at a hospital: the command line of its sandbox.

bubblewrap (``bwrap``) starts the worker in namespaces of its own. In view are Python and the system's libraries
(read-only), the dataset's files (read-only), the experiment's state and one scratch folder (writable), and nothing
else: no network, no other process, no key, no database, no other dataset, no environment variable of the node.
Paths are the same inside and outside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polyclinic
from polyclinic.datasets.artificial import read_split, split_file
from polyclinic.errors import SandboxError
from polyclinic.node.database import node_folders
from polyclinic.node.policy import Resources
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.sandbox_limits import limits_of

_NOBODY = "65534"
# Linked or mounted as they are on this system.
_ROOTS = ("/bin", "/lib", "/lib32", "/lib64", "/sbin")
# What the loader, locale and time need of /etc, and how many processors torch may count on.
_SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
    "/sys/devices/system/cpu",
)  # fmt: skip
# Of the node's variables, those that say how to compute.
_KEPT_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "TZ", "POLYCLINIC_WEIGHTS",
)  # fmt: skip
_SEPARATE = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
    "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY,
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """What the plan of one experiment has at a node.

    Args:
        dataset: the only one in view.
        node_folder: hidden.
        state: the experiment's own folder; kept over rounds.
        scratch: a folder for files that it writes.
        given: a folder of files that it may only read.
        resources: the policy's limits.
    """

    dataset: RegisteredDataset
    node_folder: Path
    state: Path
    scratch: Path
    given: Path
    resources: Resources


@lru_cache(maxsize=1)
def _looked() -> str:
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed (on Debian and its kin: apt install bubblewrap)"
    # With this Python, which the node's user may be let to run, and not to show to a sandbox.
    trial = [program, *_SEPARATE, *_system(), "--proc", "/proc", "--dev", "/dev"]
    try:
        for tree in _outermost_first(python_trees()):
            trial += ["--ro-bind", str(tree), str(tree)]
        trial += ["--", sys.executable, "-I", "-c", ""]
        done = subprocess.run(trial, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"bubblewrap cannot be run: {err}"
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"bubblewrap cannot make a sandbox: {said[-1] if said else f'exit code {done.returncode}'}"
    return ""


def problem() -> str:
    """Why no sandbox can be made on this machine: a sentence, or empty if one can."""
    found = _looked()
    if found:
        _looked.cache_clear()  # somebody may mend it meanwhile
    return found


def require() -> None:
    """Raises SandboxError if no sandbox can be made on this machine."""
    if why := problem():
        raise SandboxError(
            f"this node cannot contain what it runs: {why}",
            to_do="its data manager installs bubblewrap and allows user namespaces; docs/sandbox.md says how",
            stage="sandbox",
        )


def command(box: Box, *, info: int, filter_: int | None) -> list[str]:
    """The command line that runs a worker in its sandbox.

    Args:
        info: the descriptor that bubblewrap writes the worker's process id to.
        filter_: the descriptor that it reads the filter of calls from (`seccomp`); None: none.

    Raises:
        SandboxError: there is no bubblewrap.
    """
    program = shutil.which("bwrap")
    if program is None:
        require()
    memory = str(int(box.resources.memory_gb * 1e9 / 4))
    words = [str(program), *_SEPARATE, "--hostname", "sandbox", "--clearenv"]
    for name, value in _environment().items():
        words += ["--setenv", name, value]
    words += _system()
    # Devices first, and their folder closed then: it is memory that could be filled.
    words += ["--dev", "/dev", "--size", memory, "--tmpfs", "/dev/shm", *_graphics(), "--remount-ro", "/dev"]
    words += ["--proc", "/proc", "--size", memory, "--tmpfs", "/tmp"]
    trees = [*python_trees(), *dataset_trees(box.dataset)]
    for tree in _outermost_first(trees):
        words += ["--ro-bind", str(tree), str(tree)]
    words += _hidden(box, trees)
    for folder in (box.state, box.scratch):
        words += ["--bind", str(folder), str(folder)]
    words += ["--ro-bind", str(box.given), str(box.given), "--remount-ro", "/", "--chdir", "/"]
    words += ["--info-fd", str(info)] + ([] if filter_ is None else ["--seccomp", str(filter_)])
    return [*words, "--", *worker_command(box.resources, own_user=True)]


def worker_command(resources: Resources, *, own_user: bool) -> list[str]:
    """The command line of a worker with limits.

    Args:
        own_user: nothing else runs as its user, so that its processes can be counted by user.
    """
    limits = {"limits": limits_of(resources, own_user=own_user), "cores": resources.cpu_cores}
    return [sys.executable, "-m", "polyclinic.node.worker", json.dumps(limits)]


def python_trees() -> list[Path]:
    """The folders of this Python, its packages, and this program."""
    found = [Path(sys.prefix), Path(sys.base_prefix), Path(polyclinic.__file__).parent]
    if (weights := os.environ.get("POLYCLINIC_WEIGHTS")) and Path(weights).is_dir():
        found.append(Path(weights))
    return [path for name in found for path in dict.fromkeys((name, name.resolve())) if path.is_dir()]


def dataset_trees(dataset: RegisteredDataset) -> list[Path]:
    """The files and folders of a dataset, and the module that reads it if that is not among Python's packages.

    A module is found by the name of its outermost package, without running it.
    """
    params = dataset.params
    found = [path for path in dataset.kind.paths(params) if path.exists()]
    name = getattr(params, "module", None) or str(getattr(params, "function", "")).rpartition(":")[0]
    if split := split_file(name) if name else None:
        name = read_split(split).dataset
    outermost = name.partition(".")[0]
    if outermost.isidentifier() and (spec := importlib.util.find_spec(outermost)):
        found += [Path(place) for place in spec.submodule_search_locations or ()]
        found += [Path(spec.origin)] if spec.origin and not spec.submodule_search_locations else []
    return [path for path in found if path.exists()]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "nobody",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        # Of these folders, only what is in view is there.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def _system() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for root in map(Path, _ROOTS):
        if root.is_symlink():
            words += ["--symlink", str(root.readlink()), str(root)]
        elif root.is_dir():
            words += ["--ro-bind", str(root), str(root)]
    for name in _SYSTEM_FILES:
        words += ["--ro-bind-try", name, name]
    return words


def _graphics() -> list[str]:
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia*"))
    return [word for device in devices for word in ("--dev-bind", device, device)]


def _outermost_first(trees: Iterable[Path]) -> list[Path]:
    """Without those that lie in others of them."""
    found: list[Path] = []
    for tree in sorted(set(trees), key=lambda path: len(path.parts)):
        if not any(tree.is_relative_to(other) for other in [*found, Path("/usr")]):
            found.append(tree)
    return found


def _hidden(box: Box, trees: list[Path]) -> list[str]:
    """Covers nodes' folders that lie in what is in view."""
    words: list[str] = []
    folders = {box.node_folder, *node_folders(box.node_folder.parent)}
    for folder in sorted(folders):
        if any(folder.is_relative_to(tree) for tree in trees):
            words += ["--tmpfs", str(folder)]
        # Data that lie in the node's folder are in view again.
        for tree in trees:
            if tree != folder and tree.is_relative_to(folder):
                words += ["--ro-bind", str(tree), str(tree)]
    return words
