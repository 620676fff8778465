# SPDX-License-Identifier: MIT
"""Another process's memory, with that process's own page permissions."""

from __future__ import annotations

import ctypes
import errno
import threading

from detbuild.linux.libc import libc, oserror


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


for _call in (libc.process_vm_readv, libc.process_vm_writev):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(_Iovec),
        ctypes.c_ulong,
        ctypes.POINTER(_Iovec),
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]


class _Room(threading.local):
    """Where a thread reads to, kept from one read to the next: what ctypes makes anew takes as long as the call."""

    def __init__(self, size: int) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self.start = ctypes.addressof(self._buffer)
        self.local, self.remote = _Iovec(self.start, size), _Iovec()
        self.to, self.whence = ctypes.byref(self.local), ctypes.byref(self.remote)


_ROOM = 4096
_rooms = _Room(_ROOM)


def read(pid: int, address: int, size: int) -> bytes:
    """Up to ``size`` bytes at ``address``: fewer where the mapping ends. Raises OSError (EFAULT: none)."""
    room = _rooms if size <= _ROOM else _Room(size)
    room.local.length = room.remote.length = size
    room.remote.base = address
    got = libc.process_vm_readv(pid, room.to, 1, room.whence, 1, 0)
    if got < 0:
        raise oserror("process_vm_readv")
    return ctypes.string_at(room.start, got)


def write(pid: int, address: int, data: bytes) -> None:
    """Write all of ``data``. Raises OSError: EFAULT where the process itself could not write.

    /proc/PID/mem and PTRACE_POKEDATA would write into read-only pages too, where the kernel's own copy
    to the caller would have failed.
    """
    local = _Iovec(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data))
    remote = _Iovec(address, len(data))
    wrote = libc.process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    if wrote < 0:
        raise oserror("process_vm_writev")
    if wrote < len(data):
        raise OSError(errno.EFAULT, "process_vm_writev: the buffer ends before the data")
