# SPDX-License-Identifier: MIT
"""The processor's counter, rdtsc: which program reads it is found out at each of its threads' first read.

No filter sees an instruction, but Linux can make a signal of this one (PR_SET_TSC, prctl(2)): the thread then gets its
counter back, and the read is made again. The dynamic linker of glibc reads it eight times at every start, so that a
program with one is stopped at its own first instruction, and watched from there. Where the session only observes, that
is every program. Else it is those that hold a read, themselves or in their libraries, when they start: that costs
nearly nothing, since it is found out once. Go's programs do: they make of it the order in which they walk through maps.

What a process must never notice is the signal. It may make its memory unreadable meanwhile (PR_SET_DUMPABLE), even for
its tracer: so the stop is a breakpoint of the processor's, and the counter is given back without a look at the memory.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from detbuild.audit import COUNTER, LEAKED
from detbuild.engine import errand
from detbuild.engine.errand import Errand
from detbuild.engine.inject import Injection, allow_counter
from detbuild.engine.tracee import Process, Thread
from detbuild.linux import dynamic_linker, memory, proc, ptrace, tsc
from detbuild.linux.vdso import Given
from detbuild.linux.x86_64 import code_abi
from detbuild.policy import Policy

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer

_READS = (b"\x0f\x31", b"\x0f\x01\xf9")  # rdtsc; rdtscp, which tells the CPU's number as well
# The same, behind whatever prefixes.
_READ = re.compile(rb"[\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf2\xf3]*\x0f(?:\x31|(\x01\xf9))")
_LONGEST = 15  # bytes of an instruction
_WHOLE = re.compile(rb"[\x48\x49]\xc1[\xe0-\xe7]\x20")  # shl, by 32: both halves as one number, as compilers take it
_SOON = 24  # bytes behind a read in which that stands
_PIECE = 1 << 20  # bytes of code that are looked through at once
_SI_KERNEL = 0x80  # of a signal for an instruction that is forbidden (asm-generic/siginfo.h)
_OURS = 1 << signal.SIGTRAP - 1 | 1 << signal.SIGSEGV - 1

_File = tuple[int, int, int]  # st_dev, st_ino and st_ctime_ns


class Counter:
    """The reads of one session. All methods are for the tracer's own thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._watches = any(rule.kind == "random" for rule in tracer.rules)
        self._watches_all = Policy.parse(tracer.terms.policy).observes
        self._programs: dict[_File, bool] = {}  # whether they read the counter, as far as their code tells
        self._codes: dict[_File, bool] = {}  # the same of the files that are mapped to run
        self._waiting: dict[int, bool] = {}  # new programs, and whether their reads are to be allowed
        self._linked: dict[int, Given] = {}  # new programs with a dynamic linker
        self._arrivals: dict[int, Given] = {}  # those with a breakpoint at their entry
        self._injections: dict[int, tuple[Injection, bool]] = {}
        self._registers = ptrace.Registers()

    def injecting(self, tid: int) -> bool:
        """Whether a new program makes a call of ours now, in code of its own."""
        return tid in self._injections

    def executed(self, tid: int, process: Process, given: Given) -> None:
        """A new program, with what the kernel told it. Call ``begin`` next."""
        self.ended(tid)
        watched = self._watches and not process.spared and self._programs.get(_file(f"/proc/{tid}/exe"), True)
        watched = watched and not dynamic_linker.is_named(process.executable)
        if watched and not given.base and self._reads(tid) and _takes_signals(tid):
            self._waiting[tid] = False
        elif process.counted:
            self._waiting[tid] = True
        if given.base and (watched or process.counted):
            self._linked[tid] = given

    def begin(self, tid: int) -> None:
        """Before a new program's first instruction, when it makes no other call of ours."""
        allowed = self._waiting.pop(tid, None)
        if allowed is not None and self._allow(tid, allowed):
            return
        given = self._linked.pop(tid, None)
        if given and _takes_signals(tid):
            with _where_possible():
                ptrace.break_at(tid, given.entry)
                self._arrivals[tid] = given

    def arrived(self, tid: int) -> bool:
        """At a SIGTRAP: whether a program has come from its dynamic linker to its own first instruction."""
        given = self._arrivals.get(tid)
        if given is None:
            return False
        ptrace.getregs(tid, self._registers)
        if self._registers.rip != given.entry:
            return False
        self.lent(tid)
        if self._reads(tid, given.base):
            self._allow(tid, False)
        return True

    def _allow(self, tid: int, allowed: bool) -> bool:
        """Have a program make the call; False where it cannot, or must not."""
        if self._tracer.opens.sandboxed(self._tracer.threads[tid]):
            return False
        ptrace.getregs(tid, self._registers)
        with _where_possible():
            injection = allow_counter(tid, code_abi(self._registers.cs), self._registers, allowed)
            self._injections[tid] = injection, allowed
        return tid in self._injections

    def injected(self, tid: int, process: Process) -> None:
        """At the end of a call of ours."""
        injection, allowed = self._injections.pop(tid)
        if injection.undo(tid) == 0:
            process.counted = not allowed
            process.gate = 0 if allowed else _gate(tid, injection.registers)
        self.begin(tid)

    def trapped(self, tid: int) -> bool:
        """At a SIGSEGV: whether it stood for a read, which the thread makes again now."""
        thread = self._tracer.threads.get(tid)
        if not thread or not self.lacks(thread) or ptrace.signal_code(tid) != _SI_KERNEL:
            return False
        ptrace.getregs(tid, self._registers)
        code = _code(tid, self._registers.rip)
        read = _READ.match(code or _READS[0])
        # Where the code is out of reach, what else is forbidden will be so again. The linker's reads do not count.
        if read and (code or thread.process.gate) and tid not in self._arrivals:
            self._tracer.count(thread, COUNTER, LEAKED)
        self._give_back(thread)
        return thread.has_counter or (read is not None and self._read_for(tid, read))

    def lacks(self, thread: Thread) -> bool:
        """Whether a thread's next read is a signal."""
        return thread.process.counted and not thread.has_counter

    def _give_back(self, thread: Thread) -> None:
        if self._tracer.opens.sandboxed(thread):
            return
        with _where_possible():
            with Errand(thread.tid, self._tracer.postpone, thread.process.gate) as way:
                way.allow_counter()
            thread.has_counter = True

    def _read_for(self, tid: int, read: re.Match[bytes]) -> bool:
        """Read for a program that cannot make the call, or whose own filter may forbid it."""
        registers = self._registers
        try:
            now = self._clock.read()
        except OSError:
            return False
        registers.rip += read.end()
        registers.rax, registers.rdx = now & 0xFFFFFFFF, now >> 32
        if read[1]:
            registers.rcx = min(os.sched_getaffinity(0))
        ptrace.setregs(tid, registers)
        return True

    @cached_property
    def _clock(self) -> tsc.Clock:
        return tsc.Clock()

    def lent(self, tid: int) -> None:
        """Another tracer gets a thread, and would take our breakpoint for one of its own."""
        if self._arrivals.pop(tid, None):
            with _where_possible():
                ptrace.break_at(tid, 0)

    def ended(self, tid: int) -> None:
        """A thread ended, or executes another program."""
        for each in (self._waiting, self._linked, self._arrivals, self._injections):
            each.pop(tid, None)

    # Whose code reads it ----------------------------------------------------------------------------------------------

    def _reads(self, tid: int, base: int = 0) -> bool:
        """Whether to watch a program that stands before its own first instruction, with its libraries mapped."""
        program = _file(f"/proc/{tid}/exe")
        if program not in self._programs:
            with _where_possible():
                self._programs[program] = self._watches_all or self._code_holds(tid, base)
        return self._programs.get(program, False)

    def _code_holds(self, tid: int, base: int) -> bool:
        """Whether the code of a program holds a read, but for that of its dynamic linker, which is mapped at ``base``.

        As compilers of 64-bit code write it: what other code has of these few bytes is mostly chance.
        """
        mapped = [each for each in proc.mappings(tid) if each.name.startswith("/")]
        if not mapped:
            raise ProcessLookupError(errno.ESRCH, "killed")  # it lives on paper only
        linker = next((each.name for each in mapped if each.start == base), "")
        codes = [each for each in mapped if each.executable and each.name != linker]
        return any(self._file_holds(tid, each) for each in codes)

    def _file_holds(self, tid: int, code: proc.Mapping) -> bool:
        file = _file(f"/proc/{tid}/root{code.name}")
        if file not in self._codes:
            self._codes[file] = any(map(_holds, _pieces(tid, code)))
        return self._codes[file]


