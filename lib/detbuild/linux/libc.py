# SPDX-License-Identifier: MIT
"""The one handle on libc: argument types declared once, thin wrappers, one funnel from errno to OSError."""

from __future__ import annotations

import ctypes
import os


def _open() -> ctypes.CDLL:
    """libc itself: pseudo, under which fakeroot tasks run, puts a syscall(2) before it that only feigns seccomp(2)."""
    try:
        return ctypes.CDLL("libc.so.6", use_errno=True)
    except OSError:
        return ctypes.CDLL(None, use_errno=True)


libc = _open()

libc.prctl.restype = ctypes.c_int
libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
libc.syscall.restype = ctypes.c_long

PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38
PR_SET_TSC, PR_TSC_ENABLE, PR_TSC_SIGSEGV = 26, 1, 2
PR_SET_PTRACER = 0x59616D61


def oserror(name: str) -> OSError:
    """The OSError for a refused call, made from errno and naming the call."""
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")


def prctl(name: str, option: int, value: int = 0, pointer: int | None = None) -> None:
    """prctl(2). ``name`` is what an OSError calls it."""
    if libc.prctl(option, value, pointer, 0, 0) < 0:
        raise oserror(f"prctl({name})")


def set_name(name: str) -> None:
    """Name this thread, at most 15 bytes, as ps and top show it."""
    buffer = ctypes.create_string_buffer(name.encode())
    libc.prctl(PR_SET_NAME, ctypes.addressof(buffer), None, 0, 0)


def allow_tracer(pid: int) -> None:
    """Let ``pid``, of the same user, trace this process: under Yama's scope 1, and where it once changed its user.

    Such a process is not dumpable, and in a user namespace even root may not trace it (ptrace(2)).
    """
    libc.prctl(PR_SET_PTRACER, pid, None, 0, 0)  # EINVAL without Yama, where there is nothing to allow
    libc.prctl(PR_SET_DUMPABLE, 1, None, 0, 0)
