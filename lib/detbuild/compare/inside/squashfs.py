# SPDX-License-Identifier: MIT
"""squashfs images, by unsquashfs's pseudo-file output: everything in one stream, and nothing is written to disk.

The output is that of unsquashfs -pf (squashfs-tools 4.5, unsquashfs(1)): a line a member, then the data of all files.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from detbuild.compare.inside.member import PIECE, Damaged, Member

RANK = 20
_LINE = re.compile(rb'("(?:[^"\\]|\\.)*"|(?:[^\s\\]|\\.)+) (\w) (\d+) ([0-7]+) (\d+) (\d+)(?: (.*))?')
_KINDS = {"D": "directory", "S": "link", "R": "file", "L": "hard link", "B": "device", "C": "device", "I": "other"}
_COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


def opens(head: bytes, path: Path) -> bool:
    return head.startswith(b"hsqs")


class Reader:
    kind = "squashfs image"

    def __init__(self, path: Path) -> None:
        self._path = path

    def header(self) -> dict[str, str]:
        with self._path.open("rb") as stream:
            head = stream.read(32)
        if len(head) < 32:
            raise Damaged("it ends in its superblock")
        _magic, _inodes, made, block, _fragments, compressor = struct.unpack_from("<IIIIIH", head)
        return {"mkfs time": str(made), "block size": str(block), "compressor": _COMPRESSORS.get(compressor, "?")}

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        program = shutil.which("unsquashfs")
        if not program:
            raise Damaged("unsquashfs is not installed (Debian: squashfs-tools), so nothing inside was looked at")
        ours, theirs = os.pipe()
        # A name for the pipe: to unsquashfs 4.5, "-" is the name of a file.
        command = [program, "-no-progress", "-pf", f"/dev/fd/{theirs}", str(self._path)]
        quiet = subprocess.DEVNULL
        with open(ours, "rb") as stream:
            try:
                process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[theirs])
            finally:
                os.close(theirs)
            try:
                yield from _parsed(stream)
            finally:
                process.kill()
                process.wait()


def _parsed(stream: BinaryIO) -> Iterator[tuple[Member, Iterator[bytes]]]:
    files: list[tuple[int, Member]] = []
    for line in iter(stream.readline, b""):
        if line.startswith(b"# START OF DATA"):
            break
        found = _LINE.match(line.rstrip(b"\n"))
        if line.startswith(b"#") or not found:
            continue
        member = _member(found)
        if member.kind == "file":
            size, offset = (int(word) for word in found[7].split()[:2])
            member.size = size
            files.append((offset, member))
        else:
            yield member, iter(())
    else:
        raise Damaged("unsquashfs cannot read it")
    if files:
        for line in iter(stream.readline, b""):
            if line == b"#\n":
                break
    position = 0
    for offset, member in sorted(files, key=lambda item: item[0]):
        _Part(stream, max(offset - position, 0)).drain()
        contents = _Part(stream, member.size)
        yield member, contents
        contents.drain()
        position = offset + member.size


def _member(found: re.Match[bytes]) -> Member:
    name = re.sub(rb"\\(.)", rb"\1", found[1].strip(b'"')).decode("utf-8", "surrogateescape")
    kind = _KINDS.get(found[2].decode(), "other")
    target = found[7].decode("utf-8", "surrogateescape") if found[7] and kind != "file" else None
    return Member(name, kind, 0, int(found[4], 8), int(found[5]), int(found[6]), mtime=int(found[3]), target=target)


class _Part:
    """The next so many bytes of a stream, as an iterator that can be left early."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        piece = self._stream.read(min(PIECE, self._left))
        if not piece:
            raise Damaged("it ends in the middle of a file")
        self._left -= len(piece)
        return piece

    def drain(self) -> None:
        for _piece in self:
            pass
