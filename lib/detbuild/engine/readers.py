# SPDX-License-Identifier: MIT
"""Whom BPF counts reads for: the key that it knows a program by stands for its arguments, and those that started it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from detbuild.audit import TASK, Audit, Gap, Read
from detbuild.bpf import layout
from detbuild.bpf.layout import Flag
from detbuild.engine import lineage
from detbuild.linux import proc

# Most programs of a build read nothing, but which will is not known when they are executed. These are more than the
# rows of a record, and few enough for BPF's rows of one session (daemon/loader.py), where each reads two sources.
WHOLE = 4000
WITH_PARENTS = 6000
MOST = 30_000


class Reader(NamedTuple):
    """As ``audit.Read``. ``lacks`` are the kinds of ``Audit.merged`` that are left out of it."""

    program: str
    name: str = ""
    arguments: str = ""
    parents: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


_NOBODY = 1  # the key of those for which no room is left


class Readers:
    """One session's, each by its key: 0 is the process that opened it.

    The first ones are whole; with more of them, further ones are told apart without arguments, and then by their
    programs alone, as rows are in ``Audit.count``.
    """

    def __init__(self, opener: int, *, spared: bool) -> None:
        """``opener`` is that process; ``spared`` where it is a task, which opened the session for its children."""
        self._opener, self._spared = opener, spared
        program, line = proc.program(opener), proc.command_line(opener)
        first = Reader(program, TASK if spared else lineage.name(program, line), lineage.arguments(line))
        self._readers = [first, Reader("?", "?", lacks=("arguments", "parents"))]
        self._keys: dict[Reader, int] = {}

    def executing(self, tid: int, former: int, flags: int, executable: str, line: Sequence[str]) -> int:
        """The key of what a thread executes.

        ``former`` is the key of its process, and ``flags`` are the process's: a child has its parent's key.
        """
        return self._key(
            Reader(
                executable,
                lineage.name(executable, line),
                lineage.arguments(line),
                self._parents(tid, former, flags),
            )
        )

    def unknown(self, tid: int, former: int, flags: int, description: str) -> int:
        """The key of what a thread executes, where nobody can tell what that is."""
        return self._key(Reader(description, "?", "", self._parents(tid, former, flags)))

    def program(self, key: int) -> str:
        """Its path."""
        return self._reader(key).program

    def count(self, audit: Audit, key: int, source: str, outcome: str, times: int = 1) -> None:
        """Take reads into a record."""
        reader = self._reader(key)
        for kind in reader.lacks:
            audit.merged[kind] += times
        if key == _NOBODY:
            audit.gaps[Gap(*layout.GAPS[layout.Gap.COUNTS_FULL])] += times
        audit.count(Read(reader.program, source, outcome, *reader[1:4]), times)

    def _reader(self, key: int) -> Reader:
        return self._readers[key if key < len(self._readers) else _NOBODY]

    def _parents(self, tid: int, former: int, flags: int) -> tuple[str, ...]:
        parent = self._reader(former)
        if flags & Flag.EXECUTED:
            return parent.parents  # it takes the place of another program in the same process
        if former == 0 and (self._spared or proc.number(tid, "Tgid") == self._opener):
            return ()
        return lineage.parents((parent.name or lineage.name(parent.program, ()), *parent.parents))

    def _key(self, reader: Reader) -> int:
        key = self._keys.get(reader)
        if key is None:
            reader = self._shortened(reader)
            key = self._keys.get(reader)
        if key is None:
            if len(self._readers) >= MOST:
                return _NOBODY
            key = self._keys[reader] = len(self._readers)
            self._readers.append(reader)
        return key

    def _shortened(self, reader: Reader) -> Reader:
        if len(self._readers) >= WHOLE and reader.arguments:
            reader = reader._replace(arguments="", lacks=("arguments",))
        if len(self._readers) >= WITH_PARENTS and reader not in self._keys:
            reader = Reader(reader.program, lacks=(*reader.lacks, "parents"))
        return reader
