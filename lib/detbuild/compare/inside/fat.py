# SPDX-License-Identifier: MIT
"""FAT12, FAT16 and FAT32 images, such as boot partitions (Microsoft's "FAT32 File System Specification", 1.03)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from detbuild.compare.inside.member import Damaged, Member

RANK = 26
_DIRECTORY, _VOLUME, _LONG = 0x10, 0x08, 0x0F
_DEPTH = 32


def opens(head: bytes, path: Path) -> bool:
    if len(head) < 512 or head[510:512] != b"\x55\xaa":
        return False
    return head[54:57] == b"FAT" or head[82:85] == b"FAT"


class Reader:
    kind = "FAT file system"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            boot = stream.read(512)
        (sector, per_cluster, reserved, fats, self._roots, small, _media, fat16) = struct.unpack_from(
            "<HBHBHHBH", boot, 11
        )
        (large, fat32) = struct.unpack_from("<II", boot, 32)
        if not (sector and per_cluster and fats):
            raise Damaged("its boot sector is damaged")
        self._boot, self._wide = boot, not fat16
        fat = fat16 or fat32
        self._cluster = sector * per_cluster
        self._fat = reserved * sector
        self._root = self._fat + fats * fat * sector
        self._data = self._root + (self._roots * 32 + sector - 1) // sector * sector
        clusters = ((small or large) * sector - self._data) // self._cluster
        self._bits = 32 if self._wide else 16 if clusters >= 4085 else 12
        self._clusters = clusters
        with path.open("rb") as stream:
            stream.seek(self._fat)
            self._table = stream.read(min(fat * sector, 64 << 20))

    def header(self) -> dict[str, str]:
        start = 67 if self._wide else 39
        return {"volume id": self._boot[start : start + 4][::-1].hex().upper(),
                "label": self._boot[start + 4 : start + 15].decode("latin-1").rstrip()}  # fmt: skip

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        with self._path.open("rb") as stream:
            self._number = stream.fileno()
            root = b"".join(self._chain(struct.unpack_from("<I", self._boot, 44)[0])) if self._wide else b""
            if not self._wide:
                root = os.pread(self._number, self._roots * 32, self._root)
            waiting = [(".", root, 0)]
            while waiting:
                path, data, depth = waiting.pop()
                for name, row in _rows(data):
                    member = _member(f"{path}/{name}", row)
                    first = struct.unpack_from("<H", row, 26)[0] | struct.unpack_from("<H", row, 20)[0] << 16
                    if member.kind == "directory" and depth < _DEPTH:
                        waiting.append((member.name, b"".join(self._chain(first)), depth + 1))
                    yield member, self._file(first, member.size) if member.kind == "file" else iter(())

    def _file(self, first: int, size: int) -> Iterator[bytes]:
        for piece in self._chain(first):
            yield piece[:size]
            size -= len(piece)
            if size <= 0:
                return
        if size > 0:
            raise Damaged("a file ends before its size")

    def _chain(self, cluster: int) -> Iterator[bytes]:
        seen = 0
        while 2 <= cluster < self._clusters + 2:
            seen += 1
            if seen > self._clusters:
                raise Damaged("a chain of clusters has no end")
            yield os.pread(self._number, self._cluster, self._data + (cluster - 2) * self._cluster)
            cluster = self._next(cluster)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            value = int.from_bytes(self._table[cluster * 3 // 2 :][:2], "little")
            return value >> 4 if cluster % 2 else value & 0xFFF
        width = self._bits // 8
        return int.from_bytes(self._table[cluster * width :][:width], "little") & (0xFFFFFFF if width == 4 else 0xFFFF)


def _rows(data: bytes) -> Iterator[tuple[str, bytes]]:
    long = ""
    for start in range(0, len(data) - 31, 32):
        row = data[start : start + 32]
        if row[0] == 0:
            return
        if row[0] == 0xE5:
            long = ""
        elif row[11] & 0x3F == _LONG:
            long = (row[1:11] + row[14:26] + row[28:32]).decode("utf-16-le", "replace").split("\0")[0] + long
        else:
            short = _short(row)
            name, long = long or short, ""
            if name not in (".", ".."):
                yield f"volume label {name}" if row[11] & _VOLUME else name, row


def _short(row: bytes) -> str:
    """A name of eight and three characters; two bits of the row say whether each half is in lower case."""
    base, extension = row[:8].decode("cp437").rstrip(), row[8:11].decode("cp437").rstrip()
    base = base.lower() if row[12] & 0x08 else base
    extension = extension.lower() if row[12] & 0x10 else extension
    return f"{base}.{extension}" if extension else base


def _member(name: str, row: bytes) -> Member:
    clock, day, _first, size = struct.unpack_from("<HHHI", row, 22)
    kind = "directory" if row[11] & _DIRECTORY else "other" if row[11] & _VOLUME else "file"
    return Member(name, kind, size if kind == "file" else 0, row[11], mtime=_moment(day, clock))


def _moment(day: int, clock: int) -> int | None:
    """DOS time: a day since 1980 and half seconds; it has no zone and is read as UTC."""
    try:
        face = datetime(1980 + (day >> 9), day >> 5 & 15, day & 31, clock >> 11, clock >> 5 & 63, (clock & 31) * 2)
    except ValueError:
        return None
    return int(face.replace(tzinfo=timezone.utc).timestamp())
