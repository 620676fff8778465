# SPDX-License-Identifier: MIT
"""What stands in one tree: walked without following a link, and without opening anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from detbuild import audits
from detbuild.compare.model import Entry, Trouble
from detbuild.errors import CompareError


@dataclass
class Tree:
    """One side of a comparison. ``closed`` are directories that could not be listed: what they hold is unknown."""

    root: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    troubles: list[Trouble] = field(default_factory=list)

    def hides(self, path: str) -> bool:
        """Whether `path` may exist here unseen, below a directory that could not be listed."""
        while self.closed:
            path = os.path.dirname(path)
            if path in self.closed:
                return True
            if not path:
                return False
        return False


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a glob matches the path from the tree's top, or the last name in it. ``*`` matches ``/`` too."""
    name = os.path.basename(path)
    return any(fnmatchcase(path, pattern) or fnmatchcase(name, pattern) for pattern in patterns)


def _is_collection(path: str) -> bool:
    """Whether the class collects audits there. They tell of a build, and so differ from the next one's."""
    return f"/deploy/{path}".endswith(f"/deploy/{audits.DIRECTORY}")


def collect(root: Path, exclude: Sequence[str] = ()) -> Tree:
    """Walk `root`, past audits that the class collected in it.

    Raises CompareError where it is no directory; anything less is a trouble in the result.
    """
    try:
        cause = "" if stat.S_ISDIR(os.stat(root).st_mode) else "it is not a directory"
    except OSError as error:
        cause = error.strerror or str(error)
    if cause:
        remedy = "give two directories, such as two tmp/deploy/deb"
        raise CompareError(f"cannot compare {root}", cause=cause, remedy=remedy)
    tree = Tree(root)
    waiting = [""]
    while waiting:
        waiting.extend(_list(tree, waiting.pop(), exclude))
    return tree


def _list(tree: Tree, directory: str, exclude: Sequence[str]) -> list[str]:
    """Take in one directory; returns those below it."""
    below = []
    try:
        with os.scandir(tree.root / directory) as items:
            for item in items:
                path = os.path.join(directory, item.name)
                if excluded(path, exclude):
                    continue
                if item.is_dir(follow_symlinks=False):
                    if not _is_collection(path):
                        below.append(path)
                else:
                    _add(tree, path, item)
    except OSError as error:
        tree.closed.add(directory)
        tree.troubles.append(Trouble(str(tree.root / directory), f"cannot list the directory: {error.strerror}"))
    return below


def _add(tree: Tree, path: str, item: os.DirEntry[str]) -> None:
    try:
        found = item.stat(follow_symlinks=False)
        target = os.readlink(item.path) if stat.S_ISLNK(found.st_mode) else ""
    except FileNotFoundError:
        # It vanished between the listing and now: the tree does not hold it any more.
        return
    identity = (found.st_dev, found.st_ino)
    device = found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0
    times = (found.st_mtime_ns, found.st_ctime_ns)
    tree.entries[path] = Entry(path, found.st_mode, found.st_size, identity, target, device, times)
