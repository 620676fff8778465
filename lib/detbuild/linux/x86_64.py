# SPDX-License-Identifier: MIT
"""x86-64: its two system call tables, and how each passes arguments and times.

The numbers stand in ``x86_64_calls``. The x32 ABI is the 64-bit table with bit 30 set; its times have the 64-bit
layout. The few calls that it numbers by itself (512 to 547) read no clock and no file time.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from detbuild.linux import x86_64_calls

X32_BIT = 0x40000000


class Abi(NamedTuple):
    """One system call table.

    ``audit`` is its AUDIT_ARCH_ value; ``arguments`` the registers that hold the arguments; ``long`` and
    ``word`` the struct format and size in bytes of its C long.
    """

    name: str
    audit: int
    arguments: tuple[str, ...]
    long: str
    word: int
    numbers: dict[str, int]


NATIVE = Abi(
    "x86-64",
    0xC000003E,
    ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    "q",
    8,
    x86_64_calls.NATIVE,
)
I386 = Abi(
    "i386",
    0x40000003,
    ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
    "i",
    4,
    x86_64_calls.I386,
)
ABIS = (NATIVE, I386)


def system_call(number: int) -> bytes:
    """Machine code of a function that makes one system call with its own arguments: mov eax, nr; syscall; ret."""
    return b"\xb8" + struct.pack("<I", number) + b"\x0f\x05\xc3"


def code_abi(cs: int) -> Abi:
    """The ABI of code whose segment has a selector: __USER32_CS is 32-bit code (arch/x86/include/asm/segment.h)."""
    return I386 if cs == 0x23 else NATIVE
