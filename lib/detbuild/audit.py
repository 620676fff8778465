# SPDX-License-Identifier: MIT
"""A session's record: which program read which source of the outside world, how often, fixed, leaked or passed."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from detbuild.errors import DetbuildError

FORMAT = "detbuild-audit"
VERSION = 2

FIXED = "fixed"
LEAKED = "leaked"
PASSED = "passed"  # real by the program's rule

# A build runs thousands of processes, each with arguments of its own. The first rows of a record are whole; with
# more of them, further rows are told apart by their programs and parents alone, and then by their programs alone.
WHOLE_ROWS = 1000
ROWS_WITH_PARENTS = 2000

# The name of the process that opened a session for its children: BitBake's own, which runs a task. It sees the real
# world, and so may what a task's Python makes in it.
TASK = "the task"

# Sources that are neither a call nor a file. glibc takes the first: a key by which free(3) knows what is free already.
HEAP_KEY = "heap key"
COUNTER = "rdtsc"  # an instruction
BUILD_PATH = "build path"  # in a program's arguments, where it gets into what is made


class Read(NamedTuple):
    """One kind of read. ``program`` is a path, ``source`` a call or file, ``outcome`` fixed, leaked or passed.

    ``name`` is what the program is known by: of an interpreter its script's name. ``arguments`` stand as in a shell,
    cut short where they are long; ``parents`` are the names of the programs that started it, the nearest first, up to
    the task. All three are empty where they are not known.
    """

    program: str
    source: str
    outcome: str
    name: str = ""
    arguments: str = ""
    parents: tuple[str, ...] = ()

    @property
    def chain(self) -> str:
        """The program and those that started it, by name: ``mkversion.sh <- make``."""
        return " <- ".join((self.name or posixpath.basename(self.program), *self.parents))

    @property
    def reader(self) -> str:
        """The same with the program's path, unless that stands for a script: ``/usr/bin/date <- make``."""
        own = self.program
        if self.name and self.name != posixpath.basename(own):
            own = f"{self.name} ({own})"
        return " <- ".join((own, *self.parents))


class Gap(NamedTuple):
    """Something that the engine could not hold: ``kind`` is a short name, ``detail`` says who and why."""

    kind: str
    detail: str


