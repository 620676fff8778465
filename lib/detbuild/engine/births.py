# SPDX-License-Identifier: MIT
"""Children of a session's threads, from their maker's fork to their own first stop: the two come in either order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from detbuild.engine.tracee import Finish, Process, Thread
from detbuild.linux import proc, ptrace
from detbuild.linux.x86_64 import Abi

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer

_CLONE_UNTRACED = 0x00800000
FORKS = (ptrace.EVENT_FORK, ptrace.EVENT_VFORK)


class Births:
    """The children whose story is told by half. All methods are for the tracer's own thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # Children that stopped before their maker's event said whose they are; each with its maker's process, which is
        # 0 until somebody asked /proc for it.
        self._early: dict[int, int] = {}
        self._announced: dict[int, Thread] = {}  # children whose first stop is still to come

    @property
    def tids(self) -> list[int]:
        """Children that are not among the tracer's threads yet."""
        return [*self._announced, *self._early]

    def forked(self, parent: Thread, child: int, event: int) -> None:
        """At the event of the maker, of which it is the thread that calls."""
        process = parent.process
        if event != ptrace.EVENT_CLONE or proc.number(child, "Tgid") != proc.number(parent.tid, "Tgid"):
            process = Process(
                process.executable, process.rule, process, process.origin, process.listings,
                extras=process.extras, filters=process.filters, devices=process.devices, counted=process.counted,
                gate=process.gate, pid=child, forked=self._tracer.moment(),
            )  # fmt: skip
        stream = parent.stream.child() if parent.stream else None
        thread = Thread(child, process, parent.clock.fork(), stream, parent.noted)
        if child in self._early:
            del self._early[child]
            self._tracer.threads[child] = thread
            with contextlib.suppress(ProcessLookupError):  # killed; its maker is to go on
                self._tracer.resume(child)
        else:
            self._announced[child] = thread

    def stopped(self, tid: int) -> bool:
        """A child's first stop; False where its parent's event is still to come, and the child waits for that."""
        thread = self._announced.pop(tid, None)
        if thread is None:
            self._early[tid] = 0
            return False
        self._tracer.threads[tid] = thread
        return True

    def ended(self, tid: int) -> None:
        """A child ended, or its id did."""
        self._announced.pop(tid, None)
        self._early.pop(tid, None)

    def adopt_orphans(self, executed: int = 0) -> None:
        """Children whose maker was killed, or taken away by an exec, before its event could say whose they are."""
        for child in list(self._early):
            maker = self._early[child] = self._early[child] or _maker(child)
            if maker in self._tracer.threads and maker != executed:
                continue
            del self._early[child]
            self._tracer.threads[child] = self._tracer.stranger(child)
            with contextlib.suppress(ProcessLookupError):
                self._tracer.resume(child)


def trace(_thread: Thread, abi: Abi, _call: str, registers: ptrace.Registers) -> Finish:
    """CLONE_UNTRACED would take the child out of the session: the kernel gets the call without it."""
    setattr(registers, abi.arguments[0], getattr(registers, abi.arguments[0]) & ~_CLONE_UNTRACED)
    return lambda _thread, _registers: None


def _maker(child: int) -> int:
    """The process that made a thread, or a process whose maker lives; 0 where the child is gone."""
    process = proc.number(child, "Tgid")
    return process if process != child else proc.number(child, "PPid")
