# SPDX-License-Identifier: MIT
"""Descriptors that are another process's, or tell of signals."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

from detbuild.linux import proc
from detbuild.linux.libc import libc, oserror
from detbuild.linux.x86_64 import NATIVE

_PIDFD_GETFD = 438  # the same number in every table
_PIDFD_THREAD = os.O_EXCL
_KCMP = NATIVE.numbers["kcmp"]
_KCMP_FILES = 2
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

    Before Linux 6.9 a thread has no pidfd, and its process's table is taken for it; ENOTSUP where it is another one.
    """
    try:
        handle = os.pidfd_open(tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _take_of_leader(tid, number)
    try:
        return _taken(handle, number)
    finally:
        os.close(handle)


def _take_of_leader(tid: int, number: int) -> int:
    """Asks afterwards whether it was the thread's: the leader, which runs on, may end at any moment."""
    leader = proc.number(tid, "Tgid") or tid
    try:
        descriptor = take_descriptor(leader, number)
    except OSError as error:
        if _one_table(leader, tid):
            raise
        raise _out_of_reach() from error
    if not _one_table(leader, tid):
        os.close(descriptor)
        raise _out_of_reach()
    return descriptor


def _out_of_reach() -> OSError:
    return OSError(errno.ENOTSUP, "before Linux 6.9 a table of a thread's own is out of reach")


def _one_table(leader: int, tid: int) -> bool:
    """Whether a thread has its process's table still: not after unshare(2), nor once the first thread has ended."""
    if leader == tid:
        return True
    compared = libc.syscall(*map(ctypes.c_long, (_KCMP, leader, tid, _KCMP_FILES, 0, 0)))
    return compared <= 0 and not proc.ended(leader)  # below 0: a kernel without kcmp(2)


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
