# SPDX-License-Identifier: MIT
"""Files that carry another file behind a beginning of their own: SDK installers (a shell script with an archive, as
toolchain-shar-extract.sh in OE-Core makes them) and U-Boot's legacy images (64 bytes, include/image.h in U-Boot).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import HEAD, Member, size_of, slice_of

RANK = 30
_MARKER = b"\nMARKER:\n"
_SCRIPT = 1 << 20  # bytes; OE-Core's is some 10 KiB
_MULTI, _IMAGES = 4, 32  # IH_TYPE_MULTI, and how many images of one are told apart
_UBOOT = b"\x27\x05\x19\x56"


def opens(head: bytes, path: Path) -> bool:
    return head.startswith(_UBOOT) or (head.startswith(b"#!") and _split(path) > 0)


def _split(path: Path) -> int:
    """Where the archive of an installer begins; 0 where there is none."""
    with path.open("rb") as stream:
        beginning = stream.read(max(HEAD, _SCRIPT))
    found = beginning.find(_MARKER)
    return found + len(_MARKER) if found >= 0 and found + len(_MARKER) < size_of(path) else 0


class Reader:
    kind = "file with another behind it"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._head = stream.read(64)
        self._is_uboot = self._head.startswith(_UBOOT)
        self._start = 64 if self._is_uboot else _split(path)

    def header(self) -> dict[str, str]:
        if not self._is_uboot or len(self._head) < 64:
            return {}
        _magic, header_sum, made, _size, load, entry, data_sum = struct.unpack_from(">7I", self._head)
        name = self._head[32:64].rstrip(b"\0").decode("latin-1")
        return {
            "time": str(made),
            "name of the image": name,
            "load": f"{load:#x}",
            "entry": f"{entry:#x}",
            "header crc": f"{header_sum:08x}",
            "data crc": f"{data_sum:08x}",
        }

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        if not self._is_uboot:
            yield Member("script", size=self._start), slice_of(self._path, 0, self._start)
        sizes = self._sizes()
        start = self._start
        for number, size in enumerate(sizes[:-1], 1):
            yield Member(f"image {number}", size=size), slice_of(self._path, start, size)
            start += (size + 3) & ~3
        rest = size_of(self._path) - start
        yield Member("payload" if not sizes else f"image {len(sizes)}", size=rest), slice_of(self._path, start, rest)

    def _sizes(self) -> list[int]:
        """Of the images in a legacy image of several: words that a zero ends, before the first image."""
        if not (self._is_uboot and len(self._head) == 64 and self._head[30] == _MULTI):
            return []
        table = b"".join(slice_of(self._path, 64, 4 * _IMAGES))
        words = struct.iter_unpack(">I", table[: len(table) & ~3])
        sizes = list(itertools.takewhile(bool, (word for (word,) in words)))
        self._start = 64 + 4 * (len(sizes) + 1)
        return sizes
