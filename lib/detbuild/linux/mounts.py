# SPDX-License-Identifier: MIT
"""Directories that a program serves (FUSE), told apart by what does not ask that program: see proc(5), mountinfo."""

from __future__ import annotations

import functools
import os
import re
import select

from detbuild.linux import proc

_SERVED = re.compile(rb" - fuse(blk)?(\.\S*)? ")
_MOUNT = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Mounts:
    """This process's mounts, read again when the kernel says that they changed: an id may be another mount's then."""

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb", buffering=0)  # noqa: SIM115  kept as long as this process lives
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)
        self._lines = _by_id(self._file.readall())
        self._first = frozenset(self._lines.values())

    def served(self, descriptor: int, tid: int) -> bool:
        """Whether a program serves what a descriptor of ours is open at, a copy of a thread's, and began to since.

        Raises OSError.
        """
        if self._changes.poll(0):
            self._file.seek(0)
            self._lines = _by_id(self._file.readall())
            self._first &= frozenset(self._lines.values())
        found = _MOUNT.search(proc.read("self", f"fdinfo/{descriptor}"))
        number = found[1] if found else b""
        line = self._lines.get(number)
        if line is None:  # of another mount namespace, or outside of this root
            line = _by_id(proc.read(tid, "mountinfo")).get(number, b"")
        return bool(_SERVED.search(line)) and line not in self._first


def _by_id(mountinfo: bytes) -> dict[bytes, bytes]:
    return {line.partition(b" ")[0]: line for line in mountinfo.splitlines()}


def begin() -> None:
    """Remember what is mounted now: whoever serves that is no program of a session that begins. Raises OSError."""
    _mounts(os.getpid())


def served(descriptor: int, tid: int) -> bool:
    """As ``Mounts.served``, since this process called ``begin``."""
    return _mounts(os.getpid()).served(descriptor, tid)


@functools.cache
def _mounts(_pid: int) -> Mounts:
    """This process's; it may be a child of one that has its own."""
    return Mounts()
