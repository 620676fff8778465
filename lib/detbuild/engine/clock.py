# SPDX-License-Identifier: MIT
"""The fixed clock: one rule, the same in every run, that still lets loops end."""

from __future__ import annotations

MICROSECOND = 1_000
SECOND = 1_000_000_000

# A program that read the clock this often is waiting for it to move.
PATIENCE = 1024


class Clock:
    """One thread's wall clock, in nanoseconds since 1970.

    It starts at the epoch and moves by a microsecond a read, so that two reads differ; by the thread's own completed
    sleeps; and to the deadline of a wait that ran out. After 1,024 reads it moves by a second a read, so that a loop
    that waits for a moment ends. Nothing else moves it: no other thread or process, and not the machine's load.
    """

    __slots__ = ("_base", "_reads")

    def __init__(self, start: int, reads: int = 0) -> None:
        self._base, self._reads = start, reads

    def now(self) -> int:
        """The time, not counted as a read."""
        patient = min(self._reads, PATIENCE)
        return self._base + patient * MICROSECOND + (self._reads - patient) * SECOND

    def read(self) -> int:
        """The time, and one read more."""
        now = self.now()
        self._reads += 1
        return now

    def advance(self, nanoseconds: int) -> None:
        """A sleep of the thread's own has ended."""
        self._base += nanoseconds

    def reach(self, moment: int) -> None:
        """A wait until ``moment`` ran out: it is not earlier now."""
        self._base += max(0, moment - self.now())

    def fork(self) -> Clock:
        """The clock of a thread or process that this thread makes: it goes on from here."""
        return Clock(self._base, self._reads)
