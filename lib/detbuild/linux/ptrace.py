# SPDX-License-Identifier: MIT
"""ptrace(2) for a tracer that seizes. Every call raises OSError; ESRCH means that the tracee was killed."""

from __future__ import annotations

import ctypes
import struct

from detbuild.linux.libc import libc, oserror
from detbuild.linux.x86_64 import NATIVE

_NR_PTRACE = NATIVE.numbers["ptrace"]

PTRACE_TRACEME = 0
PTRACE_PEEKDATA = 2
PTRACE_POKEDATA = 5
PTRACE_POKEUSER = 6
PTRACE_CONT = 7
PTRACE_SINGLESTEP = 9
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_ATTACH = 16
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SYSEMU = 31
PTRACE_SYSEMU_SINGLESTEP = 32
PTRACE_SINGLEBLOCK = 33
PTRACE_GETEVENTMSG = 0x4201
PTRACE_GETSIGINFO = 0x4202
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_LISTEN = 0x4208
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_GET_SYSCALL_INFO = 0x420E

_DEBUG_REGISTERS = 848  # bytes before u_debugreg in struct user of x86-64

PTRACE_O_TRACESYSGOOD = 1 << 0
PTRACE_O_TRACEFORK = 1 << 1
PTRACE_O_TRACEVFORK = 1 << 2
PTRACE_O_TRACECLONE = 1 << 3
PTRACE_O_TRACEEXEC = 1 << 4
PTRACE_O_TRACESECCOMP = 1 << 7
PTRACE_O_EXITKILL = 1 << 20

EVENT_FORK = 1
EVENT_VFORK = 2
EVENT_CLONE = 3
EVENT_EXEC = 4
EVENT_SECCOMP = 7
EVENT_STOP = 128

SYSCALL_STOP = 0x80  # beside SIGTRAP, with PTRACE_O_TRACESYSGOOD

WALL = 0x40000000  # __WALL: threads as well as processes


class Registers(ctypes.Structure):
    """user_regs_struct of x86-64, also for 32-bit tracees (arch/x86/include/asm/user_64.h)."""

    _fields_ = [
        (name, ctypes.c_ulonglong)
        for name in [
            "r15",
            "r14",
            "r13",
            "r12",
            "rbp",
            "rbx",
            "r11",
            "r10",
            "r9",
            "r8",
            "rax",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "orig_rax",
            "rip",
            "cs",
            "eflags",
            "rsp",
            "ss",
            "fs_base",
            "gs_base",
            "ds",
            "es",
            "fs",
            "gs",
        ]
    ]


def seize(tid: int, options: int) -> None:
    if libc.ptrace(PTRACE_SEIZE, tid, None, options) < 0:
        raise oserror("ptrace(PTRACE_SEIZE)")


def getregs(tid: int, registers: Registers) -> None:
    if libc.ptrace(PTRACE_GETREGS, tid, None, ctypes.addressof(registers)) < 0:
        raise oserror("ptrace(PTRACE_GETREGS)")


def setregs(tid: int, registers: Registers) -> None:
    if libc.ptrace(PTRACE_SETREGS, tid, None, ctypes.addressof(registers)) < 0:
        raise oserror("ptrace(PTRACE_SETREGS)")


_message = ctypes.c_ulong()


def geteventmsg(tid: int) -> int:
    """The event's value: a new thread's id, a former thread id, or a seccomp filter's data."""
    if libc.ptrace(PTRACE_GETEVENTMSG, tid, None, ctypes.addressof(_message)) < 0:
        raise oserror("ptrace(PTRACE_GETEVENTMSG)")
    return _message.value


def cont(tid: int, signal: int = 0) -> None:
    if libc.ptrace(PTRACE_CONT, tid, None, signal) < 0:
        raise oserror("ptrace(PTRACE_CONT)")


def syscall(tid: int, signal: int = 0) -> None:
    """Continue to the next system call's start or end."""
    if libc.ptrace(PTRACE_SYSCALL, tid, None, signal) < 0:
        raise oserror("ptrace(PTRACE_SYSCALL)")


