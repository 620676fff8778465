# SPDX-License-Identifier: MIT
"""Threads that a program of the session traces itself, as debuggers and LeakSanitizer do: lent to it, and taken back.

A thread has one tracer, so the session's must let it go. But then the session's filter answers ENOSYS, to file calls
and waits too. So a lent thread first gets one more filter, which the kernel asks before the other: its calls wait for
a listener, here, that lets them be made. They see the real world. Nothing is lost where a loan ends unnoticed, nor of
children born meanwhile: the first such call of a thread that nobody traces brings it back, before the call is made.

The filter stays for good. A thread that came back is stopped at every call instead, and its calls are judged by the
same filter, evaluated here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from functools import cached_property
from typing import TYPE_CHECKING

from detbuild.audit import LEAKED, PASSED, Read
from detbuild.engine.errand import Errand
from detbuild.engine.filter import decode, whole
from detbuild.engine.listeners import Listeners
from detbuild.engine.refusals import yama_scope
from detbuild.engine.tracee import Pending, Thread, values
from detbuild.linux import proc, ptrace, seccomp
from detbuild.linux.libc import PR_SET_PTRACER
from detbuild.linux.notify import Listener, Notification
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import Abi

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer

# From here on a listener hears that the last of its programs has ended (and pidfd_getfd is 5.6's).
_LINUX = (5, 9)

_EPERM = -errno.EPERM & (1 << 64) - 1
_SKIP = (1 << 64) - 1  # system call number -1: the kernel makes no call and keeps our result

# What lets a traced thread run on, and so see real times; the others look at it, or end the tracing.
_RUNNING = (
    ptrace.PTRACE_TRACEME,
    ptrace.PTRACE_CONT,
    ptrace.PTRACE_SINGLESTEP,
    ptrace.PTRACE_SYSCALL,
    ptrace.PTRACE_SYSEMU,
    ptrace.PTRACE_SYSEMU_SINGLESTEP,
    ptrace.PTRACE_SINGLEBLOCK,
    ptrace.PTRACE_SEIZE,
)


class Loan:
    """A thread that is lent, or to be. ``borrower`` is the thread that traces it, 0 where that is its parent.

    It is ``open`` while the borrower's call that attaches or detaches is under way, and nobody may be its tracer.
    ``started`` is in clock ticks since boot: nobody tells that a lent thread has ended, and that its id is another's.
    """

    def __init__(self, thread: Thread, borrower: int, open: bool = True, started: int = 0) -> None:
        self.thread, self.borrower, self.open, self.started = thread, borrower, open, started


class Handover:
    """The loans of one session. All methods are for the tracer's own thread."""

    def __init__(self, tracer: Tracer) -> None:
        self.idle = True  # until a program of the session calls ptrace(2); few sessions have one
        self.lent: dict[int, Loan] = {}
        self.waiting: set[int] = set()  # borrowers that are kept stopped until their thread was let go
        self._tracer = tracer
        self._due: dict[int, Loan] = {}
        self._returning: set[int] = set()  # taken back, before their first stop
        self._held: dict[int, tuple[Listener, int]] = {}  # calls of lent threads, unanswered while the loan is open
        self._listeners = Listeners(tracer.rules)
        self._yama = yama_scope() == 1
        self._able = _release() >= _LINUX

    @property
    def listening(self) -> bool:
        """Whether ``listen`` must be called between two stops."""
        return bool(self._listeners)

    @cached_property
    def _judge(self) -> bytes:
        return whole(self._tracer.rules)

    # What the tracer's stops tell -----------------------------------------------------------------------------------

    def called(self, thread: Thread, abi: Abi) -> None:
        """At the start of ptrace(2). The caller is not resumed while it is in ``waiting``."""
        self.idle = False
        registers = Registers()
        ptrace.getregs(thread.tid, registers)
        request, number = (value & 0xFFFFFFFF for value in values(abi, registers)[:2])
        self._tracer.count(thread, "ptrace", LEAKED if request in _RUNNING else PASSED)
        if request == ptrace.PTRACE_TRACEME and self._able:
            self._give_oneself(thread, abi, registers)
        elif request in (ptrace.PTRACE_ATTACH, ptrace.PTRACE_SEIZE) and self._able:
            target = self._tracer.threads.get(proc.translate(thread.tid, number, self._tracer.threads))
            free = target and target.tid not in (*self._due, *self.waiting) and not proc.ended(target.tid)
            if target and free and target.process is not thread.process:
                with contextlib.suppress(ProcessLookupError):  # killed, and its end is what the caller waits for
                    ptrace.interrupt(target.tid)
                self._due[target.tid] = Loan(target, thread.tid)
                self.waiting.add(thread.tid)
                thread.pending = Pending(lambda _thread, registers: self._attached(target.tid, request, registers))
        elif request == ptrace.PTRACE_DETACH:
            tid = proc.translate(thread.tid, number, self.lent)
            if tid in self.lent:
                self.lent[tid].open = True
                thread.pending = Pending(lambda _thread, registers: self._detached(tid, registers))

    def resuming(self, tid: int) -> None:
        """Before a stopped thread goes on. Any stop takes back a PTRACE_INTERRUPT that was to come."""
        if (tid in self._due or tid in self._returning) and not self._tracer.injecting(tid):
            ptrace.interrupt(tid)

    def stopped(self, tid: int) -> bool:
        """At a thread's EVENT_STOP. True: it is another's now."""
        if self._tracer.injecting(tid):
            return False
        self._returning.discard(tid)
        loan = self._due.pop(tid, None)
        if loan is None:
            return False
        loan.thread = self._tracer.threads[tid]  # it may have executed another program
        lent = self._lend(loan)
        self._release(loan.borrower)
        return lent

    def ended(self, tid: int) -> None:
        """A thread ended, or its id did."""
        self.waiting.discard(tid)
        self._returning.discard(tid)
        loan = self._due.pop(tid, None)
        if loan:
            self._release(loan.borrower)
        for lent, loan in list(self.lent.items()):
            if loan.borrower == tid:
                self._take_back(lent)
        for due in [due for due, loan in self._due.items() if loan.borrower == tid]:
            del self._due[due]

    def entered(self, tid: int) -> int | None:
        """The filter's data for a call that a thread with a listener starts. None: it passes, or this is its end."""
        call = ptrace.entered(tid)
        action = seccomp.evaluate(self._judge, *call) if call else seccomp.RET_ALLOW
        return action & 0xFFFF if action & ~0xFFFF == seccomp.RET_TRACE else None

    # Lending ----------------------------------------------------------------------------------------------------------

    def _give_oneself(self, thread: Thread, abi: Abi, registers: Registers) -> None:
        """PTRACE_TRACEME: no call now; at its end the caller gets its filter, is let go, and makes the call again."""
        number = registers.orig_rax
        registers.orig_rax, registers.rax = _SKIP, _EPERM
        ptrace.setregs(thread.tid, registers)

        def again(thread: Thread, registers: Registers) -> None:
            registers.rip -= 2
            registers.rax, registers.orig_rax = number, _SKIP
            ptrace.setregs(thread.tid, registers)
            if not self._lend(Loan(thread, 0)):
                registers.rip += 2
                registers.rax = _EPERM
                ptrace.setregs(thread.tid, registers)

        thread.pending = Pending(again)

    def _lend(self, loan: Loan) -> bool:
        """Let a stopped thread go; whether that was done, or the thread has ended.

        Yama lets only ancestors trace, but for those whom a process allows: so all are, or it could not come back.
        """
        thread = loan.thread
        counter = self._tracer.extras.counter
        owed = counter.lacks(thread) and not self._tracer.opens.sandboxed(thread)
        try:
            if not thread.noted or self._yama or owed:
                with Errand(thread.tid, self._tracer.postpone) as errand:
                    if not thread.noted:
                        self._listeners.install(errand)
                        thread.noted = True
                    if self._yama:
                        errand.call("prctl", PR_SET_PTRACER, -1, 0, 0, 0)
                    if owed:
                        errand.allow_counter()
            counter.lent(thread.tid)
            loan.started = proc.start_time(thread.tid)
            ptrace.detach(thread.tid)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # the borrower's call will be refused, as the kernel refuses a second tracer
        thread.pending = None
        self.lent[thread.tid] = loan
        del self._tracer.threads[thread.tid]
        return True

    def _release(self, borrower: int) -> None:
        self.waiting.discard(borrower)
        if borrower in self._tracer.threads:
            with contextlib.suppress(ProcessLookupError):
                self._tracer.resume(borrower)

    def _attached(self, tid: int, request: int, registers: Registers) -> None:
        loan = self.lent.get(tid)
        if loan is None:
            return
        loan.open = False
        if registers.rax:
            self._take_back(tid)
        elif request == ptrace.PTRACE_SEIZE:
            self._answer_held(tid)
        else:
            self._held.pop(tid, None)  # the stop that PTRACE_ATTACH makes interrupts the call

    # Taking back ------------------------------------------------------------------------------------------------------

    def _detached(self, tid: int, registers: Registers) -> None:
        loan = self.lent.get(tid)
        if loan and registers.rax == 0:
            self._take_back(tid)
        elif loan:
            loan.open = False
            self._answer_held(tid)

    def _take_back(self, tid: int) -> bool:
        """Trace a thread of the session again, lent or born of a lent one; False where that is refused."""
        loan = self.lent.pop(tid, None)
        self._held.pop(tid, None)
        try:
            if loan and loan.started != proc.start_time(tid):
                return True
            self._tracer.seize(tid)
            ptrace.interrupt(tid)
        except (ProcessLookupError, FileNotFoundError):
            return True
        except OSError as error:
            if loan and proc.number(tid, "TracerPid"):
                self.lent[tid] = Loan(loan.thread, 0, False, loan.started)
            elif not proc.ended(tid):
                self._tracer.gap("not taken back", f"{proc.program(tid)} stays out of the session: {error}")
            return False
        thread = loan.thread if loan and loan.thread.process.executable == proc.program(tid) else None
        thread = thread or self._tracer.stranger(tid)
        thread.noted = True
        self._tracer.threads[tid] = thread
        self._returning.add(tid)
        return True

    # The listener -----------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Wait for the next stop or note, and answer notes."""
        for listener, note in self._listeners.wait():
            self._noted(listener, note)

    def _noted(self, listener: Listener, note: Notification) -> None:
        """A call that is left unanswered is interrupted soon, and made again."""
        tid = note.tid
        thread, loan = self._tracer.threads.get(tid), self.lent.get(tid)
        if thread:
            if thread.noted and tid not in self._returning:
                listener.proceed(note.ident)
            elif not thread.noted:
                thread.noted = True
                self._returning.add(tid)
                with contextlib.suppress(ProcessLookupError):
                    ptrace.interrupt(tid)
            return
        data = seccomp.evaluate(self._judge, note.number, note.arch, note.arguments)
        _, rule = decode(data & 0xFFFF, self._tracer.rules)
        gives_itself = rule.call == "ptrace" and note.arguments[0] & 0xFFFFFFFF == ptrace.PTRACE_TRACEME
        if loan and loan.open and not gives_itself:
            self._held[tid] = listener, note.ident
            return
        borrower = proc.number(tid, "TracerPid")
        if loan:
            loan.open, loan.borrower = False, borrower
        if not borrower and not gives_itself and self._take_back(tid):
            return
        if rule.kind == "clock":
            self._tracer.audit.count(Read(proc.program(tid), rule.call, LEAKED))
        listener.proceed(note.ident)

    def _answer_held(self, tid: int) -> None:
        if tid in self._held:
            listener, ident = self._held.pop(tid)
            listener.proceed(ident)


def _release() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)
