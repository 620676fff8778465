# SPDX-License-Identifier: MIT
"""What the tracer keeps of each process and thread of a session."""

from __future__ import annotations

import errno
import operator
from collections.abc import Callable

from detbuild.audit import Read
from detbuild.engine.clock import Clock
from detbuild.engine.filter import Extra
from detbuild.engine.order import Listings
from detbuild.engine.runs import Runs
from detbuild.engine.stream import Origin, Stream
from detbuild.linux import memory, ptrace
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import ABIS, Abi
from detbuild.program import Program

# Called at a system call's end, with the thread's registers.
Finish = Callable[["Thread", Registers], None]
# Called at its start, with the ABI and the call's name; may change the registers. None: nothing is to do at its end.
Prepare = Callable[["Thread", Abi, str, Registers], "Finish | None"]

# A wall-clock moment in nanoseconds that was waited for, behind the address where it stood: 0 for a thread's own stack.
Deadline = tuple[int, int]

_RED_ZONE = 128  # bytes below the stack pointer that a function may use (System V ABI, x86-64)


class Process:
    """One process, shared by its threads.

    ``executable`` is its program's path; ``rule`` its row in the programs' table. ``extras`` is what it stops at
    besides what everybody does, by so many ``filters``; where it is ``counted``, it also stops where it reads the
    processor's counter, and ``gate`` is where it can make calls then. It was ``clocked`` once it read the clock, and
    only forked until it ``executed`` a program. A ``spared`` process sees the real world: the one that opened the
    session for its children.
    ``deadlines`` maps what its threads waited for to the real moment, in nanoseconds. ``runs`` has those of its
    children by command line, and ``run`` is where its own counts, since it was ``forked``. ``pid`` is 0 once it ended
    or executed another program; ``words``, ``lineage`` and ``reads`` are what the module lineage found out of its
    program. ``origin`` is its execution's, and ``listings`` are the directories that it reads.
    """

    __slots__ = (
        "clocked", "counted", "deadlines", "devices", "executable", "executed", "extras", "filters", "forked",
        "gate", "lineage", "listings", "origin", "parent", "pid", "reads", "rule", "run", "runs", "spared", "words",
    )  # fmt: skip

    def __init__(
        self,
        executable: str,
        rule: Program,
        parent: Process | None = None,
        origin: Origin | None = None,
        listings: Listings | None = None,
        *,
        extras: frozenset[Extra] = frozenset(),
        filters: int = 0,
        devices: bool = False,
        counted: bool = False,
        gate: int = 0,
        spared: bool = False,
        executed: bool = False,
        pid: int = 0,
        forked: int = 0,
    ) -> None:
        self.executable, self.rule, self.parent = executable, rule, parent
        self.extras, self.filters = extras, filters
        self.devices, self.counted, self.spared, self.executed = devices, counted, spared, executed
        self.gate = gate
        self.clocked = False
        self.deadlines: dict[Deadline, int] = {}
        self.forked = forked
        self.runs: dict[tuple[str, ...], Runs] = {}
        self.run: Runs | None = None
        self.pid = pid
        self.words: list[str] | None = None
        self.lineage: tuple[str, str, tuple[str, ...]] | None = None
        self.reads: dict[tuple[str, str], Read] = {}
        self.origin = origin or Origin()
        self.listings = dict(listings or {})

    def take_over(self, former: Process) -> None:
        """Go on from the program that the same process ran before this one."""
        self.extras, self.filters, self.devices = former.extras, former.filters, former.devices
        self.counted, self.forked, self.executed = former.counted, former.forked, True


class Pending:
    """A system call under way whose end the tracer waits for. ``finish`` gets the registers then.

    ``lent`` holds the argument registers that the tracer changed for the call, by name, with the caller's own values.
    """

    def __init__(self, finish: Finish, lent: dict[str, int] | None = None) -> None:
        self.finish, self.lent = finish, lent or {}
        self.restarting = False

    def give_back(self, registers: Registers) -> bool:
        """Put the caller's own values back; whether there were any."""
        for name, value in self.lent.items():
            setattr(registers, name, value)
        return bool(self.lent)


class Thread:
    """One traced thread.

    ``deadlines`` maps what it waited for to the real moment, in nanoseconds. With ``noted`` it was lent to another
    tracer, or comes of one that was: its calls wait for the listener, and no seccomp stop tells of them. ``stream``
    holds its random numbers; None where the policy does not fix them. With ``opens_really`` its next open(2) is the
    kernel's; it ``has_counter`` where it was given the processor's back.
    """

    __slots__ = ("clock", "deadlines", "has_counter", "noted", "opens_really", "pending", "process", "stream", "tid")

    def __init__(
        self, tid: int, process: Process, clock: Clock, stream: Stream | None = None, noted: bool = False
    ) -> None:
        self.tid, self.process, self.clock, self.noted = tid, process, clock, noted
        self.stream = stream
        self.opens_really = self.has_counter = False
        self.pending: Pending | None = None
        self.deadlines: dict[Deadline, int] = {}


_arguments = {abi.name: operator.attrgetter(*abi.arguments) for abi in ABIS}


def values(abi: Abi, registers: Registers) -> list[int]:
    """The six arguments of the system call that a thread makes."""
    arguments = _arguments[abi.name](registers)
    return list(arguments) if abi.word == 8 else [argument & 0xFFFFFFFF for argument in arguments]


def lend(thread: Thread, abi: Abi, registers: Registers, index: int, data: bytes) -> None:
    """Point an argument to a copy of ours, below the caller's stack. Raises OSError, never EFAULT: that is no caller's.

    The page may not be there yet. The kernel grows a stack for its owner, and for PTRACE_POKEDATA.
    """
    place = (registers.rsp - _RED_ZONE - len(data)) & ~15
    try:
        try:
            memory.write(thread.tid, place, data)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            for at in range(0, len(data), 8):
                ptrace.poke(thread.tid, place + at, data[at : at + 8].ljust(8, b"\0"))
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        raise OSError(errno.ENOMEM, f"no room below the stack: {error}") from error
    setattr(registers, abi.arguments[index], place)
