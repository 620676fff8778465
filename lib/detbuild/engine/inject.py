# SPDX-License-Identifier: MIT
"""System calls made by a tracee on the tracer's behalf, before a new program's first instruction."""

from __future__ import annotations

import signal
import struct
from typing import NamedTuple

from detbuild.linux import memory, ptrace
from detbuild.linux.libc import PR_SET_NO_NEW_PRIVS, PR_SET_TSC, PR_TSC_ENABLE, PR_TSC_SIGSEGV
from detbuild.linux.seccomp import SECCOMP_SET_MODE_FILTER, placed
from detbuild.linux.x86_64 import Abi

# mov eax, NUMBER; then the call; then a trap. Eight bytes, one word of ptrace's.
_CODE = {8: b"\xb8%b\x0f\x05\xcc", 4: b"\xb8%b\xcd\x80\xcc"}
_RED_ZONE = 128
_MASK = ((1 << 64) - 1 ^ 1 << signal.SIGTRAP - 1).to_bytes(8, "little")  # all but SIGTRAP


class Injection(NamedTuple):
    """A call under way, and what must be put back: registers, the word of code that they point to, and signal mask.

    The kernel would take SIGTRAP out of the mask for good, to send it.
    """

    call: str
    registers: ptrace.Registers
    word: bytes
    mask: bytes

    def undo(self, tid: int) -> int:
        """After the trap: restore the tracee and return the call's result."""
        after = ptrace.Registers()
        ptrace.getregs(tid, after)
        ptrace.poke(tid, self.registers.rip, self.word)
        ptrace.setregs(tid, self.registers)
        ptrace.swap_mask(tid, self.mask)
        result = int(after.rax)
        return result - (1 << 64) if result >> 63 else result


def add_filter(tid: int, abi: Abi, registers: ptrace.Registers, program: bytes) -> Injection:
    """Have a thread that stands at its exec stop install one more filter, once it is continued.

    It then stops with SIGTRAP; call ``undo``. Raises OSError where its memory is out of reach.
    """
    address = ((registers.rsp - _RED_ZONE - len(program)) & ~15) - 16
    memory.write(tid, address, placed(program, address, abi.word))
    return _call(tid, abi, registers, "seccomp", (SECCOMP_SET_MODE_FILTER, 0, address))


def forgo_privileges(tid: int, abi: Abi, registers: ptrace.Registers) -> Injection:
    """As ``add_filter``: without CAP_SYS_ADMIN the kernel filters only who can gain none by a set-user-ID program."""
    return _call(tid, abi, registers, "prctl", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def allow_counter(tid: int, abi: Abi, registers: ptrace.Registers, allowed: bool) -> Injection:
    """As ``add_filter``: whether the thread may read the processor's counter, or gets SIGSEGV for it."""
    return _call(tid, abi, registers, "prctl", (PR_SET_TSC, PR_TSC_ENABLE if allowed else PR_TSC_SIGSEGV, 0, 0, 0))


def _call(tid: int, abi: Abi, registers: ptrace.Registers, call: str, arguments: tuple[int, ...]) -> Injection:
    saved = ptrace.Registers.from_buffer_copy(registers)
    saved.rax, saved.orig_rax = 0, (1 << 64) - 1  # execve has returned by then, and no call is to be restarted
    word = ptrace.peek(tid, registers.rip)
    ptrace.poke(tid, registers.rip, _CODE[abi.word] % struct.pack("<I", abi.numbers[call]))
    for name, value in zip(abi.arguments, arguments, strict=False):
        setattr(registers, name, value)
    ptrace.setregs(tid, registers)
    return Injection(call, saved, word, ptrace.swap_mask(tid, _MASK))
