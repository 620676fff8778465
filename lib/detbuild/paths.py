# SPDX-License-Identifier: MIT
"""Paths as text that is safe to print and to log, and walks over trees that others may be changing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

HISTORY = frozenset({".git", ".hg", ".svn", ".bzr"})
"""Where version control keeps its own files: never a part of the source."""


def printable(path: str) -> str:
    """``path`` with every byte that is not UTF-8, and every character that a terminal would obey, escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def few(paths: Sequence[str], most: int = 3) -> str:
    """The first ``most`` of the sorted paths, and how many more there are."""
    named = ", ".join(printable(path) for path in sorted(paths)[:most])
    return f"{named} and {len(paths) - most} more" if len(paths) > most else named


class Directory(NamedTuple):
    """One directory of a walk: the names of its regular files, and whether it is the top of a git repository."""

    path: str
    files: list[str]
    is_repository: bool


@dataclass
class Walk:
    """One walk over a tree: parents before children, links not followed, HISTORY not entered.

    A directory that cannot be read is in ``refused``; one that vanished in the meantime is passed over.
    """

    top: str
    directories: list[Directory] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        pending = [self.top]
        while pending:
            path = pending.pop()
            try:
                with os.scandir(path) as entries:
                    self.directories.append(_directory(path, entries, pending))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                self.refused.append(path)


def _directory(path: str, entries: Iterable[os.DirEntry[str]], pending: list[str]) -> Directory:
    files = []
    is_repository = False
    for entry in entries:
        if entry.name in HISTORY:
            # Of a submodule or a worktree, .git is a file.
            is_repository = is_repository or entry.name == ".git"
        elif entry.is_dir(follow_symlinks=False):
            pending.append(entry.path)
        elif entry.is_file(follow_symlinks=False):
            files.append(entry.name)
    return Directory(path, files, is_repository)
