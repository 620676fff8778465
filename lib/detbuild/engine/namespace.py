# SPDX-License-Identifier: MIT
"""Files as another process names them: relative to its directories, below its root, in its mount namespace."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from detbuild.linux.libc import libc, oserror
from detbuild.linux.x86_64 import NATIVE

AT_FDCWD = -100
_RESOLVE_IN_ROOT = 0x10  # openat2(2), since Linux 5.6
_OWN = (b"/proc/self/", b"/proc/thread-self/")
_OWN_DESCRIPTORS = b"/dev/fd/"


class Directory(NamedTuple):
    """Where a thread's relative names begin: at its working directory, or at one of its descriptors."""

    tid: int
    descriptor: int = AT_FDCWD

    @property
    def place(self) -> str:
        """Its magic link in /proc."""
        return f"/proc/{self.tid}/" + ("cwd" if self.descriptor == AT_FDCWD else f"fd/{self.descriptor}")


@contextlib.contextmanager
def opened(directory: Directory, name: bytes) -> Iterator[str | None]:
    """A path by which this process reaches the file that a thread calls ``name``; None where there is none.

    For use within the context only. An empty name is the directory's descriptor itself. Raises OSError where the
    thread may not be looked at.
    """
    fd = -1
    place: str | None
    tid = directory.tid
    try:
        if not name:
            place = directory.place
        elif name.startswith(_OWN):
            place = f"/proc/{tid}/" + os.fsdecode(name.split(b"/", 3)[3])
        elif name.startswith(_OWN_DESCRIPTORS):
            place = f"/proc/{tid}/fd/" + os.fsdecode(name[len(_OWN_DESCRIPTORS) :])
        elif _same_root(tid):
            place = os.fsdecode(name) if name.startswith(b"/") else _joined(directory, name)
        else:
            fd = _open_below(directory, name)
            place = f"/proc/self/fd/{fd}" if fd >= 0 else None
        yield place
    finally:
        if fd >= 0:
            os.close(fd)


def _joined(directory: Directory, name: bytes) -> str:
    base = os.readlink(directory.place)
    if base.endswith(" (deleted)"):
        return f"{directory.place}/{os.fsdecode(name)}"
    return f"{base.removesuffix('/')}/{os.fsdecode(name)}"


def _same_root(tid: int) -> bool:
    return os.readlink(f"/proc/{tid}/root") == "/" and os.readlink(f"/proc/{tid}/ns/mnt") == _mounts(os.getpid())


@functools.cache
def _mounts(pid: int) -> str:
    """This process's mount namespace. It never leaves it, but may be a child of one that was asked before."""
    return os.readlink(f"/proc/{pid}/ns/mnt")


def _open_below(directory: Directory, name: bytes) -> int:
    """Open with absolute names, and absolute links, below the thread's own root; -1 where there is no such file."""
    if not name.startswith(b"/"):
        root = os.readlink(f"/proc/{directory.tid}/root").removesuffix("/")
        name = os.fsencode(os.readlink(directory.place).removeprefix(root)) + b"/" + name
    root_fd = os.open(f"/proc/{directory.tid}/root", os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        fd = libc.syscall(
            ctypes.c_long(NATIVE.numbers["openat2"]), ctypes.c_int(root_fd), name, how, ctypes.c_size_t(len(how))
        )
        if fd < 0:
            error = oserror("openat2")
            if isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
                return -1
            raise error
        return int(fd)
    finally:
        os.close(root_fd)
