# SPDX-License-Identifier: MIT
"""Threads that are traced for one system call: the kernel gets other arguments for it, which the caller never sees.

A thread that waits for our answer is seized and told to stop. The answer is then that the call begins again, and the
thread stops before it does. It gets the changed registers, makes the call, is notified of a second time and let go
on; at the call's end it gets its own registers back, and is let go for good. Where anything else comes in between, a
signal above all, it gets its own registers and begins again without us.

Or it gets the call's result where it is stopped, which no signal can take from it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from detbuild.engine.tracee import Finish, Pending, Thread
from detbuild.linux import ptrace
from detbuild.linux.notify import Listener, Notification
from detbuild.linux.x86_64 import I386, NATIVE

_OPTIONS = ptrace.PTRACE_O_TRACESYSGOOD | ptrace.PTRACE_O_EXITKILL
_GROUP_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SYSCALL = signal.SIGTRAP | ptrace.SYSCALL_STOP

# What the kernel keeps for itself (include/linux/errno.h): begin again whatever handler runs first; or go on by
# restart_syscall(2).
_RESTART_SYS = -512 & (1 << 64) - 1
_RESTART_NO_INTERRUPT = -513
_RESTART_BLOCK = -516 & 0xFFFFFFFF
_RESTARTS = (NATIVE.numbers["restart_syscall"], I386.numbers["restart_syscall"])

_REGISTERS = [name for name, *_ in ptrace.Registers._fields_]

# Called with the stopped thread's registers, which it may change; returns what is to do at the call's end, or an int
# for the call's result: it is not made then.
Change = Callable[[ptrace.Registers], "Finish | int | None"]


class _Stage(enum.Enum):
    STOPPING = "told to stop"
    ENTERING = "about to begin again"
    NOTIFYING = "about to be notified of"
    INSIDE = "in the call"
    RESTARTING = "interrupted, about to go on by restart_syscall"


@dataclass
class _Hold:
    thread: Thread
    number: int
    change: Change
    stage: _Stage = _Stage.STOPPING
    pending: Pending = field(default_factory=lambda: Pending(lambda _thread, _registers: None))


class Holds:
    """All threads that are held now. One thread of the supervisor makes all calls here: ptrace knows only that one."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._holds: dict[int, _Hold] = {}
        self._registers = ptrace.Registers()

    def __contains__(self, tid: int) -> bool:
        """Whether a thread is held for a call."""
        return tid in self._holds

    def begin(self, call: Notification, thread: Thread, change: Change) -> None:
        """Hold a notified thread for its call. Raises OSError where it may not be traced; ESRCH: it was killed."""
        ptrace.seize(call.tid, _OPTIONS)
        self._holds[call.tid] = _Hold(thread, call.number, change)
        ptrace.interrupt(call.tid)
        # The stop is pending now, so the thread never runs a program's instruction with this result. A kernel that
        # interrupts what waits for an answer has taken the call back already.
        self._listener.answer(call.ident, _RESTART_NO_INTERRUPT)

    def goes_on(self, call: Notification) -> bool:
        """Let a held thread's call go on; False for a call that is none of a held thread."""
        hold = self._holds.get(call.tid)
        if hold is None:
            return False
        if hold.stage is _Stage.STOPPING and _ours(call.tid):
            # A signal had taken it out of the call it is held for, and it made this one before it was told to stop.
            self._listener.answer(call.ident, _RESTART_NO_INTERRUPT)
            return True
        if hold.stage is not _Stage.NOTIFYING or hold.number != call.number or not _ours(call.tid):
            # Another thread's exec took this one's number.
            del self._holds[call.tid]
            return False
        if self._listener.proceed(call.ident):
            hold.stage = _Stage.INSIDE
        return True

    def stopped(self) -> None:
        """Handle every stop and end that the kernel has to tell. Raises OSError from a call's ``Finish``."""
        while self._holds:
            try:
                tid, status = os.waitpid(-1, os.WNOHANG | ptrace.WALL)
            except ChildProcessError:
                self._holds.clear()
                return
            if tid == 0:
                return
            hold = self._holds.get(tid)
            if not os.WIFSTOPPED(status):
                self._holds.pop(tid, None)
            elif hold:
                with contextlib.suppress(ProcessLookupError):  # killed between the stop and our answer
                    self._stop(tid, hold, os.WSTOPSIG(status), status >> 16)

    def _stop(self, tid: int, hold: _Hold, sig: int, event: int) -> None:
        if event == ptrace.EVENT_STOP and sig in _GROUP_STOPS and hold.stage in (_Stage.STOPPING, _Stage.RESTARTING):
            ptrace.listen(tid)
        elif hold.stage is _Stage.STOPPING:
            if event == ptrace.EVENT_STOP:
                self._change(tid, hold)
            else:
                ptrace.cont(tid, sig)  # it was on its way to a handler when it was seized
        elif sig == _SYSCALL:
            self._boundary(tid, hold)
        elif hold.stage is _Stage.RESTARTING:
            ptrace.syscall(tid, 0 if event else sig)
        else:
            self._let_go(tid, hold, 0 if event else sig)

    def _change(self, tid: int, hold: _Hold) -> None:
        """The thread stands where the call shall begin again."""
        registers = self._registers
        ptrace.getregs(tid, registers)
        restarts = (_RESTART_SYS, _RESTART_NO_INTERRUPT & (1 << 64) - 1)
        if registers.orig_rax & 0xFFFFFFFF != hold.number & 0xFFFFFFFF or registers.rax not in restarts:
            self._let_go(tid, hold)  # a signal took it out of the call before it was seized
            return
        registers.rax = _RESTART_NO_INTERRUPT & (1 << 64) - 1
        before = ptrace.Registers.from_buffer_copy(registers)
        finish = hold.change(registers)
        if isinstance(finish, int):
            registers.rax = finish & (1 << 64) - 1
            ptrace.setregs(tid, registers)
            self._let_go(tid, hold)
            return
        lent = {name: getattr(before, name) for name in _REGISTERS if getattr(before, name) != getattr(registers, name)}
        hold.pending = Pending(finish or hold.pending.finish, lent)
        ptrace.setregs(tid, registers)
        hold.stage = _Stage.ENTERING
        ptrace.syscall(tid)

    def _boundary(self, tid: int, hold: _Hold) -> None:
        if hold.stage is _Stage.ENTERING:
            hold.stage = _Stage.NOTIFYING
            ptrace.syscall(tid)
            return
        registers = self._registers
        ptrace.getregs(tid, registers)
        if hold.stage is _Stage.RESTARTING:
            # Entering: restart_syscall goes on where the call was; any other call means that a handler ended it.
            if registers.orig_rax in _RESTARTS:
                hold.stage = _Stage.INSIDE
                ptrace.syscall(tid)
            else:
                self._let_go(tid, hold)
            return
        if hold.stage is _Stage.NOTIFYING and registers.rax == _RESTART_SYS:
            # A kernel before 5.19: a signal came before the call could go on, and the call may not know EINTR.
            registers.rax = _RESTART_NO_INTERRUPT & (1 << 64) - 1
        hold.pending.give_back(registers)
        ptrace.setregs(tid, registers)
        if registers.rax & 0xFFFFFFFF == _RESTART_BLOCK:
            # The kernel has its own copy of what it goes on with, and a handler that runs now saves the registers.
            hold.pending.lent.clear()
            hold.stage = _Stage.RESTARTING
            ptrace.syscall(tid)
            return
        try:
            hold.pending.finish(hold.thread, registers)
        finally:
            del self._holds[tid]
            ptrace.detach(tid)

    def _let_go(self, tid: int, hold: _Hold, sig: int = 0) -> None:
        if hold.pending.lent:
            ptrace.getregs(tid, self._registers)
            hold.pending.give_back(self._registers)
            ptrace.setregs(tid, self._registers)
        del self._holds[tid]
        ptrace.detach(tid, sig)


def _ours(tid: int) -> bool:
    try:
        os.waitid(os.P_PID, tid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | ptrace.WALL)
    except ChildProcessError:
        return False
    return True
