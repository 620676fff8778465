# SPDX-License-Identifier: MIT
"""The auxiliary vector: what the kernel told a program when it was executed, as /proc/PID/auxv has it."""

from __future__ import annotations

import ctypes
import struct

from detbuild.linux.libc import libc

libc.getauxval.restype = ctypes.c_ulong
libc.getauxval.argtypes = [ctypes.c_ulong]

AT_NULL = 0
AT_SECURE = 23  # not 0 where the program has a privilege that who executed it had not


def value(vector: bytes, key: int) -> int | None:
    """What stands beside a key; None where the vector does not have it.

    A 32-bit program's vector is of words of 32 bits. Read as longer ones its pairs are no keys, which are small.
    """
    words = _words(vector, "Q")
    if any(word >> 32 for word in words[::2]):
        words = _words(vector, "I")
    for name, beside in zip(words[::2], words[1::2], strict=True):
        if name == AT_NULL:
            break
        if name == key:
            return beside
    return None


def own(key: int) -> int:
    """What this process's vector has beside a key; 0 where it does not have it."""
    return int(libc.getauxval(key))


def _words(vector: bytes, kind: str) -> tuple[int, ...]:
    """Of whole pairs."""
    size = struct.calcsize(f"={kind}")
    count = len(vector) // (2 * size) * 2
    return struct.unpack(f"={count}{kind}", vector[: count * size])
