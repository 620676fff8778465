# SPDX-License-Identifier: MIT
"""Disk images with a partition table, such as wic makes: MBR and GPT (UEFI specification, chapter 5)."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import Member, size_of, slice_of

RANK = 40
SECTOR = 512
_EXTENDED = (0x05, 0x0F, 0x85)


def opens(head: bytes, path: Path) -> bool:
    if len(head) < 2 * SECTOR or head[510:512] != b"\x55\xaa":
        return False
    if head[SECTOR : SECTOR + 8] == b"EFI PART":
        return True
    # The boot sector of a FAT has the same mark; its jump and the words in it tell.
    if head[54:57] == b"FAT" or head[82:85] == b"FAT" or head[3:7] == b"NTFS":
        return False
    rows = [struct.unpack_from("<B3xB3xII", head, 446 + 16 * n) for n in range(4)]
    return any(kind and count for _boot, kind, _start, count in rows) and all(boot in (0, 0x80) for boot, *_ in rows)


class Reader:
    kind = "disk image"

    def __init__(self, path: Path) -> None:
        self._path = path

    def header(self) -> dict[str, str]:
        head = self._head(0, 2 * SECTOR)
        fields = {"disk id": head[440:444].hex()}
        if head[SECTOR : SECTOR + 8] == b"EFI PART":
            fields["disk uuid"] = str(uuid.UUID(bytes_le=head[SECTOR + 56 : SECTOR + 72]))
            for number, entry in enumerate(self._gpt(head), 1):
                fields[f"partition {number} uuid"] = str(uuid.UUID(bytes_le=entry[16:32]))
                fields[f"partition {number} name"] = entry[56:128].decode("utf-16-le", "replace").rstrip("\0")
        return fields

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for number, (start, count) in enumerate(self._parts(), 1):
            yield (
                Member(f"partition {number}", size=count * SECTOR),
                slice_of(self._path, start * SECTOR, count * SECTOR),
            )
        first = min((start for start, _count in self._parts()), default=0)
        end = max((start + count for start, count in self._parts()), default=0)
        # What stands before the first partition is the loader; the tables are in the header above.
        yield Member("boot code", size=440), slice_of(self._path, 0, 440)
        table = 34 if self._head(SECTOR, 8) == b"EFI PART" else 1
        if first > table:
            gap = (first - table) * SECTOR
            yield Member("before the first partition", size=gap), slice_of(self._path, table * SECTOR, gap)
        left = size_of(self._path) - end * SECTOR - (33 * SECTOR if table > 1 else 0)
        if left > 0:
            yield Member("behind the last partition", size=left), slice_of(self._path, end * SECTOR, left)

    def _head(self, start: int, size: int) -> bytes:
        return b"".join(slice_of(self._path, start, size))

    def _gpt(self, head: bytes) -> list[bytes]:
        table, count, size = struct.unpack_from("<QII", head, SECTOR + 72)
        count, size = min(count, 128), min(max(size, 128), 4096)
        data = self._head(table * SECTOR, count * size)
        rows = [data[n * size : (n + 1) * size] for n in range(len(data) // size)]
        return [row for row in rows if any(row[:16])]

    def _parts(self) -> list[tuple[int, int]]:
        """(first sector, number of sectors) of each partition."""
        head = self._head(0, 2 * SECTOR)
        if head[SECTOR : SECTOR + 8] == b"EFI PART":
            spans = [struct.unpack_from("<QQ", entry, 32) for entry in self._gpt(head)]
            return [(first, last - first + 1) for first, last in spans if last >= first]
        rows = [struct.unpack_from("<B3xB3xII", head, 446 + 16 * n) for n in range(4)]
        return [(start, count) for _boot, kind, start, count in rows if kind and count and kind not in _EXTENDED]
