# SPDX-License-Identifier: MIT
"""What the times of source files say: the newest of the well-known files, and the youngest file of a tree.

A time is believed from 1980 on, where zip and FAT begin, and up to now. Times that the unpack made are left out
without a word; times that nobody can believe are left out and named.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from detbuild.paths import Directory, Walk, few

BELIEVED_FROM = 315532800
"""1980-01-01 00:00:00 UTC in seconds."""
SECOND = 10**9
"""Nanoseconds."""
KNOWN = re.compile(
    r"(news|change[-_ ]?logs?|changes)(\.(md|markdown|rst|txt|text|adoc|asciidoc|org|html|pod|rdoc|textile))?",
    re.IGNORECASE,
)
TOP_NAMES = (
    ".pc",
    "patches",
    "temp",
    "singletask.lock",
    "oe-local-files",
    "__source-date-epoch.txt",
    "__source_date_epoch.txt",
)
"""What BitBake's tasks, quilt and devtool put into the top of a source."""


@dataclass(frozen=True)
class Belief:
    """Which times to believe: up to ``now``, and only below ``before``, both in seconds; none of ``written``."""

    now: float
    before: float | None = None
    written: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """A file and its time in seconds; ``path`` is empty where there is none."""

    path: str = ""
    seconds: int = 0
    warnings: tuple[str, ...] = ()


@dataclass
class _Youngest:
    """The youngest believed file so far; of equally young ones the first by name, so that every run names the same."""

    belief: Belief
    path: str = ""
    time: int = 0
    future: list[str] = field(default_factory=list)
    ancient: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._now = int(self.belief.now * SECOND)
        self._before = self._now + 1 if self.belief.before is None else int(self.belief.before * SECOND)

    def add(self, path: str, time: int) -> None:
        """``time`` in nanoseconds."""
        if time > self._now:
            self.future.append(path)
        elif time < BELIEVED_FROM * SECOND:
            self.ancient.append(path)
        elif time < self._before and (time > self.time or (time == self.time and path < self.path)):
            self.path, self.time = path, time

    def found(self) -> Found:
        said = (
            (self.future, "dated in the future"),
            (self.ancient, "dated before 1980"),
            (self.refused, "not readable"),
        )
        warnings = tuple(f"left out, because {why}: {few(paths)}" for paths, why in said if paths)
        return Found(self.path, self.time // SECOND, warnings)


def known(top: str, belief: Belief) -> Found:
    """The newest of NEWS, ChangeLog, CHANGES and their usual spellings at ``top``: regular files of this source.

    A link counts where it leads to a regular file of the same tree.
    """
    youngest = _Youngest(belief)
    real = os.path.realpath(top)
    written = _real(belief.written)
    for name in _names(top, youngest.refused):
        target = os.path.realpath(os.path.join(real, name))
        if KNOWN.fullmatch(name) and target.startswith(f"{real}/") and not _within(target, written):
            try:
                status = os.lstat(target)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                youngest.add(os.path.join(top, name), status.st_mtime_ns)
    return youngest.found()


def youngest(walks: Iterable[Walk], top: str, belief: Belief) -> Found:
    """The youngest regular file of the walks, without TOP_NAMES at ``top``; what vanished since is passed over."""
    result = _Youngest(belief)
    skip = _real(belief.written) | _real(os.path.join(top, name) for name in TOP_NAMES)
    for walk in walks:
        real = os.path.realpath(walk.top)
        if not _within(real, skip):
            seen = {walk.top + path[len(real) :] for path in skip if path.startswith(f"{real}/")}
            _add_directories(_without(walk.directories, seen), seen, result)
    return result.found()


def _without(directories: Iterable[Directory], skip: Collection[str]) -> Iterator[Directory]:
    left_out: set[str] = set()
    for directory in directories:
        if directory.path in skip or os.path.dirname(directory.path) in left_out:
            left_out.add(directory.path)
        else:
            yield directory


def _add_directories(directories: Iterable[Directory], skip: Collection[str], result: _Youngest) -> None:
    for directory in directories:
        try:
            descriptor = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError:
            result.refused.append(directory.path)
            continue
        try:
            _add_files(descriptor, directory, skip, result)
        except OSError:
            result.refused.append(directory.path)
        finally:
            os.close(descriptor)


def _add_files(descriptor: int, directory: Directory, skip: Collection[str], result: _Youngest) -> None:
    # Tens of thousands of files come by here. The common case, an older file, is decided without a call of our own,
    # and the kernel looks up one name instead of a whole path.
    oldest = BELIEVED_FROM * SECOND
    for name in directory.files:
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not oldest <= status.st_mtime_ns < result.time and stat.S_ISREG(status.st_mode):
            path = os.path.join(directory.path, name)
            if path not in skip:
                result.add(path, status.st_mtime_ns)


def _names(directory: str, refused: list[str]) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        refused.append(directory)
        return []


def _real(paths: Iterable[str]) -> frozenset[str]:
    # The last name stays as it is: a link that BitBake wrote is itself what was written.
    return frozenset(
        os.path.join(os.path.realpath(os.path.dirname(path.rstrip("/"))), os.path.basename(path.rstrip("/")))
        for path in paths
    )


def _within(path: str, places: Collection[str]) -> bool:
    while path not in places:
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True
