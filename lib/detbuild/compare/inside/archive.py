# SPDX-License-Identifier: MIT
"""What libarchive reads: tar, cpio, zip, ISO 9660, 7z, each also compressed; and single compressed files."""

from __future__ import annotations

import bz2
import ctypes
import gzip
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detbuild.compare.inside import cpio
from detbuild.compare.inside.member import HEAD, Damaged, Member, size_of, slice_of

RANK = 50
_SQUEEZED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"LZIP": "lzip",
    b"\x5d\0\0": "lzma",
    b"\x1f\x9d": "compress",
    b"\x89LZO": "lzop",
}
# libarchive calls what is nothing compressed an unknown format, and it takes no more bytes than these.
_NOTHING = 256
_UNSQUEEZE = {"gzip": gzip.decompress, "bzip2": bz2.decompress, "xz": lzma.decompress}
_ZIPPED = 20_000  # members of a zip archive whose extra fields are read
_ARCHIVES = {b"PK\x03\x04": "zip archive", b"PK\x05\x06": "zip archive", b"7z\xbc\xaf\x27\x1c": "7z archive"}


def squeezed(head: bytes) -> str:
    """The name of the compressor that wrote these first bytes, or nothing."""
    return next((name for magic, name in _SQUEEZED.items() if head.startswith(magic)), "")


def archived(head: bytes) -> str:
    """The name of the archive format that these first bytes begin, or nothing."""
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "tar archive"
    if re.match(rb"07070[127]|\xc7\x71|\x71\xc7", head):
        return "cpio archive"
    if head[32769:32774] == b"CD001":
        return "ISO 9660 image"
    return next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), "")


def _is_old_tar(head: bytes) -> bool:
    field = head[148:156].strip(b" \0")
    if len(head) < 512 or not re.fullmatch(rb"[0-7]{1,6}", field) or not head[0]:
        return False
    return int(field, 8) == sum(head[:148]) + 8 * 32 + sum(head[156:512])


def opens(head: bytes, path: Path) -> bool:
    return bool(squeezed(head) or archived(head))


class Reader:
    """``kind`` is told after a look behind the compressor."""

    def __init__(self, path: Path) -> None:
        import libarchive

        self._library, self._path = libarchive, path
        with path.open("rb") as stream:
            self._head = stream.read(HEAD)
        self._squeezed = squeezed(self._head)
        self._is_nothing = _is_nothing(self._squeezed, self._head)
        self._inner = self._peek() if self._squeezed and not self._is_nothing else self._head
        self._archive = archived(self._inner)
        self.kind = ", ".join(
            part for part in (self._archive, self._squeezed and f"{self._squeezed}-compressed") if part
        )

    def header(self) -> dict[str, str]:
        fields = {"compressor": self._squeezed} if self._squeezed else {}
        if self._squeezed == "gzip":
            fields |= _gzip(self._head)
        if self._archive == "zip archive" and not self._squeezed:
            fields |= _zip(self._path)
        return fields

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        if self._is_nothing:
            yield Member("contents"), iter(())
            return
        if self._inner.startswith(cpio.MAGICS):
            for entry in self._entries("raw"):
                yield from cpio.members(entry.get_blocks())
            return
        if self._archive:
            numbered = self._archive == "cpio archive"
            yield from members_of(self._library, self._entries("all"), numbered)
            return
        for entry in self._entries("raw"):
            yield Member("contents"), entry.get_blocks()
            return

    def unpacked(self) -> Iterator[bytes]:
        """All that is behind the compressor, also behind the end of an archive in there. Raises Damaged."""
        if not self._squeezed:
            yield from slice_of(self._path, 0, size_of(self._path))
            return
        try:
            for entry in self._entries("raw"):
                yield from entry.get_blocks()
        except self._library.ArchiveError as error:
            raise Damaged(str(error)) from error

    def _entries(self, form: str) -> Iterator[Any]:
        try:
            with self._library.file_reader(str(self._path), format_name=form, block_size=1 << 16) as archive:
                yield from archive
        except self._library.ArchiveError as error:
            raise Damaged(str(error)) from error
        except (UnicodeError, ValueError) as error:
            raise Damaged(f"its names cannot be read: {error}") from error

    def _peek(self) -> bytes:
        found = b""
        for entry in self._entries("raw"):
            try:
                for block in entry.get_blocks():
                    found += block
                    if len(found) >= HEAD:
                        break
            except self._library.ArchiveError:
                # What is damaged behind its beginning is told when the members are read.
                break
        return found[:HEAD]


