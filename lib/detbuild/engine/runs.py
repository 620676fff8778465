# SPDX-License-Identifier: MIT
"""The runs of one program with one command line under one parent: which of them are a loop that waits for the clock."""

from __future__ import annotations

from detbuild.engine.clock import PATIENCE

# A program that one parent ran this often, one run after the other, with one command line is a loop that waits for the
# clock. Children that never execute share their parent's command line: they get the patience of a read.
RUNS = 16


class Runs:
    """The runs that read the clock. Moments are numbers that grow: of the order in which things happened.

    A run that began before the one before had ended is a parallel job, whose place among the others the scheduler
    decided: it starts the count anew. More than 1,024 in all move the clock even so, because a loop may start its
    programs without waiting for them.
    """

    __slots__ = ("_count", "_ended", "_live", "_streak")

    def __init__(self) -> None:
        self._count = self._live = self._streak = 0
        self._ended = -1

    def begin(self, forked: int, executed: bool) -> int:
        """A process that was forked at that moment reads the clock first: seconds by which its clock is ahead."""
        alone = not self._live and self._ended < forked
        self._count += 1
        self._live += 1
        self._streak = self._streak + 1 if alone else 0
        return max(0, self._count - PATIENCE, self._streak - RUNS if executed else 0)

    def end(self, moment: int) -> None:
        """A process that began has ended, or executed another program."""
        self._live -= 1
        self._ended = moment
