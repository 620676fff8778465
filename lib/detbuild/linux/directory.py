# SPDX-License-Identifier: MIT
"""Directories as getdents64(2) lists them, in the file system's own order."""

from __future__ import annotations

import ctypes
import struct
from typing import NamedTuple

from detbuild.linux.libc import libc, oserror
from detbuild.linux.x86_64 import NATIVE

_GETDENTS64 = ctypes.c_long(NATIVE.numbers["getdents64"])
_BUFFER = 1 << 16
_HEAD = struct.Struct("=QqHB")  # d_ino, d_off, d_reclen, d_type; then the name and a null byte


class Entry(NamedTuple):
    """``kind`` is a DT_ value of dirent.h."""

    inode: int
    kind: int
    name: bytes


def entries(descriptor: int) -> list[Entry]:
    """From a directory's position to its end, with . and .. among them. Raises OSError."""
    buffer = ctypes.create_string_buffer(_BUFFER)
    found: list[Entry] = []
    while True:
        got = libc.syscall(_GETDENTS64, ctypes.c_long(descriptor), buffer, ctypes.c_long(_BUFFER))
        if got < 0:
            raise oserror("getdents64")
        if got == 0:
            return found
        data, at = ctypes.string_at(buffer, got), 0
        while at < got:
            inode, _, length, kind = _HEAD.unpack_from(data, at)
            start = at + _HEAD.size
            found.append(Entry(inode, kind, data[start : data.index(b"\0", start)]))
            at += length
