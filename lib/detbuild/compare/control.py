# SPDX-License-Identifier: MIT
"""The control file of a .deb or .ipk, and what it says of the package's name.

Any file may have such a name, and this is read in the process that compares, without a limit of time: so what is
unpacked on the way is counted, and a package that goes too far is given up.
"""

from __future__ import annotations

import ctypes
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from detbuild.compare.inside import ar
from detbuild.compare.inside.archive import squeezed
from detbuild.compare.inside.member import PIECE

# Bytes. A control file has a few KiB, and scripts and checksums stand beside it.
CONTROL_LIMIT = 1 << 20
ARCHIVE_LIMIT = 16 << 20
# An .ipk's data may stand before its control file: how many times its size it may unpack to until there.
GROWTH = 8
PARTS = 64  # members of a package; it has three or four
# ARCHIVE_FILTER_ in libarchive's archive.h.
_FILTERS = {"gzip": 1, "bzip2": 2, "lzma": 5, "xz": 6, "lz4": 13, "zstd": 14}
_ARCHIVE, _CONTROL = "control.tar*", "control"


class Unnamed(Exception):
    """A package's own fields cannot be read. The message says why."""


def names(path: Path) -> tuple[str | None, str | None]:
    """The package and the recipe of a .deb, or of an .ipk in either of its containers, ar and tar. Raises Unnamed."""
    try:
        import libarchive
        from debian.deb822 import Deb822
    except (ImportError, OSError) as error:
        raise Unnamed(f"{error}; install libarchive13 and python-debian") from error
    try:
        plain = _unsqueezed(_outer(path))
        with libarchive.memory_reader(plain, "tar", "none") as archive:
            control = Deb822(_found(_members(archive), _CONTROL, CONTROL_LIMIT))
        return control.get("Package"), control.get("OE")
    except Unnamed:
        raise
    except Exception as error:
        # Nothing that stands in a package may end the comparison that asks for its name.
        raise Unnamed(f"{type(error).__name__}: {error}") from error


def _outer(path: Path) -> bytes:
    """The archive that the control file is in, still compressed."""
    import libarchive

    with path.open("rb") as stream:
        is_ar = stream.read(len(ar.MAGIC)) == ar.MAGIC
    if is_ar:
        members = islice(ar.Reader(path).members(), PARTS)
        return _found(((member.name, contents) for member, contents in members), _ARCHIVE, ARCHIVE_LIMIT)
    plain = _Bounded(_ungzipped(path), ARCHIVE_LIMIT + GROWTH * path.stat().st_size)
    try:
        with libarchive.stream_reader(plain, "tar", "none", PIECE) as archive:
            return _found(_members(islice(archive, PARTS)), _ARCHIVE, ARCHIVE_LIMIT)
    except (libarchive.ArchiveError, Unnamed) as error:
        raise Unnamed(plain.trouble or str(error)) from error


def _ungzipped(path: Path) -> Iterator[bytes]:
    """A file in pieces of at most PIECE bytes, without the gzip that stands around an .ipk that is a tar archive."""
    with path.open("rb") as stream:
        engine = zlib.decompressobj(31)  # with gzip's header
        if not stream.peek(2).startswith(b"\x1f\x8b"):
            yield from iter(lambda: stream.read(PIECE), b"")
        while not engine.eof and (piece := engine.unconsumed_tail or stream.read(PIECE)):
            yield engine.decompress(piece, PIECE)


class _Bounded(io.RawIOBase):
    """Pieces as a stream that ends after `limit` bytes, so that a bomb costs no more than those.

    No exception gets through libarchive: ``trouble`` says what ended the stream too early.
    """

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self._pieces, self._limit, self._taken, self.trouble = pieces, limit, 0, ""

    def readinto(self, buffer: Any) -> int:
        try:
            piece = next(filter(None, self._pieces), b"")
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            return 0
        self._taken += len(piece)
        if self._taken > self._limit:
            self.trouble = f"it unpacks to more than {self._limit} bytes before its control file"
            return 0
        buffer[: len(piece)] = piece
        return len(piece)


def _unsqueezed(data: bytes) -> bytes:
    """What is behind one compressor. Behind several of them, libarchive would not say how much it unpacks."""
    from libarchive import ffi
    from libarchive.read import ArchiveRead, new_archive_read

    name = squeezed(data)
    if not name:
        return data
    if name not in _FILTERS:
        raise Unnamed(f"{_ARCHIVE} is compressed by {name}")
    append = ffi.libarchive.archive_read_append_filter
    append.argtypes, append.restype, append.errcheck = [ctypes.c_void_p, ctypes.c_int], ctypes.c_int, ffi.check_int
    with new_archive_read("raw", "none") as pointer:
        append(pointer, _FILTERS[name])
        ffi.read_open_memory(pointer, data, len(data))
        pieces = (piece for entry in ArchiveRead(pointer) for piece in entry.get_blocks())
        return _joined(pieces, f"what is in {_ARCHIVE}", ARCHIVE_LIMIT)


def _members(archive: Iterable[Any]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """libarchive gives a name that is no UTF-8 as bytes."""
    return ((os.fsdecode(entry.pathname or ""), entry.get_blocks()) for entry in archive)


def _found(members: Iterator[tuple[str, Iterator[bytes]]], wanted: str, limit: int) -> bytes:
    """The contents, at most `limit` bytes, of the archive member whose last name matches the glob `wanted`."""
    for name, contents in members:
        if fnmatchcase(os.path.basename(name), wanted):
            return _joined(contents, wanted, limit)
    raise Unnamed(f"no {wanted} in it")


def _joined(pieces: Iterable[bytes], what: str, limit: int) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > limit:
            raise Unnamed(f"{what} has more than {limit} bytes")
    return bytes(found)
