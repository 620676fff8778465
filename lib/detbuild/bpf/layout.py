# SPDX-License-Identifier: MIT
"""What the BPF programs share with user space: constants, and a ctypes mirror of each struct of ``common.h``.

The constants reach the compiler from here (``defines``), so that each stands once.
"""

from __future__ import annotations

import ctypes
import hashlib
from enum import IntEnum, IntFlag
from typing import Any

from detbuild.calls import ALL_CLOCKS, WALL_CLOCKS

# sched_get_priority_max(2): it takes one number, changes nothing, and no sandbox forbids it. With MAGIC for a
# scheduling policy, which none is, it says EINVAL; the five other arguments are ours.
DOORBELL = 146
MAGIC = 0x64657462

# What a bell's status holds before BPF has answered. Where it still does afterwards, BPF is gone.
UNANSWERED = -(1 << 62)

OP_BITS = 8

# A constant of the BPF code in whose place the loader puts the address of the kernel's variable ``bpf_prog_active``.
ACTIVE = 0x6465_7462_6163_7476


class Op(IntEnum):
    """What a supervisor asks for, with doorbell(MAGIC, op | flags << OP_BITS, tid, a, b, bell); see ``arguments``."""

    EXEC = 1  # flags, a=program key, b=command key: what holds if the exec that tid makes now succeeds
    READ = 2  # one read of tid's clock; the audit's count is the supervisor's own. value: ns since 1970
    NOW = 3  # tid's clock, not counted as a read. value: ns since 1970
    ADVANCE = 4  # a=ns: a sleep of tid's has ended
    REACH = 5  # a=ns since 1970: tid's wait until then ran out. value: the clock after it
    INFO = 6  # nothing but what every answer holds: flags, program key, and the thread's random numbers
    STREAM = 7  # a=key, b=origin: those of the program that tid executes now, told after EXEC
    AT_RANDOM = 8  # a and b: the 16 bytes that this program finds at AT_RANDOM, told after EXEC; without, real ones
    BEGIN = 9  # a=key: tid's random numbers from now on
    DREW = 10  # a: how many more reads of them were answered


class Flag(IntFlag):
    """What holds for a process: the first three, RANDOM_REAL, CLOCK_ALL and PID_FIXED by its program's rule.

    SPARED is one that sees the real world, in an OBSERVED session all.
    """

    CLOCK_REAL = 1
    TIMES_TRUE = 2
    WRITES_KEPT = 4
    SPARED = 8
    # BPF's own:
    EXECUTED = 16
    CLOCKED = 32  # it has read its clock once
    EXEMPT = 64  # its runs are not counted: no parent, or one that is spared or lives in the real time
    UNDECIDED = 128  # executed, and no supervisor said which rule holds
    RANDOM_REAL = 256  # for the supervisor, which answers random numbers
    OBSERVED = 512
    CLOCK_ALL = 1024
    PID_FIXED = 2048  # for the supervisor


class Bell(ctypes.Structure):
    """BPF's answer, in the supervisor's own memory.

    ``status``: 0; -ESRCH where the session has no such task; -EINVAL for an op that does not exist. Who is no
    supervisor gets no answer. Where a thread sees the real clock, READ, ADVANCE and REACH do nothing, and say so
    by ``flags``. ``stream`` is the key of the thread's random numbers, of which ``draws`` reads were answered, and
    ``origin`` the number that the supervisor gave to its program's execution, 0 for what the session began with.
    """

    _fields_ = [
        ("status", ctypes.c_int64),
        ("value", ctypes.c_uint64),
        ("program_key", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),  # in the first pid namespace
        ("origin", ctypes.c_uint32),
        ("draws", ctypes.c_uint32),
    ]


def arguments(op: Op, tid: int, flags: int, a: int, b: int, bell: int) -> tuple[int, ...]:  # noqa: PLR0917  # as called
    """The doorbell's six arguments. ``bell`` is the address of a Bell whose page was written to."""
    return MAGIC, op | flags << OP_BITS, tid, a & (1 << 64) - 1, b & (1 << 64) - 1, bell