def _is_nothing(name: str, head: bytes) -> bool:
    if len(head) > _NOTHING or name not in _UNSQUEEZE:
        return False
    try:
        return not _UNSQUEEZE[name](head)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error):
        return False  # damaged, as it is told when the members are read


def _gzip(head: bytes) -> dict[str, str]:
    """RFC 1952: flags at 3, time at 4, level at 8, system at 9, then extra field and name."""
    fields = {"mtime": str(int.from_bytes(head[4:8], "little")), "level": str(head[8]), "system": str(head[9])}
    flags, position = head[3], 10
    if flags & 4:
        position += 2 + int.from_bytes(head[10:12], "little")
    if flags & 8:
        fields["name"] = head[position : head.find(b"\0", position)].decode("latin-1")
    return fields


def _zip(path: Path) -> dict[str, str]:
    """What zip(1) records beside contents and times, and libarchive does not tell: extra fields and methods."""
    fields = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist()[:_ZIPPED]:
                fields[f"extra field of {info.filename}"] = _local_extra(archive, info) or info.extra.hex()
                if info.create_system or info.create_version:
                    fields[f"system of {info.filename}"] = f"{info.create_system}/{info.create_version}"
            if archive.comment:
                fields["comment"] = archive.comment.decode("latin-1")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Damaged(str(error)) from error
    return fields


def _local_extra(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """The extra field before a member's data: with Info-ZIP it holds more times than that of the directory."""
    stream = archive.fp
    assert stream
    stream.seek(info.header_offset)
    head = stream.read(30)
    if len(head) < 30:
        return ""
    name, extra = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
    stream.seek(name, 1)
    return stream.read(extra).hex()


def members_of(library: Any, entries: Iterable[Any], numbered: bool) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """What libarchive reads of an archive; the second member of one name is called NAME#2.

    `numbered`: whether the format records inodes; for others, libarchive makes numbers up.
    """
    seen: dict[str, int] = {}
    for entry in entries:
        member = _member(library, entry, numbered)
        seen[member.name] = seen.get(member.name, 0) + 1
        if seen[member.name] > 1:
            member.name += f"#{seen[member.name]}"
        yield member, entry.get_blocks()


def _member(library: Any, entry: Any, numbered: bool) -> Member:
    handle = entry._entry_p
    kind = (
        "hard link" if entry.islnk else "link" if entry.issym else "directory" if entry.isdir
        else "device" if entry.isblk or entry.ischr else "file" if entry.isfile else "other"
    )  # fmt: skip
    target = entry.linkpath if kind in ("link", "hard link") else None
    if kind == "device":
        target = f"{entry.rdevmajor}:{entry.rdevminor}"
    number = _call(library, "archive_entry_ino64", ctypes.c_int64, handle) if numbered else 0
    return Member(
        _text(entry.pathname) or "?",
        kind,
        entry.size or 0,
        entry.perm,
        _call(library, "archive_entry_uid", ctypes.c_int64, handle),
        _call(library, "archive_entry_gid", ctypes.c_int64, handle),
        _text(entry.uname),
        _text(entry.gname),
        None if entry.mtime is None else int(entry.mtime),
        number or None,
        _text(target),
    )


def _text(value: str | bytes | None) -> str | None:
    """Bytes where they are in no character set."""
    return os.fsdecode(value) if value else None


def _call(library: Any, name: str, result: Any, handle: Any) -> int:
    function = getattr(library.ffi.libarchive, name)
    function.argtypes, function.restype = [ctypes.c_void_p], result
    return int(function(handle))
