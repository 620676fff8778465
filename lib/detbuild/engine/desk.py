# SPDX-License-Identifier: MIT
"""Where a session's notified calls are answered: the clocks that return in a register, executions, and waits."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from detbuild import policy, programs
from detbuild.audit import BUILD_PATH, FIXED, LEAKED, PASSED, Audit, Gap
from detbuild.bpf.layout import Flag, Op
from detbuild.engine import bell as bells
from detbuild.engine import filetimes, origins, refusals, unheld, waits, world
from detbuild.engine.answers import ANSWERS
from detbuild.engine.base import Terms
from detbuild.engine.bell import Doorbell, Silent
from detbuild.engine.clock import SECOND
from detbuild.engine.execution import Call, Execution, Executions
from detbuild.engine.filter import DEVICE_KIND, TIOCSPGRP, numbered
from detbuild.engine.handouts import Handouts
from detbuild.engine.hold import Change, Holds
from detbuild.engine.origins import Origins
from detbuild.engine.outside import holds_device
from detbuild.engine.pids import Pids
from detbuild.engine.place import Place
from detbuild.engine.readers import Readers
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
_TOLD = Flag.PID_FIXED | Flag.EXECUTED  # a program that is told its number, and that the process executed itself
# By which rule of its own a program's call is left alone.
_PASSES = {"deadline": Flag.CLOCK_REAL, "write times": Flag.WRITES_KEPT}


class Opener(NamedTuple):
    """The process that opens the session, and its thread, whose first time(2) proves that we are asked."""

    pid: int
    tid: int


class Desk:
    """Answers one session's notifications, one after the other; ``audit`` gets what it sees, by ``readers``."""

    def __init__(self, terms: Terms, listener: Listener, bell: Doorbell, opener: Opener) -> None:
        self.audit = Audit("ebpf", terms.epoch, terms.policy)
        self.readers = Readers(opener.pid, spared=terms.spare_root)
        self._epoch = terms.epoch
        self._listener, self._bell, self._opener = listener, bell, opener.tid
        rules = policy.rules(terms.policy)
        self._calls = numbered(rules)
        self._programs = programs.table(terms.rules)
        self._executions = Executions()
        self._waiters = Waiters(bell)
        self._holds = Holds(listener)
        self._handouts = Handouts(terms, listener)
        fixed = {rule.kind for rule in rules if rule.treatment is Treatment.FIXED}
        keeps = fixed & {"random", "process"}
        self._origins = Origins(terms, bell, fixes_random="random" in fixed) if keeps else None
        self._pids = Pids(terms)
        tells_places = policy.Policy.parse(terms.policy).rules
        self._place = Place(os.readlink(f"/proc/{opener.pid}/cwd") if tells_places else "/")
        self._fresh: set[int] = set()  # processes whose program has read no random number yet, where these are reported
        self._reports_random = any(rule.kind == "random" and rule.treatment is Treatment.REPORTED for rule in rules)
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
                self._report(call, rule, abi)
            elif rule.kind == "process":
                self._own_number(call, rule)
            elif rule.kind == DEVICE_KIND:
                self._move(call, rule)
            elif rule.kind in world.KINDS:
                self._world(call, rule, abi)
            else:
                self._detour(call, rule, abi)
        except ProcessLookupError:
            # It left the session by a set-user-ID program, or was killed.
            self._listener.proceed(call.ident)
        except Silent as silent:
            self.gap("BPF is gone", str(silent))
            self._alone(call, rule, abi)

    def passes(self, call: Notification) -> bool:
        """Let an open of no outside file go on: most calls of a build are such, and nobody need know whose."""
        _, rule = self._calls[call.arch, call.number & ~X32_BIT]
        if rule.kind != "files" or call.tid in self._holds:
            return False
        with contextlib.suppress(ProcessLookupError):
            if self._handouts.asked(call, rule):
                return False
        self._listener.proceed(call.ident)
        return True

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
        return self.readers.program(program_key)

    def _count(self, program_key: int, call: str, outcome: str) -> None:
        self.readers.count(self.audit, program_key, call, outcome)

    def _report(self, call: Notification, rule: Rule, abi: Abi) -> None:
        known = self._bell.ring(Op.INFO, call.tid)
        if rule.kind != "file times" or not known.flags & Flag.TIMES_TRUE:
            first = rule.kind == "random" and self._is_fresh(call.tid)
            source = world.source(abi, rule, call.arguments, lambda: first)
            self._count(known.program_key, source, world.reported(rule))
        self._listener.proceed(call.ident)

    def _is_fresh(self, tid: int) -> bool:
        """Whether its program reads its first random number; not any more then."""
        pid = proc.number(tid, "Tgid")
        fresh = pid in self._fresh
        self._fresh.discard(pid)
        return fresh

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
        if rule.kind == "terminal" and call.arguments[1] & 0xFFFFFFFF == TIOCSPGRP:
            with contextlib.suppress(OSError):
                self._pids.give_group(call.tid, call.arguments[2])
            self._listener.proceed(call.ident)
            return
        known = self._bell.ring(Op.INFO, call.tid)
        key, draws = known.program_key, known.draws
        real = known.flags & (Flag.SPARED | (Flag.RANDOM_REAL if rule.kind == "random" else 0))
        thread = self._waiters.thread(call.tid)
        thread.stream = origins.stream(known) if self._origins else None

        def answer(arguments: Sequence[int]) -> int | None:
            result = None if real else self._of_the_world(rule, abi, thread, arguments)
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

    def _own_number(self, call: Notification, rule: Rule) -> None:
        known = self._bell.ring(Op.INFO, call.tid)
        key, tells = known.program_key, known.flags & (_TOLD | _SEES_ALL) == _TOLD
        origin = self._origins.of(known.origin) if self._origins else None
        told = self._pids.asked(call.tid, proc.number(call.tid, "Tgid"), rule.call, origin, tells=tells)
        self._count(key, rule.call, FIXED if told else PASSED)
        if told:
            self._listener.answer(call.ident, told)
        else:
            self._listener.proceed(call.ident)

    def _move(self, call: Notification, rule: Rule) -> None:
        """What moves a device's bytes inside the kernel: BPF would find them nowhere."""
        known = self._bell.ring(Op.INFO, call.tid)
        source = call.arguments[1 if rule.call.startswith("sendfile") else 0] & 0xFFFFFFFF
        if known.flags & (_SEES_ALL | Flag.RANDOM_REAL) or not holds_device(call.tid, source):
            self._listener.proceed(call.ident)
        else:
            self._listener.answer(call.ident, -errno.EINVAL)

    def _open(self, call: Notification, rule: Rule) -> None:
        asked = self._handouts.asked(call, rule)
        if not asked:
            self._listener.proceed(call.ident)
            return
        known = self._bell.ring(Op.INFO, call.tid)
        key, draws = known.program_key, known.draws
        stream = origins.stream(known) if self._origins else None
        given = self._handouts.give(call, asked, known.flags, stream)
        if given.source:
            self._count(key, given.source, given.outcome)
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
        line = [os.fsdecode(word) for word in found.arguments]
        row = self._programs.decide(found.executable, lambda: line)
        known = self._bell.ring(Op.INFO, tid)
        key = self.readers.executing(tid, known.program_key, known.flags, found.executable, line)
        if self._place.is_embedded_by(b"".join(b"%b\0" % word for word in found.arguments)):
            self._count(key, BUILD_PATH, LEAKED)
        if self._reports_random:
            self._fresh.add(proc.number(tid, "Tgid"))
        self._tell(tid, key, found, row)

    def _tell(self, tid: int, key: int, found: Execution, row: Program) -> None:
        command = bells.command_key(found.executable, found.arguments)
        former = self._bell.ring(Op.EXEC, tid, bells.flags(row), key, command).origin
        if self._origins:
            self._origins.executing(tid, former, found, row)
        self._waiters.forget(tid)

    def _undecided(self, call: Notification, error: OSError) -> None:
        known = self._bell.ring(Op.INFO, call.tid)  # no session, no gap
        name = self.name(known.program_key)
        self.gap("program out of reach", f"what {name} executes has the rule of programs that have none: {error}")
        found = Execution(f"a program that {name} executed", ())
        key = self.readers.unknown(call.tid, known.program_key, known.flags, found.executable)
        self._tell(call.tid, key, found, programs.DEFAULT)
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
            if rule.kind == "told":
                return self._pids.give_real(thread, abi, rule.call, registers)
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
        if rule.kind == "told":
            return self._pids.concerns(call.tid, rule.call, call.arguments)
        thread, arguments = self._waiters.thread(call.tid), list(call.arguments)
        if rule.kind == "deadline":
            concerned = waits.concerns(call.tid, rule.call, arguments)
            return concerned and not waits.passes(thread, abi, rule.call, arguments)
        return filetimes.replaced(thread, abi, rule.call, arguments, self._epoch) is not None

    def _failed(self, call: Notification, rule: Rule, program_key: int, error: OSError | ValueError) -> None:
        # EFAULT is the caller's own: the kernel will say so.
        if getattr(error, "errno", 0) != errno.EFAULT and not proc.ended(call.tid):
            self.gap(*unheld.gap(rule, self.name(program_key), error))
