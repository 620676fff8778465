# SPDX-License-Identifier: MIT
"""One thing in a container, and what every reader of containers offers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HEAD = 64 << 10  # bytes of a file that a format is told by
PIECE = 1 << 18


class Damaged(Exception):
    """A container breaks its format's rules. The message says how."""


@dataclass
class Member:
    """``kind`` is file, directory, link, hard link, device or other; ``mtime`` in whole seconds since 1970.

    What a format does not record is None. ``target`` is where a link points, or a device's number.
    """

    name: str
    kind: str = "file"
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    owner: str | None = None
    group: str | None = None
    mtime: int | None = None
    inode: int | None = None
    target: str | None = None
    digest: str = ""

    def metadata(self) -> dict[str, str]:
        fields = {
            "mode": None if self.mode is None else f"{self.mode:o}",
            "uid": self.uid,
            "gid": self.gid,
            "owner": self.owner,
            "group": self.group,
            "mtime": self.mtime,
            "inode": self.inode,
        }
        return {name: str(value) for name, value in fields.items() if value is not None}


class Reader(Protocol):
    """``kind`` names the format for people."""

    kind: str

    def header(self) -> dict[str, str]: ...

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]: ...


def slice_of(path: Path, start: int, size: int) -> Iterator[bytes]:
    """A part of a file in pieces; ends early where the file does."""
    with path.open("rb") as stream:
        stream.seek(start)
        while size > 0 and (piece := stream.read(min(PIECE, size))):
            size -= len(piece)
            yield piece


def size_of(path: Path) -> int:
    return os.stat(path).st_size
