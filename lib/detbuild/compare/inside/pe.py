# SPDX-License-Identifier: MIT
"""EFI programs: boot loaders, and unified kernel images, whose sections .linux, .initrd, .cmdline and .osrel are files
(Microsoft's "PE Format"; the UAPI Group's "Unified Kernel Image").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import HEAD, Member, size_of, slice_of

RANK = 22
_SECTIONS = 96  # the format's own limit
_PLUS = 0x20B  # the optional header's magic where addresses have 64 bits


def opens(head: bytes, path: Path) -> bool:
    return _start(head) > 0


def _start(head: bytes) -> int:
    """Where the PE header is; 0 where there is none."""
    if head[:2] != b"MZ" or len(head) < 64:
        return 0
    start = int.from_bytes(head[60:64], "little")
    return start if head[start : start + 4] == b"PE\0\0" and len(head) >= start + 264 else 0


def signature(head: bytes) -> tuple[int, int]:
    """Offset and size of the table of certificates, which stands behind all sections; zeroes where there is none."""
    entry = signature_entry(head)
    offset, size = struct.unpack_from("<II", head, entry) if entry else (0, 0)
    return (offset, size) if offset and size else (0, 0)


def signature_entry(head: bytes) -> int:
    """Offset of the eight bytes that say where the table of certificates is, and its size; 0 for no PE."""
    start = _start(head)
    if not start:
        return 0
    plus = int.from_bytes(head[start + 24 : start + 26], "little") == _PLUS
    return start + 24 + (112 if plus else 96) + 4 * 8


def checksum(head: bytes) -> tuple[int, str]:
    """Offset of the image's checksum, of four bytes, and what it is; a signer writes it anew. (0, "") for no PE."""
    start = _start(head)
    if not start:
        return 0, ""
    return start + 88, f"{int.from_bytes(head[start + 88 : start + 92], 'little'):08x}"


class Reader:
    kind = "EFI program"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._head = stream.read(HEAD)
        self._start = _start(self._head)

    def header(self) -> dict[str, str]:
        (made,) = struct.unpack_from("<I", self._head, self._start + 8)
        return {"time": str(made), "checksum": checksum(self._head)[1]}

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        count, optional = (int.from_bytes(self._head[self._start + n :][:2], "little") for n in (6, 20))
        table, seen = self._start + 24 + optional, dict[str, int]()
        for number in range(min(count, _SECTIONS)):
            row = self._head[table + 40 * number : table + 40 * (number + 1)]
            if len(row) < 40:
                return
            virtual, _address, raw, offset = struct.unpack_from("<4I", row, 8)
            name = row[:8].rstrip(b"\0").decode("latin-1")
            seen[name] = seen.get(name, 0) + 1
            shown = name if seen[name] == 1 else f"{name}#{seen[name]}"
            # What is beyond the virtual size is padding.
            size = min(virtual, raw) if virtual else raw
            yield Member(shown, size=size), slice_of(self._path, offset, size)
        offset, size = signature(self._head)
        if size and offset < size_of(self._path):
            yield Member("signature", size=size), slice_of(self._path, offset, size)
