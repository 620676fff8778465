# SPDX-License-Identifier: MIT
"""Clock reads in system calls: answered in the kernel's place, from the reading thread's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detbuild import policy
from detbuild.audit import FIXED, PASSED
from detbuild.engine import lineage
from detbuild.engine.answers import ANSWERS
from detbuild.engine.clock import SECOND, Clock
from detbuild.engine.runs import Runs
from detbuild.engine.tracee import Process, Thread
from detbuild.linux.x86_64 import Abi
from detbuild.policy import Rule
from detbuild.program import Program

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer


def called(tracer: Tracer, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
    """At the start of a read."""
    if program.clock == "real":
        tracer.count(thread, rule.call, PASSED)
        return
    _first(thread)
    if tell(tracer, thread, abi, rule, thread.clock):
        tracer.count(thread, rule.call, FIXED)


def tell(tracer: Tracer, thread: Thread, abi: Abi, rule: Rule, clock: Clock) -> bool:
    """Answer from ``clock``; False where it was left to the kernel."""
    clocks = policy.ALL_CLOCKS if thread.process.rule.clock == "all" else rule.clocks

    def read(given: list[int]) -> int | None:
        if clocks and given[0] & 0xFFFFFFFF not in clocks:
            return None  # its parent's rule fixes it, and the filter is the parent's
        return ANSWERS[rule.call](thread.tid, abi, given, clock.read())

    return tracer.answer(thread, abi, rule, read)


def _first(thread: Thread) -> None:
    """Let the clock of a program that is run again and again by one loop move by a second a run.

    Programs that live in the real time, as make does, run the same command line for other reasons, and in an order
    that parallel jobs decide.
    """
    process = thread.process
    parent = process.parent
    if process.clocked or not parent or parent.spared or parent.rule.clock == "real":
        return
    process.clocked = True
    key = (str(process.executed), process.executable, *lineage.words(process))
    process.run = parent.runs.setdefault(key, Runs())
    thread.clock.advance(process.run.begin(process.forked, process.executed) * SECOND)


def left(tracer: Tracer, process: Process) -> None:
    """It has ended, or executed another program."""
    process.pid = 0
    if process.run:
        process.run.end(tracer.moment())
