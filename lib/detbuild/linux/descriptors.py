"""Descriptors that are another process's, or tell of signals."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

from detbuild.linux import proc
from detbuild.linux.libc import libc, oserror

_PIDFD_GETFD = 438  # the same number in every table
_PIDFD_THREAD = os.O_EXCL
_SFD_NONBLOCK, _SFD_CLOEXEC = 0o4000, 0o2000000


def take_descriptor(pid: int, number: int) -> int:
    """A descriptor of another process, as one of ours (pidfd_getfd(2), Linux 5.6). Raises OSError."""
    handle = os.pidfd_open(pid)
    try:
        return _taken(handle, number)
    finally:
        os.close(handle)


def take_of_thread(tid: int, number: int) -> int:
    """As ``take_descriptor``, of a thread, which may have a table of its own. Raises OSError.

    Before Linux 6.9 a thread has no pidfd, and its process's table is taken for it.
    """
    try:
        handle = os.pidfd_open(tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return take_descriptor(proc.number(tid, "Tgid") or tid, number)
    try:
        return _taken(handle, number)
    finally:
        os.close(handle)


def _taken(handle: int, number: int) -> int:
    descriptor = libc.syscall(*map(ctypes.c_long, (_PIDFD_GETFD, handle, number, 0)))
    if descriptor < 0:
        raise oserror("pidfd_getfd")
    return int(descriptor)


def child_signals() -> int:
    """A signalfd(2) that is readable when SIGCHLD arrives, which every thread must have blocked. Raises OSError."""
    mask = ctypes.create_string_buffer(struct.pack("=Q", 1 << (signal.SIGCHLD - 1)).ljust(128, b"\0"), 128)
    descriptor = libc.signalfd(-1, mask, _SFD_NONBLOCK | _SFD_CLOEXEC)
    if descriptor < 0:
        raise oserror("signalfd")
    return int(descriptor)
