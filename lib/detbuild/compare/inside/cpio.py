# SPDX-License-Identifier: MIT
"""cpio archives of the kind that initramfs are: "newc", and several of them one behind the other, also a plain one with
microcode before a compressed one (Documentation/driver-api/early-userspace/buffer-format.rst in Linux).

libarchive reads the first of them and calls that all.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import PIECE, Damaged, Member, size_of, slice_of

RANK = 45
MAGICS = (b"070701", b"070702")
_HEADER, _FIELDS = 110, 13
_NAME = 1 << 16
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def opens(head: bytes, path: Path) -> bool:
    return head.startswith(MAGICS)


class Reader:
    kind = "cpio archive"

    def __init__(self, path: Path) -> None:
        self._path = path

    def header(self) -> dict[str, str]:
        return {}

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        return members(slice_of(self._path, 0, size_of(self._path)))


def members(pieces: Iterator[bytes]) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """All members of all archives in a stream; what is compressed behind them is one member."""
    stream, segment, seen = _Stream(pieces), 0, dict[str, int]()
    while stream.peek(6).startswith(MAGICS):
        segment += 1
        for member, contents in _archive(stream):
            name = member.name if segment == 1 else f"segment {segment}/{member.name}"
            seen[name] = seen.get(name, 0) + 1
            member.name = name if seen[name] == 1 else f"{name}#{seen[name]}"
            yield member, contents
        stream.skip_zeroes()
    if stream.peek(1):
        yield Member(f"segment {segment + 1}"), stream.rest()


def _archive(stream: _Stream) -> Iterator[tuple[Member, Iterator[bytes]]]:
    while True:
        head = stream.take(_HEADER)
        if not head.startswith(MAGICS):
            raise Damaged(f"no member header at offset {stream.position - len(head)}")
        try:
            fields = [int(head[start : start + 8], 16) for start in range(6, 6 + 8 * _FIELDS, 8)]
        except ValueError as error:
            raise Damaged(f"a damaged header before offset {stream.position}") from error
        inode, mode, uid, gid, _links, mtime, size, _major, _minor, major, minor, length, _sum = fields
        if length > _NAME:
            raise Damaged(f"a name of {length} bytes")
        name = stream.take(length).rstrip(b"\0").decode("utf-8", "surrogateescape")
        stream.take(-(_HEADER + length) % 4)
        if name == "TRAILER!!!":
            return
        kind = _KINDS.get(stat.S_IFMT(mode), "other")
        member = Member(name, kind, size, mode & 0o7777, uid, gid, mtime=mtime, inode=inode or None)
        if kind == "link":
            member.target = stream.take(min(size, _NAME)).decode("utf-8", "surrogateescape")
        elif kind == "device":
            member.target = f"{major}:{minor}"
        contents = stream.pieces(size if kind != "link" else 0)
        yield member, contents
        for _left in contents:
            pass
        stream.take(-size % 4)


class _Stream:
    """Pieces as one run of bytes; ``position`` is how many of them were taken."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._buffer, self._start, self.position = pieces, b"", 0, 0

    def peek(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        while len(self._buffer) - self._start < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer, self._start = self._buffer[self._start :] + bytes(piece), 0
        return self._buffer[self._start : self._start + size]

    def take(self, size: int) -> bytes:
        """Exactly so many bytes. Raises Damaged."""
        found = self.peek(size)
        if len(found) < size:
            raise Damaged(f"it ends in the middle, at {self.position + len(found)} bytes")
        self._move(size)
        return found

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            found = self.take(min(size, PIECE))
            size -= len(found)
            yield found

    def rest(self) -> Iterator[bytes]:
        while found := self.peek(PIECE):
            self._move(len(found))
            yield found

    def skip_zeroes(self) -> None:
        """The padding between archives."""
        while found := self.peek(PIECE):
            zeroes = len(found) - len(found.lstrip(b"\0"))
            self._move(zeroes)
            if zeroes < len(found):
                return

    def _move(self, size: int) -> None:
        self._start += size
        self.position += size