def peek(tid: int, address: int) -> bytes:
    """Eight bytes of the tracee's memory, whatever its protection."""
    word = ctypes.c_ulong()
    # glibc's wrapper returns the word itself and would lose one that looks like an error.
    if (
        libc.syscall(
            ctypes.c_long(_NR_PTRACE),
            *map(ctypes.c_long, (PTRACE_PEEKDATA, tid)),
            ctypes.c_void_p(address),
            ctypes.byref(word),
        )
        < 0
    ):
        raise oserror("ptrace(PTRACE_PEEKDATA)")
    return word.value.to_bytes(8, "little")


def poke(tid: int, address: int, word: bytes) -> None:
    """Write eight bytes, into read-only pages too."""
    if libc.ptrace(PTRACE_POKEDATA, tid, address, int.from_bytes(word, "little")) < 0:
        raise oserror("ptrace(PTRACE_POKEDATA)")


def listen(tid: int) -> None:
    """Let a group-stopped tracee stay stopped, and still hear of its SIGCONT."""
    if libc.ptrace(PTRACE_LISTEN, tid, None, None) < 0:
        raise oserror("ptrace(PTRACE_LISTEN)")


def interrupt(tid: int) -> None:
    """Stop a seized tracee, with EVENT_STOP; a call that waits ends first."""
    if libc.ptrace(PTRACE_INTERRUPT, tid, None, None) < 0:
        raise oserror("ptrace(PTRACE_INTERRUPT)")


def detach(tid: int, signal: int = 0) -> None:
    """Let a stopped tracee go, for any other tracer, and give it a signal if it is not 0."""
    if libc.ptrace(PTRACE_DETACH, tid, None, signal) < 0:
        raise oserror("ptrace(PTRACE_DETACH)")


def break_at(tid: int, address: int) -> None:
    """Have the processor stop a thread with SIGTRAP before it executes what stands there; 0: nowhere.

    Children do not have the breakpoint, nor other threads, and an execution ends it.
    """
    # u_debugreg of struct user (sys/user.h); in the seventh one bit 0 switches the first one on (Intel SDM 3, 17.2).
    first, control = _DEBUG_REGISTERS, _DEBUG_REGISTERS + 7 * 8
    for register, value in ((first, address), (control, 1)) if address else ((control, 0),):
        if libc.ptrace(PTRACE_POKEUSER, tid, register, value) < 0:
            raise oserror("ptrace(PTRACE_POKEUSER)")


def signal_code(tid: int) -> int:
    """Why a thread gets the signal at which it stops: its si_code (sigaction(2))."""
    info = ctypes.create_string_buffer(128)
    if libc.ptrace(PTRACE_GETSIGINFO, tid, None, ctypes.addressof(info)) < 0:
        raise oserror("ptrace(PTRACE_GETSIGINFO)")
    return int(struct.unpack_from("=3i", info.raw)[2])


ALL_SIGNALS = b"\xff" * 8


def swap_mask(tid: int, mask: bytes) -> bytes:
    """Set a stopped tracee's signal mask, 8 bytes, and return the former one."""
    former = ctypes.create_string_buffer(8)
    if libc.ptrace(PTRACE_GETSIGMASK, tid, 8, ctypes.addressof(former)) < 0:
        raise oserror("ptrace(PTRACE_GETSIGMASK)")
    if libc.ptrace(PTRACE_SETSIGMASK, tid, 8, ctypes.cast(ctypes.c_char_p(mask), ctypes.c_void_p)) < 0:
        raise oserror("ptrace(PTRACE_SETSIGMASK)")
    return former.raw


def entered(tid: int) -> tuple[int, int, tuple[int, ...]] | None:
    """At a system call's start: the call's number, AUDIT_ARCH_ value and arguments. None at its end (Linux 5.3)."""
    info = ctypes.create_string_buffer(88)
    if libc.ptrace(PTRACE_GET_SYSCALL_INFO, tid, len(info), ctypes.addressof(info)) < 0:
        raise oserror("ptrace(PTRACE_GET_SYSCALL_INFO)")
    kind, arch, _rip, _rsp, number, *arguments = struct.unpack_from("=B3xIQQQ6Q", info.raw)
    return (number & 0xFFFFFFFF, arch, tuple(arguments)) if kind == 1 else None
