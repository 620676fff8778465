# SPDX-License-Identifier: MIT
"""The tracer's loop: follows every fork and exec of a session, and answers the calls that the filters stop."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from collections import deque
from collections.abc import Callable

from detbuild import policy, programs
from detbuild.audit import BUILD_PATH, FIXED, HEAP_KEY, LEAKED, PASSED, Audit, Gap
from detbuild.engine import births, clockreads, filecalls, lineage, unheld, waits, world
from detbuild.engine.base import Terms
from detbuild.engine.births import Births
from detbuild.engine.clock import SECOND, Clock
from detbuild.engine.devices import Devices
from detbuild.engine.extras import Extras
from detbuild.engine.filter import DEVICE_KIND, FILE_KINDS, decode
from detbuild.engine.handover import Handover
from detbuild.engine.opens import Opens
from detbuild.engine.pids import Pids
from detbuild.engine.place import Place
from detbuild.engine.stream import Origin, Stream
from detbuild.engine.tracee import Finish, Pending, Prepare, Process, Thread, values
from detbuild.linux import mounts, proc, ptrace, vdso
from detbuild.linux.x86_64 import I386, NATIVE, Abi, code_abi
from detbuild.policy import Rule, Treatment
from detbuild.program import Program

OPTIONS = (
    ptrace.PTRACE_O_TRACESYSGOOD
    | ptrace.PTRACE_O_TRACEFORK
    | ptrace.PTRACE_O_TRACEVFORK
    | ptrace.PTRACE_O_TRACECLONE
    | ptrace.PTRACE_O_TRACEEXEC
    | ptrace.PTRACE_O_TRACESECCOMP
    | ptrace.PTRACE_O_EXITKILL
)

_GROUP_STOPS = frozenset(map(int, (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)))
_FAULT = int(signal.SIGSEGV)
_TRAP = int(signal.SIGTRAP)  # a plain number is compared in half the time, and every stop does
_CALL_STOP = _TRAP | ptrace.SYSCALL_STOP
_SKIP = (1 << 64) - 1  # system call number -1: the kernel makes no call and keeps our result
_RESTART_BLOCK = -516 & 0xFFFFFFFF  # ERESTART_RESTARTBLOCK: the kernel goes on by restart_syscall(2)
_RESTARTS = (NATIVE.numbers["restart_syscall"], I386.numbers["restart_syscall"])


class Tracer:
    """Serves one session, from the thread that attached: the kernel lets no other one ask.

    ``adopt`` the process that opens the session, then ``serve`` until the last tracee has ended.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.threads: dict[int, Thread] = {}
        self.audit = Audit("tracer", terms.epoch, terms.policy)
        self.rules = policy.rules(self.terms.policy)
        fixed = {rule.kind for rule in self.rules if rule.treatment is Treatment.FIXED}
        self._fixes_random, self._keeps_origins = "random" in fixed, bool(fixed & {"random", "process"})
        self._pids = Pids(terms)
        self._keep_terminal = world.keep_terminal(self._pids, self.count)
        self._tells_places = bool(policy.Policy.parse(terms.policy).rules)
        self._place = Place("/")
        self._programs = programs.table(self.terms.rules)
        self._registers = ptrace.Registers()
        self._moments = 0
        self._root = 0
        self._opener = 0  # the root's thread that opens the session, until its filter is proved
        self._postponed: deque[tuple[int, int]] = deque()  # stops that somebody else waited for, and met
        self._births = Births(self)
        self.extras = Extras(self)
        self._devices = Devices(self)
        self.opens = Opens(self, self._devices)
        self._handover = Handover(self)

    def adopt(self, pid: int, opener: int) -> None:
        """Seize every thread of the process that opens the session; ``opener`` is the one that asks. Raises OSError."""
        self._root, self._opener = pid, opener
        mounts.begin()
        self.opens.outer_filters = proc.number(pid, "Seccomp_filters")
        if self._tells_places:
            self._place = Place(os.readlink(f"/proc/{pid}/cwd"))
        root = Process(proc.program(pid), programs.DEFAULT, spared=self.terms.spare_root, pid=pid)
        for tid in proc.threads(pid):
            self.seize(tid)
            self.threads[tid] = Thread(tid, root, self._clock(), self._stream(tid, root.origin))

    def seize(self, tid: int) -> None:
        """Become a thread's tracer. Raises OSError."""
        ptrace.seize(tid, OPTIONS)

    def serve(self) -> None:
        """Handle stops until nobody is left."""
        while True:
            try:
                tid, status = self._next()
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                thread = self.threads.pop(tid, None)
                if thread and thread.process.pid == tid:
                    clockreads.left(self, thread.process)
                self._births.ended(tid)
                self.extras.ended(tid)
                if not self._handover.idle:
                    self._handover.ended(tid)
                self._births.adopt_orphans()
                continue
            try:
                self._stopped(tid, os.WSTOPSIG(status), status >> 16)
            except ProcessLookupError:
                continue  # killed between the stop and our answer

    def postpone(self, tid: int, status: int) -> None:
        """Keep what a wait told, for ``serve`` to handle next."""
        self._postponed.append((tid, status))

    def injecting(self, tid: int) -> bool:
        """Whether a new program makes a call of ours now, in code of its own."""
        return self.extras.injecting(tid)

    def _next(self) -> tuple[int, int]:
        """The next stop or end. Raises ChildProcessError where nobody is left."""
        if self._handover.idle and not self._postponed:
            return os.waitpid(-1, ptrace.WALL)
        while not self._postponed and self._handover.listening:
            with contextlib.suppress(ChildProcessError):
                tid, status = os.waitpid(-1, ptrace.WALL | os.WNOHANG)
                if tid:
                    return tid, status
            self._handover.listen()
        return self._postponed.popleft() if self._postponed else os.waitpid(-1, ptrace.WALL)

    def running(self) -> list[str]:
        """The programs that still run, without the process that opened the session."""
        known = [*self.threads, *self._births.tids, *self._handover.lent]
        leaders = {tid for tid in known if proc.number(tid, "Tgid") == tid} - {self._root}
        return [proc.program(tid) for tid in sorted(leaders)]

    def _clock(self) -> Clock:
        return Clock(self.terms.epoch * SECOND)

    def _stream(self, tid: int, origin: Origin) -> Stream | None:
        if not self._fixes_random:
            return None
        return origin.stream(self.terms.epoch, self.terms.seed, proc.raw_command_line(tid))

    def _stopped(self, tid: int, sig: int, event: int) -> None:
        inject = 0
        if not event and sig not in (_TRAP, _CALL_STOP):
            inject = 0 if sig == _FAULT and self.extras.counter.trapped(tid) else sig
        elif event in births.FORKS:
            # The maker need not wait for what is noted down about the child.
            maker, child = self.threads[tid], ptrace.geteventmsg(tid)
            with contextlib.suppress(ProcessLookupError):
                self.resume(tid)
            self._births.forked(maker, child, event)
            return
        elif event == ptrace.EVENT_SECCOMP and self.threads[tid].noted:
            pass  # a filter of the program's own: ours waits for the listener, and was asked at the call's start
        elif event == ptrace.EVENT_SECCOMP:
            self._called(self.threads[tid], ptrace.geteventmsg(tid))
        elif event == ptrace.EVENT_CLONE:
            self._births.forked(self.threads[tid], ptrace.geteventmsg(tid), event)
        elif event == ptrace.EVENT_EXEC:
            self._executed(tid)
        elif event == ptrace.EVENT_STOP:
            if self._stays(tid, sig):
                return
        elif sig == _CALL_STOP:
            self._call_boundary(self.threads[tid])
        elif self.injecting(tid):
            self.extras.injected(tid, self.threads[tid].process)
        elif not self.extras.counter.arrived(tid):
            inject = sig
        self.resume(tid, inject)

    def _stays(self, tid: int, sig: int) -> bool:
        """At an EVENT_STOP, first stop or group stop: whether the thread stays stopped, or is another tracer's now."""
        if not self._handover.idle and self._handover.stopped(tid):
            return True
        if sig in _GROUP_STOPS:
            ptrace.listen(tid)
            return True
        return tid not in self.threads and not self._births.stopped(tid)

    def resume(self, tid: int, sig: int = 0) -> None:
        """Let a stopped thread go on, unless it is another tracer's now, or waits for one."""
        thread = self.threads.get(tid)
        if not self._handover.idle:
            if tid in self._handover.waiting or (thread is None and tid in self._handover.lent):
                return
            self._handover.resuming(tid)
        (ptrace.syscall if thread and (thread.pending or thread.noted) else ptrace.cont)(tid, sig)

    # Processes and threads ---------------------------------------------------------------------------------------

    def stranger(self, tid: int) -> Thread:
        """A thread of whose origin nothing is known."""
        process = self._process(tid)
        return Thread(tid, process, self._clock(), self._stream(tid, process.origin))

    def _process(self, tid: int, former: Process | None = None) -> Process:
        """The process of a program that runs now, where another one of the same process may have run before."""
        process = Process(proc.program(tid), programs.DEFAULT, former.parent if former else None, pid=tid)
        if former:
            process.take_over(former)
        process.rule = self._programs.decide(process.executable, functools.partial(lineage.words, process))
        return process

    def _executed(self, tid: int) -> None:
        # The thread that executed takes the leader's id; all others of the process are gone.
        former_id = ptrace.geteventmsg(tid)
        former = self.threads.pop(former_id, None) or self.threads[tid]
        if former_id != tid:
            self._handover.ended(former_id)
        process = self._process(tid, former.process)
        clockreads.left(self, former.process)
        line = proc.raw_command_line(tid) if self._tells_places else b""
        if self._keeps_origins:
            process.origin = former.process.origin.execution(line)
        thread = Thread(tid, process, self._clock(), self._stream(tid, process.origin), former.noted)
        self.threads[tid] = thread
        if self._place.is_embedded_by(line):
            self.count(thread, BUILD_PATH, LEAKED)
        self._births.adopt_orphans(tid)
        ptrace.getregs(tid, self._registers)
        abi = code_abi(self._registers.cs)
        try:
            given = vdso.hide(tid, self._registers.rsp, abi)
            if given.random and thread.stream and process.rule.random == "fixed":
                world.give_random(tid, given.random, thread.stream)
            self.extras.executed(tid, process, given)
        except ProcessLookupError:
            raise
        except (OSError, ValueError) as error:
            self.gap("program out of reach", f"{process.executable} may read real times: {error}")

    # System calls ------------------------------------------------------------------------------------------------

    def _called(self, thread: Thread, data: int) -> None:
        abi, rule = decode(data, self.rules)
        program = thread.process.rule
        if thread.tid == self._opener and rule.call == "time":
            # Its first call, by which it sees that no outer filter answers before this one.
            self._opener = 0
            clockreads.tell(self, thread, abi, rule, self._clock())
        elif rule.kind == "untraced":
            self.prepare(thread, abi, rule, births.trace)
        elif rule.call == "ptrace":
            self._handover.called(thread, abi)
        elif rule.kind == "files":
            self.opens.called(thread, abi, rule, program)
        elif rule.kind == DEVICE_KIND:
            self._devices.called(thread, abi, rule, program)
        elif rule.kind == "process" and rule.treatment is Treatment.FIXED:
            self._own_number(thread, abi, rule)
        elif rule.kind == "terminal" and rule.treatment is Treatment.FIXED:
            self.prepare(thread, abi, rule, self._keep_terminal)
        elif rule.treatment is Treatment.REPORTED:
            # A child has its parent's filters, though its rule may show it no file times.
            if rule.kind != "file times" or program.reads == "shown":
                self._report(thread, abi, rule)
        elif thread.process.spared:
            if rule.kind == "clock" or rule.kind in world.KINDS:
                self.count(thread, rule.call, LEAKED)
        else:
            self._fix(thread, abi, rule, program)

    def _fix(self, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
        if rule.kind in FILE_KINDS:
            filecalls.called(self, thread, abi, rule, program)
        elif rule.kind in world.KINDS:
            self._world_call(thread, abi, rule, program)
        elif rule.kind == "layout":
            self.prepare(thread, abi, rule, world.keep_layout)
        elif rule.kind == "told":
            self.prepare(thread, abi, rule, self._pids.give_real)
        elif rule.kind == "clock":
            clockreads.called(self, thread, abi, rule, program)
        elif program.clock != "real":
            self.prepare(thread, abi, rule, waits.begin)

    def _report(self, thread: Thread, abi: Abi, rule: Rule) -> None:
        source = rule.call
        if rule.kind == "random":
            ptrace.getregs(thread.tid, self._registers)
            given = values(abi, self._registers)
            source = world.source(abi, rule, given, lambda: lineage.is_first(thread.process, rule.call, HEAP_KEY))
        self.count(thread, source, world.reported(rule))

    def _own_number(self, thread: Thread, abi: Abi, rule: Rule) -> None:
        process = thread.process
        tells = process.rule.pid == "fixed" and process.executed and not process.spared
        told = self._pids.asked(thread.tid, process.pid, rule.call, process.origin, tells=tells)
        if told:
            self.answer(thread, abi, rule, lambda _given: told)
        self.count(thread, rule.call, FIXED if told else PASSED)

    def _world_call(self, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
        outcome = world.outcome(rule, program)
        if outcome == FIXED and not self.answer(
            thread, abi, rule, lambda given: world.answer(thread, abi, rule, given)
        ):
            outcome = LEAKED
        self.count(thread, rule.call, outcome)

    def answer(self, thread: Thread, abi: Abi, rule: Rule, answer: Callable[[list[int]], int | None]) -> bool:
        """Answer in the kernel's place; False where it was left to the kernel."""
        registers = self._registers
        ptrace.getregs(thread.tid, registers)
        try:
            result = answer(values(abi, registers))
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            if error.errno != errno.EFAULT:
                self.out_of_reach(thread, f"read {rule.call} itself: {error}")
                return False
            result = -errno.EFAULT
        if result is None:
            return False
        registers.orig_rax = _SKIP
        registers.rax = result & _SKIP
        ptrace.setregs(thread.tid, registers)
        return True

    def moment(self) -> int:
        """The number of now, in the order in which processes begin and end."""
        self._moments += 1
        return self._moments

    def prepare(self, thread: Thread, abi: Abi, rule: Rule, prepare: Prepare) -> None:
        """At a call's start: let it go on as ``prepare`` has changed it, and come back at its end."""
        registers = self._registers
        ptrace.getregs(thread.tid, registers)
        before = ptrace.Registers.from_buffer_copy(registers)
        try:
            finish = prepare(thread, abi, rule.call, registers)
        except ProcessLookupError:
            raise
        except (OSError, ValueError) as error:
            # EFAULT is the caller's own: the kernel will say so.
            if getattr(error, "errno", 0) != errno.EFAULT:
                self.gap(*unheld.gap(rule, thread.process.executable, error))
            return
        if finish:
            self.wait_for(thread, registers, before, finish)

    def wait_for(self, thread: Thread, registers: ptrace.Registers, before: ptrace.Registers, finish: Finish) -> None:
        """Let a call go on, with whatever registers were changed for it, and come back at its end."""
        names = [field[0] for field in ptrace.Registers._fields_]
        lent = {name: getattr(before, name) for name in names if getattr(before, name) != getattr(registers, name)}
        thread.pending = Pending(finish, lent)
        if lent:
            ptrace.setregs(thread.tid, registers)

    def _call_boundary(self, thread: Thread) -> None:
        """A system call's end; or the start of the call by which an interrupted one goes on."""
        if thread.pending:
            self._call_ended(thread, thread.pending)
        if thread.noted and not thread.pending:
            data = self._handover.entered(thread.tid)
            if data is not None:
                self._called(thread, data)

    def _call_ended(self, thread: Thread, pending: Pending) -> None:
        registers = self._registers
        ptrace.getregs(thread.tid, registers)
        if pending.restarting:
            # Entering: restart_syscall goes on where the call was; any other call means that a handler ended it.
            pending.restarting = False
            if registers.orig_rax not in _RESTARTS:
                thread.pending = None
            return
        if pending.give_back(registers):
            ptrace.setregs(thread.tid, registers)
        if registers.rax & 0xFFFFFFFF == _RESTART_BLOCK:
            # The kernel has its own copy of what it goes on with, and a handler that runs now saves the registers.
            pending.restarting, pending.lent = True, {}
            return
        thread.pending = None
        try:
            pending.finish(thread, registers)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            self.out_of_reach(thread, f"saw real file times: {error}")

    def out_of_reach(self, thread: Thread, what: str) -> None:
        """A gap; or ProcessLookupError where the thread was killed meanwhile, and its memory is gone for that."""
        ptrace.getregs(thread.tid, self._registers)
        self.gap("memory out of reach", f"{thread.process.executable} {what}")

    def count(self, thread: Thread, call: str, outcome: str) -> None:
        self.audit.count(lineage.read(thread.process, call, outcome))

    def gap(self, kind: str, detail: str) -> None:
        self.audit.gaps[Gap(kind, detail)] += 1
