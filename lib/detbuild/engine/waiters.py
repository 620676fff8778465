# SPDX-License-Identifier: MIT
"""What a supervisor remembers of threads from one call to the next: what they wait for, and directories they read."""

from __future__ import annotations

import errno
from typing import TypeVar

from detbuild import programs
from detbuild.engine.bell import BellClock, Doorbell
from detbuild.engine.tracee import Process, Thread
from detbuild.linux import proc

_REMEMBERED = 1024

_Kept = TypeVar("_Kept")


class Waiters:
    """Threads and their processes by number and start time: a number alone may have become somebody else's."""

    def __init__(self, bell: Doorbell) -> None:
        self._bell = bell
        self._threads: dict[int, tuple[int, Thread]] = {}
        self._processes: dict[int, tuple[int, Process]] = {}

    def thread(self, tid: int) -> Thread:
        """Raises ProcessLookupError for a thread that is gone."""
        started = _started(tid)
        known = self._threads.get(tid)
        if known and known[0] == started:
            return known[1]
        thread = Thread(tid, self._process(_process_of(tid)), BellClock(self._bell, tid))
        _keep(self._threads, tid, (started, thread))
        return thread

    def forget(self, tid: int) -> None:
        """A thread is about to execute: its process begins anew, and no other thread of it is left."""
        if not self._processes:
            return
        _, process = self._processes.pop(_process_of(tid), (0, None))
        for number in [number for number, (_, thread) in self._threads.items() if thread.process is process]:
            del self._threads[number]

    def _process(self, pid: int) -> Process:
        started = _started(pid)
        known = self._processes.get(pid)
        if known and known[0] == started:
            return known[1]
        # A child reads on in the directories that it shares with its parent, whatever it has executed.
        _, parent = self._processes.get(proc.number(pid, "PPid"), (0, None))
        process = Process("", programs.DEFAULT, listings=parent.listings if parent else None)
        _keep(self._processes, pid, (started, process))
        return process


def _started(pid: int) -> int:
    try:
        return proc.start_time(pid)
    except OSError as error:
        raise ProcessLookupError(errno.ESRCH, f"{pid} is gone") from error


def _process_of(tid: int) -> int:
    try:
        return int(proc.status(tid, "Tgid") or 0)
    except OSError as error:
        raise ProcessLookupError(errno.ESRCH, f"{tid} is gone") from error


def _keep(memory: dict[int, _Kept], key: int, value: _Kept) -> None:
    if len(memory) >= _REMEMBERED:
        del memory[next(iter(memory))]
    memory[key] = value
