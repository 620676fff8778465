# SPDX-License-Identifier: MIT
"""The filter of lent threads, whose calls wait for a listener's word, and the listeners that the tracer keeps."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator, Sequence
from functools import cached_property

from detbuild.engine.errand import Errand
from detbuild.engine.filter import noted
from detbuild.linux import descriptors, proc, seccomp
from detbuild.linux.notify import Listener, Notification
from detbuild.policy import Rule


class Listeners:
    """One listener for each thread that was given the filter; its children share it."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._open: dict[int, Listener] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    @cached_property
    def _filter(self) -> bytes:
        return noted(self._rules)

    @cached_property
    def _signals(self) -> int:
        return descriptors.child_signals()

    @cached_property
    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        return poll

    def install(self, errand: Errand) -> None:
        """Filter a thread. There is no way back, so what may be refused is tried first. Raises OSError."""
        pid = proc.number(errand.tid, "Tgid")
        probe = errand.call("eventfd2", 0, os.O_CLOEXEC)
        try:
            os.close(descriptors.take_descriptor(pid, probe))
        finally:
            errand.call("close", probe)
        self._poll  # noqa: B018  its signals must be heard of before the first listener
        theirs = errand.add_filter(self._filter, seccomp.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        ours = descriptors.take_descriptor(pid, theirs)
        errand.call("close", theirs)
        self._open[ours] = Listener(ours)
        self._poll.register(ours, select.POLLIN)

    def wait(self) -> Iterator[tuple[Listener, Notification]]:
        """Until a note came, each with its listener, or SIGCHLD, or the last program of a listener has ended."""
        for descriptor, event in self._poll.poll():
            if descriptor == self._signals:
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
            elif event & select.POLLIN:
                with contextlib.suppress(InterruptedError):
                    note = self._open[descriptor].receive()
                    if note:
                        yield self._open[descriptor], note
            else:
                self._poll.unregister(descriptor)
                self._open.pop(descriptor).close()
