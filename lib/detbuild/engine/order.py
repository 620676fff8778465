# SPDX-License-Identifier: MIT
"""Directories in the order of their names, whatever the file system.

A listing is read as a whole when the caller stands at the directory's start, and kept: what is made or removed while
the caller reads on comes in when it rewinds, which POSIX allows. A position is a number of entries, so telldir(3) and
seekdir(3) work. It is kept where the kernel keeps it, in the open file, which a child or a duplicate shares.

What a program serves (FUSE) is left to the kernel: a server inside the session would wait for us, and we for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from typing import NamedTuple

from detbuild.linux import descriptors, memory, mounts
from detbuild.linux.directory import Entry, entries
from detbuild.linux.x86_64 import Abi

_REMEMBERED = 256  # listings of one process
_DOTS = (b".", b"..")


class Listing(NamedTuple):
    """``directory`` is a device and an inode."""

    directory: tuple[int, int]
    entries: tuple[Entry, ...]


Listings = dict[int, Listing]  # by the number of a descriptor, in one process


def getdents(pid: int, abi: Abi, call: str, arguments: Sequence[int], listings: Listings) -> int | None:
    """Answer getdents(2) or getdents64(2) of a thread: the call's result, or None where it could not be done.

    Raises OSError where the caller's memory is out of reach; the position is then as it was.
    """
    number, address, size = arguments[0] & 0xFFFFFFFF, arguments[1], arguments[2] & 0xFFFFFFFF
    try:
        ours = descriptors.take_of_thread(pid, number)
    except OSError as error:
        return -errno.EBADF if error.errno == errno.EBADF else None
    try:
        try:
            if mounts.served(ours, pid):
                return None
            wrong = _refusal(ours)
            if wrong:
                return -wrong
            start = os.lseek(ours, 0, os.SEEK_CUR)
            listing = _listing(ours, number, start, listings)
            data, count = _packed(listing.entries, start, size, abi, call)
            if data:
                os.lseek(ours, start + count, os.SEEK_SET)
        except OSError as error:
            # A directory that was removed, and a number that a 32-bit program cannot hold, are the caller's own.
            return -error.errno if error.errno in (errno.ENOENT, errno.EOVERFLOW) else None
        if not data:
            return -errno.EINVAL if start < len(listing.entries) else 0
        try:
            memory.write(pid, address, data)
        except OSError:
            os.lseek(ours, start, os.SEEK_SET)
            raise
        return len(data)
    finally:
        os.close(ours)


def _refusal(ours: int) -> int:
    """The error number that the kernel has for what is no directory that was opened for reading, else 0."""
    if fcntl.fcntl(ours, fcntl.F_GETFL) & os.O_PATH:
        return errno.EBADF
    return 0 if stat.S_ISDIR(os.fstat(ours).st_mode) else errno.ENOTDIR


def _listing(ours: int, number: int, start: int, listings: Listings) -> Listing:
    """The caller's listing: a new one at the directory's start. Raises OSError."""
    status = os.fstat(ours)
    directory = (status.st_dev, status.st_ino)
    known = listings.get(number)
    if start and known and known.directory == directory:
        return known
    own = os.open(f"/proc/self/fd/{ours}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = sorted(entries(own), key=lambda entry: (entry.name not in _DOTS, entry.name))
    finally:
        os.close(own)
    listings.pop(number, None)
    if len(listings) >= _REMEMBERED:
        del listings[next(iter(listings))]
    listings[number] = Listing(directory, tuple(found))
    return listings[number]


def _packed(found: Sequence[Entry], start: int, size: int, abi: Abi, call: str) -> tuple[bytes, int]:
    """What fits into ``size`` bytes, and how many entries that are. Raises OSError: EOVERFLOW as the kernel would."""
    parts: list[bytes] = []
    room = size
    for position, entry in enumerate(found[start:], start + 1):
        part = _dirent64(entry, position) if call == "getdents64" else _dirent(entry, position, abi)
        if len(part) > room:
            break
        room -= len(part)
        parts.append(part)
    return b"".join(parts), len(parts)


def _dirent64(entry: Entry, position: int) -> bytes:
    length = (19 + len(entry.name) + 1 + 7) & ~7
    head = struct.pack("=QqHB", entry.inode, position, length, entry.kind)
    return (head + entry.name).ljust(length, b"\0")


def _dirent(entry: Entry, position: int, abi: Abi) -> bytes:
    """struct linux_dirent, whose last byte is the kind (fs/readdir.c)."""
    if entry.inode >> 8 * abi.word:
        raise OSError(errno.EOVERFLOW, "an inode's number is too large for a 32-bit program")
    head = struct.pack("=QQH" if abi.word == 8 else "=IIH", entry.inode, position, 0)
    length = (len(head) + len(entry.name) + 2 + abi.word - 1) & ~(abi.word - 1)
    head = head[:-2] + struct.pack("=H", length)
    return (head + entry.name).ljust(length - 1, b"\0") + bytes([entry.kind])
