"""A session by hand: this process is the supervisor, a forked child the opener; no daemon and no filter."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from daemon import Daemon
from detbuild.bpf import layout
from detbuild.bpf.layout import Bell, Op
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.daemon.kernel import Kernel
from detbuild.linux.libc import libc

PLACE = Path("/run/detbuild-tests")
EPOCH = 1_300_000_000
LATER = 1_600_000_000  # no clock of a session is here, and every real one is past it


def ring(op: Op, tid: int, flags: int = 0, a: int = 0, b: int = 0) -> Bell:
    """Ask BPF, as the supervisor of a session does."""
    bell = Bell(status=layout.UNANSWERED)
    words = layout.arguments(op, tid, flags, a, b, ctypes.addressof(bell))
    libc.syscall(ctypes.c_long(layout.DOORBELL), *(ctypes.c_ulong(word) for word in words))
    return bell


class Hand:
    """One session, whose commands start in it; what they execute themselves is not decided by anybody."""

    _next = 1000

    def __init__(self, kernel: Kernel, epoch: int, *, spared: bool = False, flags: int = 0) -> None:
        Hand._next += 1
        self.number, self.epoch = Hand._next, epoch
        self._kernel, self._spared, self._flags = kernel, spared, flags

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: Any) -> None:
        self._kernel.close(self.number)

    def run(self, work: Sequence[str] | Callable[[], Any], keys: tuple[int, int] = (7, 9)) -> str:
        """What a command, or a function in the forked child itself, writes on its output."""
        ready, out = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            self._child(work, ready[0], out[1])
        os.close(out[1])
        try:
            self._kernel.open(self.number, Admission(child, child, os.getpid(), self.epoch, spared=self._spared))
            if not callable(work):
                bell = ring(Op.EXEC, child, self._flags, *keys)
                assert bell.status == 0, bell.status
        finally:
            os.write(ready[1], b"x")
            for fd in ready:
                os.close(fd)
        with os.fdopen(out[0]) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        return text

    def _child(self, work: Sequence[str] | Callable[[], Any], ready: int, out: int) -> None:
        code = 127
        try:
            os.read(ready, 1)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.environ["TZ"] = "UTC0"
            read_clock()  # the proof
            if callable(work):
                print(work(), flush=True)
                code = 0
            else:
                os.execvp(work[0], list(work))
        finally:
            os._exit(code)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64)]


def read_clock(clock: int = 0) -> int:
    """clock_gettime(2) itself, in nanoseconds: no vDSO."""
    time = _Timespec()
    if libc.syscall(ctypes.c_long(228), ctypes.c_long(clock), ctypes.byref(time)):
        raise OSError(ctypes.get_errno(), "clock_gettime")
    return int(time.seconds * 1_000_000_000 + time.nanoseconds)


def in_thread(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@dataclass
class State:
    inputs: Path
    daemon: Daemon

    @cached_property
    def kernel(self) -> Kernel:
        """The daemon's own set of programs, adopted a second time."""
        return Kernel.load(Settings())

    def hand(self, **options: Any) -> Hand:
        return Hand(self.kernel, options.pop("epoch", EPOCH), **options)
