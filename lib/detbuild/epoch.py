# SPDX-License-Identifier: MIT
"""The epoch: the one moment, in whole seconds since 1970, at which a recipe's build is said to happen.

``resolve()`` asks the sources of ORDER one after the other and takes the first that gives a moment. A moment
that nobody can believe (later than now, or before 1980, where zip and FAT begin) is left out and named in a
warning; an epoch file that states one stops the build, because somebody wrote it on purpose.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from detbuild import file_times, git_history
from detbuild.errors import EpochError
from detbuild.paths import Walk, few, printable

VERSION = 1
"""Enters do_unpack's signature: raise it with every change by which a source tree can get another epoch."""
ORDER = ("file", "git", "known", "youngest", "fallback")
FILE_NAMES = ("__source-date-epoch.txt", "__source_date_epoch.txt")
"""The epoch file's name, and OE-Core's spelling of it."""
FALLBACK = 1302044400
"""SOURCE_DATE_EPOCH_FALLBACK of OE-Core's bitbake.conf, 2011-04-05, in seconds."""
DAY = 86400
LONGEST = 4096
"""Bytes of an epoch file that are read: far more than a moment and its white space take."""


@dataclass(frozen=True)
class Epoch:
    """``value`` in seconds; ``origin`` is one of ORDER; ``evidence`` is a file's path, or "REPOSITORY commit SHA"."""

    value: int
    origin: str
    evidence: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """Where to look. What does not exist is passed over, so a caller may name places that need not be there."""

    top: str
    """The source's top directory (S): epoch file and ``known`` files are looked for here."""
    unpackdir: str = ""
    """The directory that one unpack filled; may equal ``top`` or hold it. Empty where nothing was unpacked."""
    roots: tuple[str, ...] = ()
    """Further trees of the recipe itself, such as a checkout outside ``unpackdir``."""
    files: tuple[str, ...] = ()
    """Candidate epoch files, best first, before those at ``top``."""
    written: frozenset[str] = frozenset()
    """Files and directories whose times say when they were unpacked, not when they were made."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """Git directories without a checkout of their own, and the revision that the recipe uses of each."""
    since: float | None = None
    """When the unpack began, in seconds: what is not older was made by the unpack itself."""
    last: tuple[str, int] | None = None
    """The recipe's last epoch and the file it was read from; used for a devtool tree without an upstream commit."""
    fallback: int = FALLBACK

    def trees(self) -> list[str]:
        """The trees to search, none of them inside another."""
        named = [tree for tree in (self.unpackdir, self.top, *self.roots) if tree and os.path.isdir(tree)]
        real = {os.path.realpath(tree): tree for tree in reversed(named)}
        return [real[path] for path in real if not any(path.startswith(f"{other}/") for other in real)]


def resolve(sources: Sources, order: Sequence[str] = ORDER, now: float | None = None) -> Epoch:
    """The epoch of these sources.

    ``order`` names the sources of ORDER to ask; ``now`` is the moment, in seconds, after which no time is
    believed (default: the clock). Raises EpochError where an epoch file states no time, where ``order`` names
    something unknown, and where no source gives a time.
    """
    search = _Search(sources, time.time() if now is None else now)
    finders: dict[str, Callable[[], Epoch | None]] = {
        "file": search.file,
        "git": search.git,
        "known": search.known,
        "youngest": search.youngest,
        "fallback": search.fallback,
    }
    for origin in check_order(order):
        found = finders[origin]()
        if found:
            return Epoch(found.value, found.origin, printable(found.evidence), tuple(dict.fromkeys(search.warnings)))
    raise EpochError(
        f"no epoch for {printable(sources.top)}",
        cause=f"none of the sources {', '.join(order)} gave a time",
        remedy=f"put the seconds since 1970 into {FILE_NAMES[0]}, or add fallback to the sources",
    )


def check_order(order: Sequence[str]) -> Sequence[str]:
    """``order`` itself; EpochError where it is empty or names an unknown source."""
    unknown = [origin for origin in order if origin not in ORDER]
    if unknown or not order:
        raise EpochError(
            f"unknown source of the epoch: {', '.join(unknown)}" if unknown else "no source of the epoch is named",
            remedy=f"name some of {', '.join(ORDER)}, in the order in which to ask them",
        )
    return order


