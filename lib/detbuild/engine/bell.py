# SPDX-License-Identifier: MIT
"""The doorbell: how a supervisor asks BPF for a thread's clock, and tells it which rule holds for a program."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Sequence
from typing import Protocol

from detbuild.bpf import layout
from detbuild.bpf.layout import Flag, Op
from detbuild.engine.clock import Clock
from detbuild.linux.libc import libc
from detbuild.program import Program

_syscall = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *[ctypes.c_ulong] * 6)(("syscall", libc))


# BPF cannot wait for a page that the kernel moves at this very moment. A read that is asked for twice costs the clock
# a microsecond; an answer that is missed would cost the session its good name.
_TRIES = 3


class Silent(Exception):
    """Nobody answered: the BPF programs are gone, or take this process for no supervisor."""


class Doorbell(Protocol):
    def ring(self, op: Op, tid: int, flags: int = 0, a: int = 0, b: int = 0) -> layout.Bell:
        """BPF's answer for one thread, until the next ring; ``tid`` as notifications name it.

        Raises ProcessLookupError where the session has no such thread, Silent, or OSError for what is no question.
        """


class Bell:
    """The real one, for the process that the daemon knows as a session's supervisor."""

    def __init__(self) -> None:
        self._answer = layout.Bell(status=layout.UNANSWERED)  # written to, so that BPF finds its page
        self._address = ctypes.addressof(self._answer)

    def ring(self, op: Op, tid: int, flags: int = 0, a: int = 0, b: int = 0) -> layout.Bell:
        answer = self._answer
        for _ in range(_TRIES):
            answer.status = layout.UNANSWERED
            _syscall(layout.DOORBELL, *layout.arguments(op, tid, flags, a, b, self._address))
            status = answer.status
            if status == 0:
                return answer
            if status != layout.UNANSWERED:
                raise OSError(-status, f"bell {op.name}: {os.strerror(-status)}")
        raise Silent("the BPF programs do not answer their supervisor")


class BellClock(Clock):
    """The clock of one thread of the session, which BPF keeps; elsewhere the same as a Clock of our own.

    Each method raises what ``Doorbell.ring`` raises, but a thread that is gone has no clock to move: that is no error.
    """

    __slots__ = ("_bell", "_tid")

    def __init__(self, bell: Doorbell, tid: int) -> None:
        super().__init__(0)
        self._bell, self._tid = bell, tid

    def now(self) -> int:
        return int(self._bell.ring(Op.NOW, self._tid).value)

    def read(self) -> int:
        return int(self._bell.ring(Op.READ, self._tid).value)

    def advance(self, nanoseconds: int) -> None:
        self._move(Op.ADVANCE, nanoseconds)

    def reach(self, moment: int) -> None:
        self._move(Op.REACH, moment)

    def fork(self) -> Clock:
        raise NotImplementedError("BPF follows the forks")

    def _move(self, op: Op, nanoseconds: int) -> None:
        try:
            self._bell.ring(op, self._tid, a=nanoseconds)
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def flags(program: Program) -> Flag:
    """A program's rule as BPF keeps it."""
    held = Flag(0)
    if program.clock == "real":
        held |= Flag.CLOCK_REAL
    if program.clock == "all":
        held |= Flag.CLOCK_ALL
    if program.reads == "true":
        held |= Flag.TIMES_TRUE
    if program.writes == "kept":
        held |= Flag.WRITES_KEPT
    if program.random == "real":
        held |= Flag.RANDOM_REAL
    if program.pid == "fixed":
        held |= Flag.PID_FIXED
    return held


def command_key(executable: str, arguments: Sequence[bytes]) -> int:
    """By what BPF knows that a parent runs the same command line again: 64 bits, never 0.

    ``arguments`` are all of argv.
    """
    data = b"\0".join((os.fsencode(executable), *arguments))
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1
