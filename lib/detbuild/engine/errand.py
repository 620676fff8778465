# SPDX-License-Identifier: MIT
"""System calls that a stopped thread makes for the tracer, wherever it stands and whatever other threads do.

No code is changed for it: other threads may run the same. The thread is sent to the system call instruction of its
vDSO, which the kernel maps into every process, and comes back with the registers and the signal mask that it had.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from types import TracebackType

from detbuild.linux import memory, proc, ptrace, seccomp
from detbuild.linux.libc import PR_SET_NO_NEW_PRIVS, PR_SET_TSC, PR_TSC_ENABLE
from detbuild.linux.x86_64 import Abi, code_abi

_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22
_INSTRUCTIONS = {8: b"\x0f\x05", 4: b"\xcd\x80"}  # syscall, int 0x80


class Errand:
    """A context in which a thread that has stopped, at EVENT_STOP or a call's end, makes calls.

    Raises OSError, ProcessLookupError where the thread ended meanwhile. ``postpone`` is given the wait statuses that
    are the tracer's to handle, then and whenever they are others'. ``place`` is the program's ``gate`` where that is
    known already: then nothing of its memory is read.
    """

    def __init__(self, tid: int, postpone: Callable[[int, int], None], place: int = 0) -> None:
        self.tid = tid
        self._postpone, self._place = postpone, place
        self._stopped = False  # a SIGSTOP came meanwhile, which no mask holds back

    def __enter__(self) -> Errand:
        self._saved = ptrace.Registers()
        ptrace.getregs(self.tid, self._saved)
        self.abi = code_abi(self._saved.cs)
        self._place = self._place or gate(self.tid, self.abi)
        self._mask = ptrace.swap_mask(self.tid, ptrace.ALL_SIGNALS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ProcessLookupError):
            return
        # Only on its way from a signal's stop does the kernel restart the call that was interrupted.
        ptrace.setregs(self.tid, self._saved)
        self._next(ptrace.EVENT_STOP)
        ptrace.swap_mask(self.tid, self._mask)
        if self._stopped:
            with contextlib.suppress(OSError):
                os.kill(self.tid, signal.SIGSTOP)

    def call(self, name: str, *arguments: int) -> int:
        """Make a call: its result, or an OSError."""
        registers = ptrace.Registers.from_buffer_copy(self._saved)
        registers.rip, registers.rax = self._place, self.abi.numbers[name]
        registers.orig_rax = (1 << 64) - 1  # or the kernel would restart the call that the stop interrupted
        for register, value in zip(self.abi.arguments, arguments, strict=False):
            setattr(registers, register, value & (1 << 64) - 1)
        ptrace.setregs(self.tid, registers)
        self._next()
        self._next()
        ptrace.getregs(self.tid, registers)
        bits = 8 * self.abi.word
        result = int(registers.rax) & (1 << bits) - 1
        if result > (1 << bits) - 4096:
            raise OSError((1 << bits) - result, f"{name} for the tracer")
        return result

    def allow_counter(self) -> None:
        """Let the thread read the processor's counter. Raises OSError."""
        self.call("prctl", PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0)

    def add_filter(self, code: bytes, flag: int) -> int:
        """seccomp(2) with one more filter, a struct sock_filter[]: the call's result. Raises OSError."""
        size = 16 + len(code)
        page = self.call("mmap" if self.abi.word == 8 else "mmap2", 0, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        try:
            memory.write(self.tid, page, seccomp.placed(code, page, self.abi.word))
            try:
                return self.call("seccomp", seccomp.SECCOMP_SET_MODE_FILTER, flag, page)
            except PermissionError:
                # Root's session in which a program has left root.
                self.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                return self.call("seccomp", seccomp.SECCOMP_SET_MODE_FILTER, flag, page)
        finally:
            self.call("munmap", page, size)

    def _next(self, until: int = 0) -> None:
        """To the call's start, or its end, or an event."""
        while True:
            if until:
                ptrace.interrupt(self.tid)  # again after every other stop, which takes it back
            (ptrace.cont if until else ptrace.syscall)(self.tid)
            status = self._wait()
            event = status >> 16
            if not os.WIFSTOPPED(status) or event == ptrace.EVENT_EXEC:
                self._postpone(self.tid, status)
                raise ProcessLookupError(errno.ESRCH, "ended in an errand")
            if event == until and (until or os.WSTOPSIG(status) == signal.SIGTRAP | ptrace.SYSCALL_STOP):
                return
            if not event and os.WSTOPSIG(status) == signal.SIGSTOP:
                self._stopped = True
            elif not event and not until:
                raise OSError(errno.EFAULT, f"signal {os.WSTOPSIG(status)} in an errand")

    def _wait(self) -> int:
        """The thread's next wait status. A leader's end is told after all others of its process were waited for."""
        while True:
            tid, status = os.waitpid(-1, ptrace.WALL)
            if tid == self.tid:
                return status
            self._postpone(tid, status)


def gate(tid: int, abi: Abi) -> int:
    """Where a thread can make system calls without a change of its code. Raises OSError."""
    code = _INSTRUCTIONS[abi.word]
    for each in proc.mappings(tid):
        if each.name == "[vdso]":
            at = memory.read(tid, each.start, each.end - each.start).find(code)
            if at >= 0:
                return each.start + at
    raise OSError(errno.ENOSYS, "no vDSO to make system calls from")