class Gap(IntEnum):
    """What BPF itself failed to hold: an index of a session's ``gaps``."""

    PROCESSES_FULL = 0
    COUNTS_FULL = 1
    RUNS_FULL = 2
    WRITE_REFUSED = 3
    AUXV = 4
    SLEEP = 5
    UNDECIDED = 6
    DEVICE = 7
    SKIPPED = 8


# As an audit shows them: a kind, and what happened.
GAPS = {
    Gap.PROCESSES_FULL: ("process table full", "processes were made that the session does not hold"),
    Gap.COUNTS_FULL: ("audit incomplete", "reads were made that no row was left for"),
    Gap.RUNS_FULL: ("runs not counted", "a loop of programs that waits for the clock may not end"),
    Gap.WRITE_REFUSED: ("memory out of reach", "results could not be rewritten, and programs saw the real time"),
    Gap.AUXV: ("vDSO in reach", "programs were executed whose auxiliary vector could not be read or written"),
    Gap.SLEEP: ("sleep not counted", "the duration of sleeps could not be read"),
    Gap.UNDECIDED: ("rule not decided", "programs were executed while no supervisor answered; their clock is fixed"),
    Gap.DEVICE: ("left real", "random devices were read in a way or a size that is not rewritten"),
    Gap.SKIPPED: ("programs skipped", "programs ran on a CPU on which bpf(2) was interrupted: no probe runs there"),
}


class Source(IntEnum):
    """What was read; ``SOURCES`` has the names that an audit shows."""

    CLOCK_GETTIME = 1
    GETTIMEOFDAY = 2
    CLOCK_GETTIME64 = 3
    PRIVILEGED = 4


SOURCES = {
    Source.CLOCK_GETTIME: "clock_gettime",
    Source.GETTIMEOFDAY: "gettimeofday",
    Source.CLOCK_GETTIME64: "clock_gettime64",
    Source.PRIVILEGED: "execve of a privileged program, which left the session",
}
OUTCOMES = ("fixed", "leaked", "passed")