@contextmanager
def _where_possible() -> Iterator[None]:
    """What the kernel refuses is left undone. Raises ProcessLookupError where the thread was killed."""
    try:
        yield
    except ProcessLookupError:
        raise
    except OSError:
        pass


def _gate(tid: int, registers: ptrace.Registers) -> int:
    """Where a thread of a program can make calls when nobody can read its memory any more; 0 for nowhere."""
    with _where_possible():
        return errand.gate(tid, code_abi(registers.cs))
    return 0


def _takes_signals(tid: int) -> bool:
    """Whether a program neither blocks nor ignores our signals: the kernel would change that to send them."""
    try:
        return not any(int(proc.status(tid, key), 16) & _OURS for key in ("SigBlk", "SigIgn"))
    except (OSError, ValueError):
        return False  # killed


def _code(tid: int, address: int) -> bytes:
    """What a thread executes; nothing where the memory is out of reach."""
    with _where_possible():
        return memory.read(tid, address, _LONGEST)
    with _where_possible():
        return ptrace.peek(tid, address)  # also what may only be executed
    return b""


def _file(path: str) -> _File:
    """What a program or a library is known by; by nothing again, where it cannot be found."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, time.monotonic_ns()
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _pieces(tid: int, code: proc.Mapping) -> Iterator[bytes]:
    """In pieces that overlap. Raises OSError."""
    for at in range(code.start, code.end, _PIECE):
        yield memory.read(tid, at, min(_PIECE + 2 * _SOON, code.end - at))


def _holds(code: bytes) -> bool:
    for read in _READS:
        at = code.find(read)
        while at >= 0:
            if _WHOLE.search(code, at, at + len(read) + _SOON):
                return True
            at = code.find(read, at + 1)
    return False
