# SPDX-License-Identifier: MIT
"""ext2, ext3 and ext4 images, read without mounting them and without privilege.

The layout is that of the kernel's Documentation/filesystems/ext4. Extents and block maps are followed; a file with
inline data or encryption is told as a member whose contents are not read.
"""

from __future__ import annotations

import os
import stat
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import Damaged, Member, size_of

RANK = 25
_EXTENTS, _INLINE = 0x80000, 0x10000000
_64BIT, _META_BG = 0x80, 0x10
_IN_INODE = 60  # bytes that it has room for
_DEPTH = 64  # of directories; a loop of them would not end
_FILES = 2_000_000


def opens(head: bytes, path: Path) -> bool:
    return head[1080:1082] == b"\x53\xef"


class Reader:
    kind = "ext4 image"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            stream.seek(1024)
            self._super = stream.read(1024)
        if len(self._super) < 1024:
            raise Damaged("it ends in its superblock")
        self._block = 1024 << min(_u32(self._super, 24), 6)
        self._per_group = _u32(self._super, 40) or 1
        self._inode_size = max(_u16(self._super, 88), 128) if _u32(self._super, 76) else 128
        incompatible = _u32(self._super, 96)
        if incompatible & _META_BG:
            raise Damaged("its group descriptors are spread (meta_bg), which is not read")
        self._descriptor = max(_u16(self._super, 254), 32) if incompatible & _64BIT else 32
        self._wide = bool(incompatible & _64BIT)

    def header(self) -> dict[str, str]:
        text = self._super
        return {
            "uuid": str(uuid.UUID(bytes=text[104:120])),
            "hash seed uuid": str(uuid.UUID(bytes=text[236:252])),
            "volume": text[120:136].rstrip(b"\0").decode("latin-1"),
            "mkfs time": str(_u32(text, 264)),
            "write time": str(_u32(text, 48)),
            "mount time": str(_u32(text, 44)),
            "check time": str(_u32(text, 64)),
            "block size": str(self._block),
        }

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        with self._path.open("rb") as stream:
            self._descriptor_of = stream.fileno()
            size = size_of(self._path)
            seen: set[int] = set()
            waiting = [(2, ".", 0)]
            while waiting:
                number, path, depth = waiting.pop()
                if number in seen or depth > _DEPTH or len(seen) > _FILES:
                    continue
                seen.add(number)
                for child, name in self._listing(self._inode(number), size):
                    inode = self._inode(child)
                    below = f"{path}/{name}"
                    if stat.S_ISDIR(_u16(inode, 0)):
                        waiting.append((child, below, depth + 1))
                    is_file = stat.S_ISREG(_u16(inode, 0))
                    yield self._member(child, below, inode), self._blocks(inode, size) if is_file else iter(())

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor_of, size, offset)

    def _inode(self, number: int) -> bytes:
        group, index = divmod(number - 1, self._per_group)
        start = (2 if self._block == 1024 else 1) * self._block + group * self._descriptor
        entry = self._read(start, self._descriptor)
        if len(entry) < 32:
            raise Damaged(f"inode {number} is in a group that does not exist")
        table = _u32(entry, 8) | (_u32(entry, 40) << 32 if self._wide and len(entry) >= 44 else 0)
        inode = self._read(table * self._block + index * self._inode_size, self._inode_size)
        if len(inode) < 128:
            raise Damaged(f"inode {number} is behind the end")
        return inode

    def _member(self, number: int, name: str, inode: bytes) -> Member:
        mode = _u16(inode, 0)
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
        kind = kinds.get(stat.S_IFMT(mode), "device" if stat.S_IFMT(mode) in (stat.S_IFBLK, stat.S_IFCHR) else "other")
        size = _size(inode)
        target = None
        if kind == "link":
            target = self._target(inode, size).decode("utf-8", "surrogateescape")
        elif kind == "device":
            target = f"{_u32(inode, 40) or _u32(inode, 44):#x}"
        uid, gid = _u16(inode, 2) | _u16(inode, 120) << 16, _u16(inode, 24) | _u16(inode, 122) << 16
        return Member(
            name,
            kind,
            size if kind == "file" else 0,
            stat.S_IMODE(mode),
            uid,
            gid,
            mtime=_u32(inode, 16),
            inode=number,
            target=target,
        )

    def _target(self, inode: bytes, size: int) -> bytes:
        """Where a symbolic link points: in the inode, or, from 60 bytes on, in a block, which it never fills."""
        return inode[40 : 40 + size] if size < _IN_INODE else next(self._blocks(inode, size), b"")

    def _listing(self, inode: bytes, size: int) -> Iterator[tuple[int, str]]:
        data = b"".join(self._blocks(inode, size))
        position = 0
        while position + 8 <= len(data):
            number, length, name_length = struct.unpack_from("<IHB", data, position)
            if length < 8:
                return
            name = data[position + 8 : position + 8 + name_length].decode("utf-8", "surrogateescape")
            if number and name_length and name not in (".", "..") and "/" not in name:
                yield number, name
            position += length

    def _blocks(self, inode: bytes, size: int) -> Iterator[bytes]:
        flags, left = _u32(inode, 32), _size(inode)
        if flags & _INLINE:
            yield inode[40 : 40 + min(left, _IN_INODE)]
            return
        extents = self._extents(inode[40:100], 0) if flags & _EXTENTS else self._mapped(inode)
        position = 0
        for logical, physical, count in extents:
            yield from _zeros(min(logical * self._block, left + position) - position)
            start = min(logical * self._block, left + position)
            left -= start - position
            position = start
            for number in range(count):
                if left <= 0:
                    return
                take = min(self._block, left)
                piece = self._read((physical + number) * self._block, take) if physical else bytes(take)
                if len(piece) < take:
                    raise Damaged("a file leads behind the image's end")
                left -= take
                position += take
                yield piece
        yield from _zeros(min(left, size))

    def _extents(self, node: bytes, depth: int) -> Iterator[tuple[int, int, int]]:
        magic, entries, _most, level = struct.unpack_from("<HHHH", node)
        if magic != 0xF30A or depth > 5:
            raise Damaged("an extent tree is damaged")
        for number in range(min(entries, (len(node) - 12) // 12)):
            row = node[12 + 12 * number : 24 + 12 * number]
            if level:
                leaf = _u32(row, 4) | _u16(row, 8) << 32
                yield from self._extents(self._read(leaf * self._block, self._block), depth + 1)
            else:
                count = _u16(row, 4)
                physical = _u32(row, 8) | _u16(row, 6) << 32
                unwritten = count > 32768
                yield _u32(row, 0), 0 if unwritten else physical, count - 32768 if unwritten else count

    def _mapped(self, inode: bytes) -> Iterator[tuple[int, int, int]]:
        """The block map of ext2 and ext3: twelve direct ones, then one to three levels of tables."""
        logical = 0
        for place in range(15):
            number = _u32(inode, 40 + 4 * place)
            for physical in self._table(number, max(0, place - 11)):
                yield logical, physical, 1
                logical += 1

    def _table(self, number: int, level: int) -> Iterator[int]:
        if level == 0:
            yield number
            return
        if not number:
            for _ in range((self._block // 4) ** level):
                yield 0
            return
        data = self._read(number * self._block, self._block)
        for start in range(0, len(data) - 3, 4):
            yield from self._table(_u32(data, start), level - 1)


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, 1 << 18))
        size -= 1 << 18


def _size(inode: bytes) -> int:
    return _u32(inode, 4) | (_u32(inode, 108) << 32 if stat.S_ISREG(_u16(inode, 0)) else 0)


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