class _Search:
    """One resolve(): what was learnt on the way is kept for the sources that are asked later."""

    def __init__(self, sources: Sources, now: float) -> None:
        self.sources, self.now = sources, now
        self.warnings: list[str] = []
        self.extracted: int | None = None

    def file(self) -> Epoch | None:
        top = self.sources.top
        candidates = [*self.sources.files, *(os.path.join(top, name) for name in FILE_NAMES)]
        present = [path for path in dict.fromkeys(candidates) if os.path.lexists(path)]
        if not present:
            return None
        value = read(present[0], self.now)
        for other in present[1:]:
            if read(other, self.now) != value:
                self.warnings.append(f"{printable(other)} was left out: {printable(present[0])} states another epoch")
        return Epoch(value, "file", present[0])

    def git(self) -> Epoch | None:
        # A day: the committer's clock may be fast, and AUTOREV builds what was committed this minute.
        believed = range(file_times.BELIEVED_FROM, int(self.now) + DAY)
        history = git_history.survey(self._walks, self.sources.revisions, believed)
        self.warnings += history.warnings
        self.extracted = history.extracted
        if history.newest:
            newest = history.newest
            return Epoch(newest.date, "git", f"{newest.repository} commit {newest.sha}")
        last = self.sources.last
        if history.extracted is not None and last and last[1] < history.extracted:
            return Epoch(last[1], "file", last[0])
        return None

    def known(self) -> Epoch | None:
        return self._dated("known", file_times.known(self.sources.top, self._belief()))

    def youngest(self) -> Epoch | None:
        return self._dated("youngest", file_times.youngest(self._walks, self.sources.top, self._belief()))

    def fallback(self) -> Epoch | None:
        return Epoch(self.sources.fallback, "fallback", "SOURCE_DATE_EPOCH_FALLBACK")

    @cached_property
    def _walks(self) -> list[Walk]:
        walks = [Walk(tree) for tree in self.sources.trees()]
        refused = [path for walk in walks for path in walk.refused]
        if refused:
            self.warnings.append(f"left out, because not readable: {few(refused)}")
        return walks

    def _dated(self, origin: str, found: file_times.Found) -> Epoch | None:
        self.warnings += found.warnings
        return Epoch(found.seconds, origin, found.path) if found.path else None

    def _belief(self) -> file_times.Belief:
        # What is not older than devtool's own commit is a patch it applied or an edit made since.
        made = [moment for moment in (self.sources.since, self.extracted) if moment is not None]
        return file_times.Belief(self.now, min(made, default=None), self.sources.written)


def read(path: str, now: float | None = None) -> int:
    """The seconds that an epoch file states; see ``parse()``. EpochError, too, where it is no readable file."""
    return parse(_text(path), printable(path), now)


def parse(text: str, speaker: str, now: float | None = None) -> int:
    """The seconds that ``text`` states: digits, with white space around them at most.

    Raises EpochError, which names the ``speaker``, where it states nothing, no number, a moment before 1970, or
    one more than a day later than ``now``.
    """
    text = text.strip(" \t\r\n\v\f")
    remedy = "write the seconds since 1970 there, as `date +%s` prints them, or take it away"
    if not text:
        raise EpochError(f"the epoch in {speaker} is empty", remedy=remedy)
    if not re.fullmatch(r"-?[0-9]{1,20}", text):
        raise EpochError(f"the epoch in {speaker} says {text[:20]!r}, which is not a number of seconds", remedy=remedy)
    value = int(text)
    if value < 0:
        raise EpochError(f"the epoch in {speaker} says {value}, which is negative", remedy=remedy)
    if value > (time.time() if now is None else now) + DAY:
        cause = "it is counted in milliseconds, or this machine's clock is slow"
        raise EpochError(f"the epoch in {speaker} says {value}, which is in the far future", cause=cause, remedy=remedy)
    return value


def _text(path: str) -> str:
    # O_NONBLOCK: a FIFO of this name must not hang the build.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise EpochError(f"the epoch file {printable(path)} is not a regular file", remedy="take it away")
            content = stream.read(LONGEST)
    except OSError as error:
        raise EpochError(f"the epoch file {printable(path)} cannot be read", cause=str(error.strerror)) from error
    return content.decode("ascii", "backslashreplace")


def write(path: str, value: int) -> None:
    """Make ``path`` state ``value``, at once or not at all, with mode 0644 under any umask.

    The file is dated with the moment it states, so it is the same in every build, and ``is_own()`` knows it.
    Raises EpochError where it cannot be written.
    """
    directory, name = os.path.split(path)
    try:
        os.makedirs(directory or ".", exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory or ".")
        try:
            with open(descriptor, "w", encoding="ascii") as stream:
                stream.write(f"{value}\n")
                stream.flush()
                os.fchmod(descriptor, 0o644)
                os.utime(descriptor, (value, value))
            os.replace(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise EpochError(f"the epoch file {printable(path)} cannot be written", cause=str(error.strerror)) from error


def is_own(path: str) -> bool:
    """Whether ``write()`` made this file: nobody else dates an epoch file with the very moment it states."""
    try:
        status = os.lstat(path)
        return stat.S_ISREG(status.st_mode) and status.st_mtime_ns == read(path) * 10**9
    except (OSError, EpochError):
        return False
