# SPDX-License-Identifier: MIT
"""seccomp user notification: calls that wait for a supervisor's answer (seccomp_unotify(2), linux/seccomp.h)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import struct
from typing import NamedTuple

from detbuild.linux.libc import PR_SET_NO_NEW_PRIVS, libc, oserror, prctl
from detbuild.linux.seccomp import (
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_SET_MODE_FILTER,
)
from detbuild.linux.x86_64 import NATIVE

SECCOMP_GET_NOTIF_SIZES = 3
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 1 << 4
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5  # since Linux 5.19

SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x40082102
SECCOMP_IOCTL_NOTIF_ADDFD = 0x40182103
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104
SECCOMP_ADDFD_FLAG_SEND = 2  # since Linux 5.14
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1  # since Linux 6.6

# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, instruction pointer, args.
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_ADDED = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, our descriptor, the caller's, its flags

_FLAGS = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH


class Notification(NamedTuple):
    """One call that waits for its answer.

    ``tid`` is the caller's number in the receiver's pid namespace; ``arguments`` are six words of 64 bits.
    """

    ident: int
    tid: int
    number: int
    arch: int
    arguments: tuple[int, ...]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(program: bytes) -> int:
    """Filter every thread of this process, for good; returns the listener, closed at exec.

    A caller that was received can only be killed while it waits, where ``waits_killable``; elsewhere any signal makes
    its call fail with EINTR or begin again. Raises OSError; EBUSY: a filter of the chain has a listener already,
    ESRCH: a thread of this process has a filter of its own.

    no_new_privs is asked for only where the kernel wants it, as in ``seccomp.install``.
    """
    flags = _FLAGS | (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV if waits_killable() else 0)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _Program(len(program) // 8, ctypes.addressof(buffer))
    pointer = ctypes.addressof(fprog)
    try:
        return _seccomp("SECCOMP_SET_MODE_FILTER", SECCOMP_SET_MODE_FILTER, flags, pointer)
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
    return _seccomp("SECCOMP_SET_MODE_FILTER", SECCOMP_SET_MODE_FILTER, flags, pointer)


@functools.cache
def waits_killable() -> bool:
    """Whether a caller that was received waits for its answer whatever signal comes: since Linux 5.19."""
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    try:
        _seccomp("SECCOMP_SET_MODE_FILTER", SECCOMP_SET_MODE_FILTER, flags, 0)
    except OSError as error:
        return error.errno == errno.EFAULT  # the kernel knows the flags, and looks for a filter at 0
    return False


def sizes() -> tuple[int, int]:
    """The running kernel's sizes of struct seccomp_notif and seccomp_notif_resp, in bytes. Raises OSError."""
    found = (ctypes.c_uint16 * 3)()
    _seccomp("SECCOMP_GET_NOTIF_SIZES", SECCOMP_GET_NOTIF_SIZES, 0, ctypes.addressof(found))
    return found[0], found[1]


def _seccomp(name: str, operation: int, flags: int, pointer: int) -> int:
    number = ctypes.c_long(NATIVE.numbers["seccomp"])
    result = libc.syscall(number, ctypes.c_ulong(operation), ctypes.c_ulong(flags), ctypes.c_void_p(pointer))
    if result < 0:
        raise oserror(f"seccomp({name})")
    return int(result)


class Listener:
    """The supervisor's end. It owns the descriptor ``fd``.

    Each answer returns whether the caller still waited for it: not, where it was killed or a signal took it away.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        received, sent = sizes()
        self._received = bytearray(max(received, _NOTIFICATION.size))
        self._blank = bytes(len(self._received))
        self._sent = bytearray(max(sent, _ANSWER.size))
        with contextlib.suppress(OSError):
            # Caller and supervisor take turns: one need not wait for another processor to wake up.
            fcntl.ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)

    def fileno(self) -> int:
        return self.fd

    def close(self) -> None:
        os.close(self.fd)

    def receive(self) -> Notification | None:
        """The next call; waits for one. None where its caller was gone before it could be received."""
        self._received[:] = self._blank  # the kernel refuses a buffer that holds anything
        try:
            fcntl.ioctl(self.fd, SECCOMP_IOCTL_NOTIF_RECV, self._received)
        except FileNotFoundError:
            return None
        ident, tid, _, number, arch, _, *arguments = _NOTIFICATION.unpack_from(self._received)
        return Notification(ident, tid, number, arch, tuple(arguments))

    def answer(self, ident: int, result: int) -> bool:
        """Have the call return ``result``, a negative errno for a failure."""
        # The kernel takes a result that looks like an error for one only in the error's own field.
        return self._send(ident, 0, result, 0) if -4095 <= result < 0 else self._send(ident, result, 0, 0)

    def give(self, ident: int, descriptor: int, close_on_exec: bool = False) -> bool:
        """Have the call return a new descriptor of the caller's, for the file that ``descriptor`` is open at here.

        Raises OSError, EMFILE where the caller has no room for one; it waits on then.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        added = _ADDED.pack(ident, SECCOMP_ADDFD_FLAG_SEND, descriptor, 0, flags)
        try:
            fcntl.ioctl(self.fd, SECCOMP_IOCTL_NOTIF_ADDFD, added)
        except FileNotFoundError:
            return False
        return True

    def proceed(self, ident: int) -> bool:
        """Let the kernel make the call."""
        return self._send(ident, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)

    def valid(self, ident: int) -> bool:
        """Whether the caller still waits: what was read of /proc/TID before was its own, not a successor's."""
        try:
            fcntl.ioctl(self.fd, SECCOMP_IOCTL_NOTIF_ID_VALID, struct.pack("=Q", ident))
        except FileNotFoundError:
            return False
        return True

    def _send(self, ident: int, result: int, error: int, flags: int) -> bool:
        _ANSWER.pack_into(self._sent, 0, ident, result, error, flags)
        try:
            fcntl.ioctl(self.fd, SECCOMP_IOCTL_NOTIF_SEND, self._sent)
        except FileNotFoundError:
            return False
        return True
