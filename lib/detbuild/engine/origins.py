# SPDX-License-Identifier: MIT
"""What random and process numbers of a supervisor's session are made of.

BPF keeps each thread's key and count, and here is what they stand for. BPF sees every fork, and makes the children's
keys as ``Stream.child`` does. What a program executed, and how often, is known here, where every execution is asked
for; BPF keeps the number of a process's own one.
"""

from __future__ import annotations

import contextlib
import struct

from detbuild.bpf.layout import Bell, Op
from detbuild.engine.base import Terms
from detbuild.engine.bell import Doorbell
from detbuild.engine.execution import Execution
from detbuild.engine.stream import Origin, Stream
from detbuild.engine.world import AT_RANDOM_SIZE
from detbuild.linux import proc
from detbuild.program import Program


class Origins:
    """Every execution of one session, by number. Methods raise what ``Doorbell.ring`` raises."""

    def __init__(self, terms: Terms, bell: Doorbell, *, fixes_random: bool) -> None:
        self._terms, self._bell, self._fixes_random = terms, bell, fixes_random
        self._origins = [Origin()]  # never forgotten: what runs on may start the same command line again

    def begin(self, pid: int) -> None:
        """Give streams to the threads of the process that opens the session."""
        key = self._begin(self._origins[0], proc.raw_command_line(pid)).key
        for tid in proc.threads(pid):
            with contextlib.suppress(ProcessLookupError):
                self._bell.ring(Op.BEGIN, tid, a=int.from_bytes(key, "little"))

    def executing(self, tid: int, former: int, found: Execution, row: Program) -> None:
        """A thread of the execution ``former`` is about to become another program."""
        line = b"".join(word + b"\0" for word in found.arguments)
        origin = self._origins[former].execution(line)
        stream = self._begin(origin, line)
        self._bell.ring(Op.STREAM, tid, a=int.from_bytes(stream.key, "little"), b=len(self._origins))
        self._origins.append(origin)
        if self._fixes_random and row.random == "fixed":
            first, second = struct.unpack("=QQ", stream.child().take(AT_RANDOM_SIZE))
            self._bell.ring(Op.AT_RANDOM, tid, a=first, b=second)

    def of(self, number: int) -> Origin:
        """That which BPF knows by a number."""
        return self._origins[number]

    def _begin(self, origin: Origin, line: bytes) -> Stream:
        return origin.stream(self._terms.epoch, self._terms.seed, line)


def stream(known: Bell) -> Stream:
    """A thread's own, from an answer about it."""
    return Stream(known.stream.to_bytes(8, "little"), known.draws)
