"""Calls of the system that a plan has no use for, as a filter of the kernel's own (seccomp, classic BPF).

Refused are those that take memory which no limit counts (``memfd_create``, System V shared memory), that look into
other processes or change them, that make namespaces or mounts, and those in which faults of the kernel were often
found. All others are allowed: what a process may reach is said by the sandbox, not here.

The filter is a list of instructions as in linux/filter.h: ``code`` (16 bits), jumps if true and if false (8 bits
each), ``k`` (32 bits).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable

_LOAD, _IS_EQUAL, _IS_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # ld abs, jeq k, jge k, ret k
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_NUMBER, _ARCHITECTURE = 0, 4  # where they stand in struct seccomp_data
_X32 = 0x40000000  # another way of numbering calls on x86_64

# name -> number on x86_64, on aarch64
REFUSED = {
    "shmget": (29, 194),
    "msgget": (68, 186),
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_secret": (447, 447),
}
# machine -> its AUDIT_ARCH, and its place in the table
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def program(machine: str | None = None) -> bytes:
    """The filter, as ``bwrap --seccomp`` takes it; empty for a machine whose numbers are not known here.

    Args:
        machine: as `platform.machine` names it; None: this one.
    """
    known = _MACHINES.get(platform.machine() if machine is None else machine)
    if known is None:
        return b""
    architecture, place = known
    tests = [(_IS_EQUAL, numbers[place]) for numbers in REFUSED.values()]
    if place == 0:
        tests.insert(0, (_IS_AT_LEAST, _X32))
    # Another architecture (32-bit programs) has other numbers: all of its calls are refused.
    lines = [(_LOAD, 0, 0, _ARCHITECTURE), (_IS_EQUAL, 0, len(tests) + 2, architecture), (_LOAD, 0, 0, _NUMBER)]
    lines += [(code, len(tests) - index, 0, k) for index, (code, k) in enumerate(tests)]
    return _packed([*lines, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)])


def _packed(lines: Iterable[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
