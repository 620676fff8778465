# SPDX-License-Identifier: MIT
"""What single programs stop at besides what everybody does: calls of theirs before a program's first instruction."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from detbuild.engine.counter import Counter
from detbuild.engine.filter import Extra, extra
from detbuild.engine.inject import Injection, add_filter, forgo_privileges
from detbuild.engine.tracee import Process
from detbuild.linux import dynamic_linker, ptrace
from detbuild.linux.vdso import Given
from detbuild.linux.x86_64 import Abi, code_abi
from detbuild.policy import Treatment

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer

_NONE: frozenset[Extra] = frozenset()
_FILES, _FILES_AND_CLOCKS = frozenset({Extra.FILES}), frozenset({Extra.FILES, Extra.CLOCKS})
_LINKER, _HEADERS = frozenset({Extra.LINKER}), frozenset({Extra.HEADERS})


class Extras:
    """The further filters of one session's programs. All methods are for the tracer's own thread.

    ``linker`` is where programs have their dynamic linker, whose opens do not stop; None where no opens do, or
    addresses are random.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        fixed = {rule.kind for rule in tracer.rules if rule.treatment is Treatment.FIXED}
        self.linker = dynamic_linker.find() if {"files", "layout"} <= fixed else None
        self._looks = any(rule.kind == "files" and rule.treatment is not Treatment.PASSED for rule in tracer.rules)
        self._filters: dict[frozenset[Extra], bytes] = {}
        self._injections: dict[int, tuple[Injection, frozenset[Extra]]] = {}
        self._registers = ptrace.Registers()
        self.counter = Counter(tracer)

    def injecting(self, tid: int) -> bool:
        """Whether a new program makes a call of ours now, in code of its own."""
        return tid in self._injections or self.counter.injecting(tid)

    def executed(self, tid: int, process: Process, given: Given) -> None:
        """Before a new program's first instruction, with what the kernel told it.

        Raises OSError where its memory is out of reach.
        """
        self.counter.executed(tid, process, given)
        wanted = self._wanted(process, given.base)
        if not wanted <= process.extras:
            self._filter(tid, wanted - process.extras)
        else:
            self.counter.begin(tid)

    def _wanted(self, process: Process, base: int) -> frozenset[Extra]:
        rule, linker = process.rule, self.linker
        wanted = _FILES if rule.reads == "shown" or rule.writes == "now" else _NONE
        if rule.clock == "all":
            wanted = _FILES_AND_CLOCKS
        if self._looks and rule.opens == "all":
            wanted |= _HEADERS
        # Another linker of the same size lies at the same address; what it opens are libraries too.
        return wanted | _LINKER if linker and base != linker.base else wanted

    def _filter(
        self,
        tid: int,
        missing: frozenset[Extra],
        first: Callable[[int, Abi, ptrace.Registers], Injection] | None = None,
    ) -> None:
        ptrace.getregs(tid, self._registers)
        abi = code_abi(self._registers.cs)
        if first:
            injection = first(tid, abi, self._registers)
        else:
            code = self._filters.get(missing) or extra(self._tracer.rules, missing)
            self._filters[missing] = code
            injection = add_filter(tid, abi, self._registers, code)
        self._injections[tid] = injection, missing

    def injected(self, tid: int, process: Process) -> None:
        """At the end of a call of ours; there may be another one to make."""
        if self.counter.injecting(tid):
            self.counter.injected(tid, process)
            return
        injection, missing = self._injections.pop(tid)
        result = injection.undo(tid)
        if injection.call == "prctl" and result == 0:
            self._filter(tid, missing)
        elif injection.call == "seccomp" and result == -errno.EACCES:
            # Root's session in which a program has left root.
            self._filter(tid, missing, forgo_privileges)
        elif result == 0:
            process.extras |= missing
            process.filters += 1
        else:
            what = " and ".join(sorted(each.value for each in missing))
            self._tracer.gap("filter refused", f"{process.executable} sees real {what}: {os.strerror(-result)}")
        if tid not in self._injections:
            self.counter.begin(tid)

    def ended(self, tid: int) -> None:
        """A thread ended."""
        self._injections.pop(tid, None)
        self.counter.ended(tid)