class Session(ctypes.Structure):
    """``epoch`` in ns since 1970; ``level`` is that of the supervisor's pid namespace; ``gaps`` are counted by kind.

    ``rows`` are the session's own of the map counts; ``devices`` says whether the bytes of random devices are fixed.
    """

    _fields_ = [
        ("epoch", ctypes.c_uint64),
        ("live", ctypes.c_uint64),
        ("missed", ctypes.c_uint64),
        ("supervisor", ctypes.c_uint32),
        ("level", ctypes.c_uint32),
        ("root", ctypes.c_uint32),
        ("rows", ctypes.c_uint32),
        ("devices", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("gaps", ctypes.c_uint64 * len(Gap)),
    ]


class Thread(ctypes.Structure):
    """One thread's clock, ``base`` in ns since 1970; by its number in the first pid namespace."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("reads", ctypes.c_uint64),
        ("sleep", ctypes.c_uint64),
        ("sleep_ip", ctypes.c_uint64),
        ("next_program", ctypes.c_uint64),
        ("next_command", ctypes.c_uint64),
        ("next_stream", ctypes.c_uint64),
        ("next_random", ctypes.c_uint64 * 2),
        ("stream", ctypes.c_uint64),
        ("next_flags", ctypes.c_uint32),
        ("session", ctypes.c_uint32),
        ("tgid", ctypes.c_uint32),
        ("number", ctypes.c_uint32),
        ("proof", ctypes.c_uint32),
        ("next_origin", ctypes.c_uint32),
        ("born", ctypes.c_uint32),
        ("draws", ctypes.c_uint32),
    ]


class Process(ctypes.Structure):
    """By its number in the first pid namespace; ``forked`` in ns since boot, suspended or not."""

    _fields_ = [
        ("born", ctypes.c_uint64),
        ("parent_born", ctypes.c_uint64),
        ("program", ctypes.c_uint64),
        ("command", ctypes.c_uint64),
        ("forked", ctypes.c_uint64),
        ("parent", ctypes.c_uint32),
        ("session", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("origin", ctypes.c_uint32),
    ]


class Alias(ctypes.Structure):
    _fields_ = [("session", ctypes.c_uint32), ("number", ctypes.c_uint32)]


class Count(ctypes.Structure):
    _fields_ = [
        ("program", ctypes.c_uint64),
        ("session", ctypes.c_uint32),
        ("source", ctypes.c_uint16),
        ("outcome", ctypes.c_uint16),
    ]


class Run(ctypes.Structure):
    _fields_ = [
        ("parent_born", ctypes.c_uint64),
        ("command", ctypes.c_uint64),
        ("parent", ctypes.c_uint32),
        ("executed", ctypes.c_uint32),
    ]


class Runs(ctypes.Structure):
    """As ``engine/runs.py`` has them; ``ended`` in ns since boot."""

    _fields_ = [
        ("count", ctypes.c_uint64),
        ("streak", ctypes.c_uint64),
        ("live", ctypes.c_uint64),
        ("ended", ctypes.c_uint64),
    ]


# Map -> the structs of its key and its value.
MAPS: dict[str, tuple[type[Any], type[Any]]] = {
    "sessions": (ctypes.c_uint32, Session),
    "supervisors": (ctypes.c_uint32, ctypes.c_uint32),
    "closed": (ctypes.c_uint32, ctypes.c_uint32),
    "threads": (ctypes.c_uint32, Thread),
    "processes": (ctypes.c_uint32, Process),
    "aliases": (Alias, ctypes.c_uint32),
    "counts": (Count, ctypes.c_uint64),
    "runs": (Run, Runs),
}


def shape() -> str:
    """Names all that a daemon must know to read and serve a set of programs: those of one shape can be adopted."""
    parts: list[Any] = [(kind, list(kind)) for kind in (Op, Flag, Gap, Source)]
    kinds: set[type[Any]] = {Bell, *(kind for row in MAPS.values() for kind in row)}
    for kind in kinds:
        members = [(name, getattr(kind, name)) for name, *_ in getattr(kind, "_fields_", ())]
        parts.append((kind.__name__, ctypes.sizeof(kind), [(name, at.offset, at.size) for name, at in members]))
    parts.append((DOORBELL, MAGIC, UNANSWERED, OP_BITS, OUTCOMES, [(name, str(row)) for name, row in MAPS.items()]))
    return hashlib.blake2b(repr(sorted(map(str, parts))).encode(), digest_size=4).hexdigest()


def defines(patience: int, runs: int, device_stream: int) -> dict[str, int]:
    """The constants that the programs are compiled with.

    PATIENCE and RUNS are those of the engines' clock rule, DEVICE_STREAM that of their random numbers.
    """
    constants = {f"OP_{op.name}": int(op) for op in Op}
    constants |= {str(flag.name): int(flag) for flag in Flag}
    constants |= {f"GAP_{gap.name}": int(gap) for gap in Gap}
    constants |= {f"SOURCE_{source.name}": int(source) for source in Source}
    constants |= {name.upper(): number for number, name in enumerate(OUTCOMES)}
    return constants | {
        "MAGIC": MAGIC,
        "OP_BITS": OP_BITS,
        "ACTIVE": ACTIVE,
        "OP_MASK": (1 << OP_BITS) - 1,
        "GAP_KINDS": len(Gap),
        "PATIENCE": patience,
        "RUNS": runs,
        "DEVICE_STREAM": device_stream,
        "WALL_CLOCKS": sum(1 << clock for clock in WALL_CLOCKS),
        "ALL_CLOCKS": sum(1 << clock for clock in ALL_CLOCKS),
    }
