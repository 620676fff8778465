# SPDX-License-Identifier: MIT
"""/dev/random and /dev/urandom: the program gets the real device, and each of its reads is answered from its stream.

A file or a pipe in its place would end, give short reads, or give to one process what another one has not taken yet.
So a program that opens a device gets one more filter, by which its reads stop from then on, and those of its children:
the descriptor may be inherited, duplicated and renamed. Other programs have no such stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detbuild.engine.errand import Errand
from detbuild.engine.filter import devices
from detbuild.engine.outside import holds_device
from detbuild.engine.stream import read_device
from detbuild.engine.tracee import Thread, values
from detbuild.linux import ptrace, seccomp
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import Abi
from detbuild.policy import Rule
from detbuild.program import Program

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer


class Devices:
    """The random devices of one session. All methods are for the tracer's own thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._filter = devices(tracer.rules)
        self._registers = Registers()

    def opened(self, thread: Thread) -> bool:
        """At the end of a call that opened a device: whether its reads will be answered."""
        if thread.process.devices:
            return True
        if thread.noted or not thread.stream:
            return False  # its calls are judged one by one, without this filter
        try:
            with Errand(thread.tid, self._tracer.postpone) as errand:
                # Every thread of the process, unless one has filters of its own: then the call returns its id.
                if errand.add_filter(self._filter, seccomp.SECCOMP_FILTER_FLAG_TSYNC):
                    return False
        except ProcessLookupError:
            raise
        except OSError:
            return False
        thread.process.devices = True
        return True

    def called(self, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
        """At the start of a read."""
        stream = thread.stream
        if not stream or thread.process.spared or program.random == "real":
            return
        ptrace.getregs(thread.tid, self._registers)
        source = values(abi, self._registers)[1 if rule.call.startswith("sendfile") else 0] & 0xFFFFFFFF
        if holds_device(thread.tid, source):
            self._tracer.answer(thread, abi, rule, lambda given: read_device(thread.tid, abi, rule.call, given, stream))
