# SPDX-License-Identifier: MIT
"""Where a session's notified calls are answered: the clocks that return in a register, executions, and waits."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from detbuild import policy, programs
from detbuild.audit import FIXED, LEAKED, PASSED, Audit, Gap, Read
from detbuild.bpf.layout import Flag, Op
from detbuild.engine import bell as bells
from detbuild.engine import filetimes, origins, refusals, waits, world
from detbuild.engine.answers import ANSWERS
from detbuild.engine.base import Terms
from detbuild.engine.bell import Doorbell, Silent
from detbuild.engine.clock import SECOND
from detbuild.engine.execution import Call, Execution, Executions
from detbuild.engine.filter import numbered
from detbuild.engine.handouts import Handouts
from detbuild.engine.hold import Change, Holds
from detbuild.engine.origins import Origins
from detbuild.engine.stream import Stream
from detbuild.engine.tracee import Finish, Thread, values
from detbuild.engine.waiters import Waiters
from detbuild.linux import mounts, notify, proc
from detbuild.linux.notify import Listener, Notification
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import X32_BIT, Abi
from detbuild.policy import Rule, Treatment
from detbuild.program import Program

_MOVING = ("random", "order")  # whose next answer is another one
_SEES_ALL = Flag.SPARED | Flag.OBSERVED
# By which rule of its own a program's call is left alone.
_PASSES = {"deadline": Flag.CLOCK_REAL, "write times": Flag.WRITES_KEPT}


class Opener(NamedTuple):
    """The process that opens the session, and its thread, whose first time(2) proves that we are asked."""

    pid: int
    tid: int


class Desk:
    """Answers one session's notifications, one after the other; ``audit`` gets what it sees."""

    def __init__(self, terms: Terms, listener: Listener, bell: Doorbell, opener: Opener) -> None:
        self.audit = Audit("ebpf", terms.epoch, terms.policy)
        self.names = {0: proc.program(opener.pid)}
        self._epoch = terms.epoch
        self._listener, self._bell, self._opener = listener, bell, opener.tid
        rules = policy.rules(terms.policy)
        self._calls = numbered(rules)
        self._programs = programs.table(terms.rules)
        self._executions = Executions()
        self._waiters = Waiters(bell)
        self._holds = Holds(listener)
        self._handouts = Handouts(terms, listener)
        fixes_random = any(rule.kind == "random" and rule.treatment is Treatment.FIXED for rule in rules)
        self._origins = Origins(terms, bell) if fixes_random else None
        if self._origins:
            self._origins.begin(opener.pid)
        mounts.begin()

    def serve(self, call: Notification) -> None:
        """Answer one call. Raises OSError where the kernel refuses an answer."""
        abi, rule = self._calls[call.arch, call.number & ~X32_BIT]
        try:
            if rule.kind == "execution":
                self._execution(call, rule, abi)
            elif self._holds.goes_on(call):
                return
            elif rule.kind == "clock":
                self._clock(call, rule, abi)
            elif rule.kind == "files":
                self._open(call, rule)
            elif rule.treatment is Treatment.REPORTED:
                self._report(call, rule)
            elif rule.kind in world.ANSWERED:
                self._world(call, rule, abi)
            else:
                self._detour(call, rule, abi)
        except ProcessLookupError:
            # It left the session by a set-user-ID program, or was killed.
            self._listener.proceed(call.ident)
        except Silent as silent:
            self.gap("BPF is gone", str(silent))
            self._alone(call, rule, abi)

    def stopped(self) -> None:
        """Go on with threads that are held for a call and stopped."""
        try:
            self._holds.stopped()
        except Silent as silent:
            self.gap("BPF is gone", str(silent))

    def gap(self, kind: str, detail: str) -> None:
        self.audit.gaps[Gap(kind, detail)] += 1

    def name(self, program_key: int) -> str:
        """The path of the program that BPF counts under that key."""
        return self.names.get(program_key, "?")

    def _count(self, program_key: int, call: str, outcome: str) -> None:
        self.audit.count(Read(self.name(program_key), call, outcome))

    def _report(self, call: Notification, rule: Rule) -> None:
        known = self._bell.ring(Op.INFO, call.tid)
        if rule.kind != "file times" or not known.flags & Flag.TIMES_TRUE:
            self._count(known.program_key, rule.call, world.reported(rule))
        self._listener.proceed(call.ident)

    # Clocks ------------------------------------------------------------------------------------------------------

    def _clock(self, call: Notification, rule: Rule, abi: Abi) -> None:
        if call.tid == self._opener and rule.call == "time":
            # Its first call, by which it sees that no outer filter answers before this one.
            self._opener = 0
            self._answer(call, rule, abi, self._epoch * SECOND)
            return
        answer = self._bell.ring(Op.READ, call.tid)
        real = answer.flags & (_SEES_ALL | Flag.CLOCK_REAL)
        outcome = FIXED if not real else LEAKED if answer.flags & _SEES_ALL else PASSED
        self._count(answer.program_key, rule.call, outcome)
        if real:
            self._listener.proceed(call.ident)
        else:
            self._answer(call, rule, abi, answer.value)

    def _answer(self, call: Notification, rule: Rule, abi: Abi, now: int) -> None:
        if not self._listener.valid(call.ident):
            return  # and its memory may be somebody else's
        try:
            result = ANSWERS[rule.call](call.tid, abi, call.arguments, now)
        except ProcessLookupError:
            return
        except OSError as error:
            if error.errno != errno.EFAULT:
                self.gap("memory out of reach", f"{proc.program(call.tid)} read {rule.call} itself: {error}")
                self._listener.proceed(call.ident)
                return
            result = -errno.EFAULT
        self._listener.answer(call.ident, result)

    def _alone(self, call: Notification, rule: Rule, abi: Abi) -> None:
        """Without BPF there is no clock that moves, but the epoch still holds."""
        if rule.kind == "clock":
            self._answer(call, rule, abi, self._epoch * SECOND)
        else:
            self._listener.proceed(call.ident)

    # The world beyond the clocks ----------------------------------------------------------------------------------

    def _world(self, call: Notification, rule: Rule, abi: Abi) -> None:
        known = self._bell.ring(Op.INFO, call.tid)
        key, draws = known.program_key, known.draws
        real = known.flags & (Flag.SPARED | (Flag.RANDOM_REAL if rule.kind == "random" else 0))
        thread = self._waiters.thread(call.tid)
        thread.stream = origins.stream(known) if self._origins else None

        def answer(arguments: Sequence[int]) -> int | None:
            result = None if real else self._of_the_world(rule, abi, thread, arguments)
            if rule.kind in world.KINDS:
                self._count(key, rule.call, LEAKED if result is None else FIXED)
            if result is not None:
                self._drew(call.tid, thread.stream, draws)
            return result

        if not real and rule.kind in _MOVING and not notify.waits_killable():
            # A signal may come between our answer and the caller, who would ask again: of a stopped one, none does.
            self._hold(call, rule, key, thread, lambda registers: answer(values(abi, registers)))
            return
        if not self._listener.valid(call.ident):
            return  # and its memory may be somebody else's
        result = answer(call.arguments)
        if result is None:
            self._listener.proceed(call.ident)
        else:
            self._listener.answer(call.ident, result)

    def _drew(self, tid: int, stream: Stream | None, before: int) -> int:
        """Have BPF count the reads that were taken of a stream."""
        drawn = stream.reads - before if stream else 0
        if drawn:
            self._bell.ring(Op.DREW, tid, a=drawn)
        return drawn

    def _open(self, call: Notification, rule: Rule) -> None:
        known = self._bell.ring(Op.INFO, call.tid)
        key, draws = known.program_key, known.draws
        stream = origins.stream(known) if self._origins else None
        given = self._handouts.called(call, rule, known.flags, stream)
        if given.source:
            self._count(key, given.source, given.outcome)
            if given.lacking:
                self.gap("left real", f"{self.name(key)} read {given.source}, which the engine ebpf does not fix")
            self._drew(call.tid, stream, draws)

    def _of_the_world(self, rule: Rule, abi: Abi, thread: Thread, arguments: Sequence[int]) -> int | None:
        """The call's result; None where the kernel has to answer."""
        try:
            return world.answer(thread, abi, rule, arguments)
        except ProcessLookupError:
            raise
        except OSError as error:
            if error.errno == errno.EFAULT:
                return -errno.EFAULT
            self.gap("memory out of reach", f"{proc.program(thread.tid)} read {rule.call} itself: {error}")
            return None

    # Executions --------------------------------------------------------------------------------------------------

    def _execution(self, call: Notification, rule: Rule, abi: Abi) -> None:
        word = 4 if call.number & X32_BIT else abi.word
        try:
            found = self._executions.look(Call(call.tid, rule.call, call.arguments, word))
        except OSError as error:
            if self._listener.valid(call.ident):
                self._undecided(call, error)
            return
        if found:
            self._decide(call.tid, found)
        self._listener.proceed(call.ident)

    def _decide(self, tid: int, found: Execution) -> None:
        row = self._programs.decide(found.executable, lambda: [os.fsdecode(word) for word in found.arguments])
        self._tell(tid, found, row)

    def _tell(self, tid: int, found: Execution, row: Program) -> None:
        key = bells.program_key(found.executable)
        self.names[key] = found.executable
        command = bells.command_key(found.executable, found.arguments)
        former = self._bell.ring(Op.EXEC, tid, bells.flags(row), key, command).origin
        if self._origins:
            self._origins.executing(tid, former, found, row)
        self._waiters.forget(tid)

    def _undecided(self, call: Notification, error: OSError) -> None:
        key = self._bell.ring(Op.INFO, call.tid).program_key  # no session, no gap
        self.gap(
            "program out of reach", f"what {self.name(key)} executes has the rule of programs that have none: {error}"
        )
        self._tell(call.tid, Execution(f"a program that {self.name(key)} executed", ()), programs.DEFAULT)
        self._listener.proceed(call.ident)

    # Calls that get other arguments -------------------------------------------------------------------------------

    def _detour(self, call: Notification, rule: Rule, abi: Abi) -> None:
        answer = self._bell.ring(Op.INFO, call.tid)
        key, own = answer.program_key, _PASSES.get(rule.kind, Flag(0))
        try:
            if answer.flags & (Flag.SPARED | own) or not self._needs_change(call, rule, abi):
                self._listener.proceed(call.ident)
                return
        except ProcessLookupError:
            raise
        except (OSError, ValueError) as error:
            self._failed(call, rule, key, error)
            self._listener.proceed(call.ident)
            return
        thread = self._waiters.thread(call.tid)

        def change(registers: Registers) -> Finish | None:
            if rule.kind == "deadline":
                return waits.begin(thread, abi, rule.call, registers)
            if rule.kind == "layout":
                return world.keep_layout(thread, abi, rule.call, registers)
            return filetimes.keep(thread, abi, rule.call, registers, self._epoch)

        self._hold(call, rule, key, thread, change)

    def _hold(self, call: Notification, rule: Rule, program_key: int, thread: Thread, change: Change) -> None:
        def safely(registers: Registers) -> Finish | int | None:
            try:
                return change(registers)
            except ProcessLookupError:
                return None  # killed meanwhile
            except Silent as silent:
                self.gap("BPF is gone", str(silent))
                return None
            except (OSError, ValueError) as error:
                self._failed(call, rule, program_key, error)
                return None

        try:
            self._holds.begin(call, thread, safely)
        except ProcessLookupError:
            return
        except OSError as error:
            if proc.ended(call.tid):
                return  # EPERM says of a zombie too that it cannot be traced
            words = refusals.seize_refused(call.tid, error)
            self.gap("thread not held", f"{self.name(program_key)}: {rule.call}: {words}")
            self._listener.proceed(call.ident)

    def _needs_change(self, call: Notification, rule: Rule, abi: Abi) -> bool:
        if rule.kind == "layout":
            return not world.keeps_layout(call.arguments[0] & 0xFFFFFFFF)
        thread, arguments = self._waiters.thread(call.tid), list(call.arguments)
        if rule.kind == "deadline":
            concerned = waits.concerns(call.tid, rule.call, arguments)
            return concerned and not waits.passes(thread, abi, rule.call, arguments)
        return filetimes.replaced(thread, abi, rule.call, arguments, self._epoch) is not None

    def _failed(self, call: Notification, rule: Rule, program_key: int, error: OSError | ValueError) -> None:
        # EFAULT is the caller's own: the kernel will say so.
        if getattr(error, "errno", 0) != errno.EFAULT and not proc.ended(call.tid):
            self.gap("wait not carried over", f"{self.name(program_key)}: {rule.call}: {error}")
