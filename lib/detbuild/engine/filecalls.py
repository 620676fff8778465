# SPDX-License-Identifier: MIT
"""File times in system calls: a call that shows them, and one that writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detbuild.engine import filetimes
from detbuild.engine.tracee import Pending, Thread
from detbuild.linux.x86_64 import Abi
from detbuild.policy import Rule
from detbuild.program import Program

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer


def called(tracer: Tracer, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
    """At the start of a call."""
    epoch = tracer.terms.epoch
    if rule.kind == "file times":
        if program.reads == "shown":
            thread.pending = Pending(filetimes.show(abi, rule.call, epoch))
    elif program.writes == "now":
        tracer.prepare(
            thread, abi, rule, lambda thread, abi, call, regs: filetimes.keep(thread, abi, call, regs, epoch)
        )
