# SPDX-License-Identifier: MIT
"""A small assembler for seccomp filters, and their installation (seccomp(2), linux/seccomp.h)."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from detbuild.linux.libc import PR_SET_NO_NEW_PRIVS, libc, oserror, prctl
from detbuild.linux.x86_64 import NATIVE

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1

SECCOMP_FILTER_FLAG_NEW_LISTENER = 8

RET_ERRNO = 0x00050000
RET_USER_NOTIF = 0x7FC00000
RET_TRACE = 0x7FF00000
RET_ALLOW = 0x7FFF0000

# Offsets in struct seccomp_data; the address behind the call's instruction has two halves, the lower one first.
NR, ARCH, POINTER = 0, 4, 8

_FARTHEST = 255
_LOAD, _AND, _GOTO, _EQUAL, _FROM, _SET, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x45, 0x06


def argument(index: int) -> int:
    """Where the lower half of an argument stands; the upper half follows."""
    return 16 + 8 * index


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class Assembler:
    """Collects instructions; a jump names a label that is placed later."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}

    def load(self, offset: int) -> None:
        """Take the 32-bit word at ``offset`` of struct seccomp_data."""
        self._code.append((_LOAD, "", "", offset))

    def mask(self, bits: int) -> None:
        self._code.append((_AND, "", "", bits))

    def goto(self, label: str) -> None:
        """Jump always, any distance forwards."""
        self._code.append((_GOTO, label, "", 0))

    def jump_equal(self, value: int, label: str) -> None:
        self._code.append((_EQUAL, label, "", value))

    def jump_unequal(self, value: int, label: str) -> None:
        self._code.append((_EQUAL, "", label, value))

    def jump_from(self, value: int, label: str) -> None:
        """Jump where it is ``value`` or more."""
        self._code.append((_FROM, label, "", value))

    def jump_below(self, value: int, label: str) -> None:
        self._code.append((_FROM, "", label, value))

    def jump_set(self, bits: int, label: str) -> None:
        """Jump where any of ``bits`` is set."""
        self._code.append((_SET, label, "", bits))

    def ret(self, action: int) -> None:
        self._code.append((_RETURN, "", "", action))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def assemble(self) -> bytes:
        """struct sock_filter[]. Raises ValueError for a jump backwards."""
        self._stretch()
        out = b""
        for here, (code, if_true, if_false, value) in enumerate(self._code):
            distances = [self._labels[label] - here - 1 if label else 0 for label in (if_true, if_false)]
            if code == _GOTO:
                distances, value = [0, 0], distances[0]  # noqa: PLW2901  a far jump keeps its distance there
            if min(*distances, value) < 0:
                raise ValueError(f"jump to {if_true or if_false}, which stands before it")
            out += struct.pack("=HBBI", code, *distances, value)
        return out

    def _stretch(self) -> None:
        """A jump on a condition goes no further than 255 instructions: one that must skips a jump of any distance.

        From the end, so that what is put in lies behind whatever is looked at still.
        """
        for at in range(len(self._code) - 1, -1, -1):
            code, if_true, if_false, value = self._code[at]
            far = if_true or if_false
            if code == _GOTO or not far or self._labels[far] - at - 1 <= _FARTHEST:
                continue
            behind = f"behind {at}"
            self._code[at : at + 1] = [
                (code, "" if if_true else behind, behind if if_true else "", value),
                (_GOTO, far, "", 0),
            ]
            self._labels = {label: place + (place > at) for label, place in self._labels.items()} | {behind: at + 2}


def install(program: bytes) -> None:
    """Filter every thread of this process, for good. Raises OSError.

    Without CAP_SYS_ADMIN the kernel wants no_new_privs, which also takes the privilege from set-user-ID
    programs; so that is asked for only where it must be.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _Program(len(program) // 8, ctypes.addressof(buffer))
    if _seccomp(fprog) < 0:
        if ctypes.get_errno() != errno.EACCES:
            raise oserror("seccomp(SECCOMP_SET_MODE_FILTER)")
        prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
        if _seccomp(fprog) < 0:
            raise oserror("seccomp(SECCOMP_SET_MODE_FILTER)")


def _seccomp(fprog: _Program) -> int:
    number = ctypes.c_long(NATIVE.numbers["seccomp"])
    result = libc.syscall(
        number,
        ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.byref(fprog),
    )
    if result > 0:
        # TSYNC names a thread that has another filter already.
        ctypes.set_errno(errno.ESRCH)
        return -1
    return int(result)


def evaluate(program: bytes, number: int, arch: int, arguments: Sequence[int], pointer: int = 0) -> int:
    """What a filter that the assembler made returns for a call, as the kernel would run it.

    ``pointer`` is the address behind the call's instruction.
    """
    data = struct.pack("=IIQ6Q", number, arch, pointer, *arguments)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at)
        at += 8
        if code == _RETURN:
            return int(value)
        if code == _LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == _AND:
            accumulator &= value
        elif code == _GOTO:
            at += 8 * value
        else:
            met = {_EQUAL: accumulator == value, _FROM: accumulator >= value, _SET: accumulator & value}[code]
            at += 8 * (if_true if met else if_false)


def placed(code: bytes, address: int, word: int) -> bytes:
    """A struct sock_fprog at an address of a thread with words of so many bytes, and behind its 16 bytes the code."""
    fprog = struct.pack("=H6xQ" if word == 8 else "=H2xI", len(code) // 8, address + 16)
    return fprog.ljust(16, b"\0") + code