class Audit:
    """What one session did; ``+`` merges the records of several.

    ``reads`` and ``gaps`` count. ``survivors`` are programs that still ran when the session was closed; they
    stay in it, but what they read later is not in this record. ``merged`` counts the reads whose "arguments", or whose
    name and "parents" too, were left out because the record has enough rows. ``observed`` is of a task that has a
    session only to be observed, whatever the policy of the others.
    """

    def __init__(
        self,
        engine: str = "",
        epoch: int | None = None,
        policy: str = "",
        *,
        reads: Mapping[Read, int] | None = None,
        gaps: Mapping[Gap, int] | None = None,
        survivors: Iterable[str] = (),
        merged: Mapping[str, int] | None = None,
        observed: bool = False,
    ) -> None:
        self.engine, self.epoch, self.policy = engine, epoch, policy
        self.reads: Counter[Read] = Counter(reads)
        self.gaps: Counter[Gap] = Counter(gaps)
        self.survivors = list(survivors)
        self.merged: Counter[str] = Counter(merged)
        self.observed = observed

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Audit) and vars(self) == vars(other)

    @property
    def degraded(self) -> bool:
        """Whether a program may have seen what the policy fixes."""
        return bool(self.gaps)

    @property
    def leaks(self) -> Counter[Read]:
        return Counter({read: count for read, count in self.reads.items() if read.outcome == LEAKED})

    def count(self, read: Read, times: int = 1) -> None:
        """Take in reads, with as much of their origin as the number of rows allows."""
        if len(self.reads) >= WHOLE_ROWS and read not in self.reads:
            read = self._shortened(read, times)
        self.reads[read] += times

    def _shortened(self, read: Read, times: int) -> Read:
        if read.arguments:
            self.merged["arguments"] += times
            read = read._replace(arguments="")
        if read.parents and len(self.reads) >= ROWS_WITH_PARENTS and read not in self.reads:
            self.merged["parents"] += times
            read = Read(*read[:3])
        return read

    def __add__(self, other: Audit) -> Audit:
        both = Audit(
            self.engine or other.engine,
            other.epoch if self.epoch is None else self.epoch,
            self.policy or other.policy,
            reads=self.reads,
            gaps=self.gaps + other.gaps,
            survivors=self.survivors + other.survivors,
            merged=self.merged + other.merged,
            observed=self.observed or other.observed,
        )
        for read, count in sorted(other.reads.items()):
            both.count(read, count)
        return both

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, sorted, with the format's name and version."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "engine": self.engine,
            "epoch": self.epoch,
            "policy": self.policy,
            "observed": self.observed,
            "degraded": self.degraded,
            "reads": [
                {**read._asdict(), "parents": list(read.parents), "count": count}
                for read, count in sorted(self.reads.items())
            ],
            "gaps": [{**gap._asdict(), "count": count} for gap, count in sorted(self.gaps.items())],
            "survivors": sorted(self.survivors),
            "merged": {kind: self.merged[kind] for kind in ("arguments", "parents")},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Audit:
        """The inverse of ``to_dict``. Raises DetbuildError for another format or version."""
        if data.get("format") != FORMAT or data.get("version") != VERSION:
            raise DetbuildError(
                f"this is not an audit of version {VERSION}: format {data.get('format')!r}, "
                f"version {data.get('version')!r}",
                remedy="run the task again, or read it with the release of detbuild that wrote it",
            )
        try:
            return cls(
                str(data["engine"]),
                None if data["epoch"] is None else int(data["epoch"]),
                str(data["policy"]),
                reads={_read(row): int(row["count"]) for row in data["reads"]},
                gaps={Gap(*_texts(row, Gap._fields)): int(row["count"]) for row in data["gaps"]},
                survivors=[str(program) for program in data["survivors"]],
                merged={str(kind): int(count) for kind, count in data["merged"].items() if count},
                observed=bool(data.get("observed")),
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DetbuildError(f"this audit is damaged: {error!r}", remedy="make it again") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """Raises DetbuildError for what is no audit."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DetbuildError(f"this is not an audit: {error}") from error
        if not isinstance(data, dict):
            raise DetbuildError("this is not an audit: not a JSON object")
        return cls.from_dict(data)

    def to_text(self) -> str:
        """For a terminal: gaps first, then leaks, then what was fixed; most frequent first, without arguments."""
        lines = [f"gap: {gap.kind}: {gap.detail} ({count} times)" for gap, count in self.gaps.most_common()]
        rows: Counter[Read] = Counter()
        keys = 0
        for read, count in sorted(self.reads.items()):
            if read.source == HEAP_KEY:
                keys += count
            else:
                rows[read._replace(arguments="")] += count
        for outcome in (LEAKED, FIXED, PASSED):
            lines += [
                f"{outcome}: {read.reader} read {read.source} ({count} times)"
                for read, count in rows.most_common()
                if read.outcome == outcome
            ]
        lines += [f"leaked: malloc's key of {keys} programs, of which nothing is made"] if keys else []
        lines += [f"still running: {program}" for program in sorted(self.survivors)]
        lines += [f"note: {sentence}" for sentence in self.notes()]
        return "".join(f"{line}\n" for line in lines) or "no read of the outside world\n"

    def outlived(self) -> list[str]:
        """What still ran when the session was closed, in sentences without a full stop."""
        return [
            f"{program} still ran at the session's end, and what it read later is not on record"
            for program in sorted(set(self.survivors))
        ]

    def notes(self) -> list[str]:
        """What the record leaves out, in sentences without a full stop."""
        said = {"arguments": "arguments", "parents": "parents and scripts"}
        return [
            f"the {said[kind]} of {self.merged[kind]} reads are not on record: there were too many different ones"
            for kind in said
            if self.merged[kind]
        ]


def _read(row: dict[str, Any]) -> Read:
    program, source, outcome, name, arguments = _texts(row, Read._fields[:5])
    if not isinstance(row["parents"], list):
        raise TypeError(f"parents are a list, not {row['parents']!r}")
    return Read(program, source, outcome, name, arguments, tuple(map(str, row["parents"])))


def _texts(row: dict[str, Any], fields: tuple[str, ...]) -> list[str]:
    return [str(row[name]) for name in fields]
