# SPDX-License-Identifier: MIT
"""One pair of files taken apart, layer by layer, down to the places where they differ.

A container is read twice at most: once for its members' digests, and, where some differ, once more for those alone.
Nothing is written but the differing members, into the scratch directory, and each of them is gone once compared.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from detbuild.compare import blob, devicetree, elf, index, words
from detbuild.compare.change import NOTHING_UNDERSTOOD, Change, Emit, Facts, Inner
from detbuild.compare.inside import Damaged, Member, Reader, archive, opened
from detbuild.compare.members import Layer, compare_layers

DEPTH = 8  # archives inside archives
UNPACKED = 16 << 30  # bytes that one container may unpack to
MEMBERS = 200_000  # of one container
SPOOLED = 2 << 30  # bytes of differing members on disk, of one side of one container
LOOKED_INTO = 500  # differing members of one container
TEXT = 16 << 20  # bytes of a text that is compared word by word
SMALL = 1 << 20  # bytes of a file that is read whole, whatever it is
TOO_LARGE = "it is too large to be looked into"
# What PEM (RFC 7468), OpenPGP (RFC 9580) and OpenSSH write around what a key made.
_ARMOURED = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----\s*", re.DOTALL)
Block = tuple[bytes, bytes]
"""What an armoured block is called, and what is in it."""


@dataclass
class Inspector:
    """``emit`` is called with each Change and ``note`` with each Inner as they are found."""

    facts: Facts
    scratch: Path
    emit: Emit
    note: Callable[[Inner], None] = lambda inner: None

    def pair(self, a: Path, b: Path, where: tuple[str, ...] = (), depth: int = 0) -> None:
        """Compare two files that are known to differ. Raises OSError."""
        readers = [self._opened(path, where, side) for path, side in ((a, "A"), (b, "B"))]
        if readers[0] and readers[1]:
            if depth >= DEPTH:
                self.emit(Change(where, "limit", line_a=f"archives inside archives: not opened beyond {DEPTH} of them"))
            elif self._containers(readers[0], readers[1], a, b, where, depth):
                return
        self._files(a, b, where)

    def _opened(self, path: Path, where: tuple[str, ...], side: str) -> Reader | None:
        try:
            return opened(path)
        except Damaged as error:
            self.emit(Change(where, "limit", line_a=f"{side}'s file is damaged: {error}"))
            return None

    def _files(self, a: Path, b: Path, where: tuple[str, ...]) -> None:
        """Two files that are no containers, or not both."""
        heads = [_head(path) for path in (a, b)]
        if all(head.startswith(elf.MAGIC) for head in heads):
            try:
                elf.compare(where, a, b, self.facts, self.emit)
                return
            except elf.NotElf as error:
                self.emit(Change(where, "limit", line_a=f"an object file is damaged: {error}"))
        sizes = [path.stat().st_size for path in (a, b)]
        # Large noise is told by its beginning: reading all of it, and decoding it, costs memory for nothing.
        if max(sizes) <= SMALL or (max(sizes) <= TEXT and all(map(_may_be_text, heads))):
            data_a, data_b = a.read_bytes(), b.read_bytes()
            trees = devicetree.lines(data_a), devicetree.lines(data_b)
            if trees[0] and trees[1] and trees[0] != trees[1]:
                words.compare(where, trees[0], trees[1], self.emit)
                return
            if is_text(data_a) and is_text(data_b):
                self._texts(where, data_a, data_b)
                return
            if change := _encoding(where, data_a, data_b):
                self.emit(change)
                return
        blob.compare(where, a, b, self.facts, self.emit)

    def _texts(self, where: tuple[str, ...], a: bytes, b: bytes) -> None:
        if change := _encoding(where, a, b):
            self.emit(change)
            return
        a, b = self._signed(where, a, b)
        indexes = [index.parse(text.decode("utf-8", "surrogateescape")) for text in (a, b)]
        if indexes[0] and indexes[1]:
            told = _Counting(self.emit)
            index.compare(where, indexes[0], indexes[1], told)
            if told.count:
                return
        lines_a, lines_b = words.lines_of(a), words.lines_of(b)
        if lines_a == lines_b:
            # JSON that says the same in other bytes.
            lines_a, lines_b = a.decode(errors="replace").split("\n"), b.decode(errors="replace").split("\n")
        words.compare(where, lines_a, lines_b, self.emit)

    def _signed(self, where: tuple[str, ...], a: bytes, b: bytes) -> tuple[bytes, bytes]:
        """Both texts without the armoured blocks in them, of which the differing ones are told."""
        for one, other in _unlike(*(_ARMOURED.findall(text) for text in (a, b))):
            label = (one[0] or other[0]).decode("ascii")
            note = label if one[0] and other[0] else f"{label}, in {'A' if one[0] else 'B'} alone"
            values = [block[1].decode("ascii", "replace").strip() for block in (one, other)]
            self.emit(Change((*where, label), "signature", values[0], values[1], note, note))
        return _ARMOURED.sub(b"", a), _ARMOURED.sub(b"", b)

    def _containers(  # noqa: PLR0917 (two of everything)
        self, a: Reader, b: Reader, path_a: Path, path_b: Path, where: tuple[str, ...], depth: int
    ) -> bool:
        """Compare two containers; False where they are to be compared as plain files."""
        layers = []
        for reader, side in ((a, "A"), (b, "B")):
            layer, trouble = self._layer(reader)
            if trouble:
                self.emit(Change(where, "limit", line_a=f"{side}'s {reader.kind} is damaged: {trouble}"))
            layers.append(layer)
        told = _Counting(self.emit)
        differing = compare_layers(where, layers[0], layers[1], told)
        single = [layer.single for layer in layers]
        self._descend(a, b, differing, where, depth, all(single), told)
        if not told.count and not (layers[0].members and layers[1].members):
            return False
        if not told.count:
            self._same_members(layers, path_a, path_b, where)
        return True

    def _same_members(self, layers: list[Layer], a: Path, b: Path, where: tuple[str, ...]) -> None:
        squeezed = [layer.header.get("compressor", "") for layer in layers]
        archived = all(layer.kind.startswith(("tar", "cpio", "ar")) for layer in layers)
        packed = layers[0].kind.startswith(("zip", "rpm", "squashfs", "7z"))
        if archived and any(squeezed) and self._unpacked_apart(a, b, where):
            return
        if any(squeezed) or packed:
            names = " and ".join(dict.fromkeys(filter(None, squeezed)))
            self.emit(
                Change(
                    where,
                    "compression",
                    squeezed[0],
                    squeezed[1],
                    f"the contents are the same, as {names or layers[0].kind} they are other bytes",
                )
            )
        elif archived:
            # Fields that no reader tells, such as pax's times of access.
            blob.compare(where, a, b, self.facts, self._emit_as_metadata)
        else:
            blob.compare(where, a, b, self.facts, self.emit)

    def _unpacked_apart(self, a: Path, b: Path, where: tuple[str, ...]) -> bool:
        """Compare what two compressed archives unpack to; whether that differs too, or cannot be read to its end."""
        readers = archive.Reader(a), archive.Reader(b)
        try:
            if _digest(readers[0].unpacked()) == _digest(readers[1].unpacked()):
                return False
            with tempfile.TemporaryDirectory(dir=self.scratch) as name:
                files = Path(name, "a"), Path(name, "b")
                left = [_write(*pair, SPOOLED) for pair in zip(files, (one.unpacked() for one in readers), strict=True)]
                if min(left) < 0:
                    self.emit(Change(where, "limit", line_a=TOO_LARGE))
                else:
                    blob.compare(where, *files, self.facts, self._emit_as_metadata)
        except Damaged as error:
            self.emit(Change(where, "limit", line_a=f"behind its members it is damaged: {error}"))
        return True

    def _emit_as_metadata(self, change: Change) -> None:
        if change.aspect != "limit" and change.a != change.b:
            change = replace(change, aspect="metadata", before="a field between the members")
        self.emit(change)

    def _layer(self, reader: Reader) -> tuple[Layer, str]:
        layer, unpacked = Layer(reader.kind), 0
        try:
            layer.header = reader.header()
            for member, contents in reader.members():
                result = hashlib.sha256()
                for piece in contents:
                    unpacked += len(piece)
                    if unpacked > UNPACKED:
                        raise Damaged(f"it unpacks to more than {UNPACKED >> 30} GiB")
                    if member.kind != "directory":
                        result.update(piece)
                member.digest = result.hexdigest() if member.kind == "file" else ""
                layer.members[member.name] = member
                if len(layer.members) > MEMBERS:
                    raise Damaged(f"it has more than {MEMBERS} members")
        except Damaged as error:
            return layer, str(error)
        except Exception as error:
            # libarchive's errors are of its own kind, and hostile data finds ways into every parser.
            if isinstance(error, MemoryError):
                raise
            return layer, f"{type(error).__name__}: {error}"
        return layer, ""

    def _descend(  # noqa: PLR0917 (two of everything)
        self,
        a: Reader,
        b: Reader,
        differing: list[tuple[Member, Member]],
        where: tuple[str, ...],
        depth: int,
        single: bool,
        told: _Counting,
    ) -> None:
        """Spool the members that differ and compare each pair."""
        if len(differing) > LOOKED_INTO:
            message = f"{len(differing)} members differ: {len(differing) - LOOKED_INTO} of them were not looked into"
            told(Change(where, "limit", line_a=message))
            differing = differing[:LOOKED_INTO]
        if not differing:
            return
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            work = Path(name)
            found_a = self._spool(a, {pair[0].name for pair in differing}, work / "a")
            found_b = self._spool(b, {pair[1].name for pair in differing}, work / "b")
            inner = Inspector(self.facts, self.scratch, told, self.note)
            for member_a, member_b in differing:
                step = (*where, _step(where, member_a.name, single))
                self.note(Inner(step, member_a.digest, member_b.digest))
                files = found_a.get(member_a.name), found_b.get(member_b.name)
                if files[0] is None or files[1] is None:
                    told(Change(step, "limit", line_a=TOO_LARGE))
                    continue
                before = told.count
                inner.pair(files[0], files[1], step, depth + 1)
                if told.count == before:
                    told(Change(step, "limit", line_a=NOTHING_UNDERSTOOD))
                files[0].unlink()
                files[1].unlink()

    def _spool(self, reader: Reader, wanted: set[str], directory: Path) -> dict[str, Path]:
        directory.mkdir()
        found: dict[str, Path] = {}
        left = SPOOLED
        try:
            for member, contents in reader.members():
                if member.name not in wanted or member.kind != "file":
                    continue
                # Names of members are never names on disk: they may lead anywhere.
                path = directory / str(len(found))
                left = _write(path, contents, left)
                if left < 0:
                    path.unlink()
                    break
                found[member.name] = path
                if len(found) == len(wanted):
                    break
        except Damaged:
            pass  # told when the digests were taken
        except Exception as error:
            if isinstance(error, (MemoryError, OSError)):
                raise
        return found


class _Counting:
    """An Emit that counts what passes through."""

    def __init__(self, emit: Emit) -> None:
        self._emit, self.count = emit, 0

    def __call__(self, change: Change) -> None:
        self.count += 1
        self._emit(change)


def _step(where: tuple[str, ...], name: str, single: bool) -> str:
    """What a member is called on the way in: of a single compressed file, that file's name without the suffix."""
    if single and where:
        return re.sub(r"\.(?:gz|xz|bz2|zst|lz4|lz|lzma|lzo|Z)$", "", where[-1].rsplit("/", 1)[-1]) or name
    return name


def _unlike(a: list[Block], b: list[Block]) -> Iterator[tuple[Block, Block]]:
    """Armoured blocks that differ, empty ones for none. Where a bundle has one more, the others have only moved."""
    both = set(a) & set(b)
    alone = [block for block in a if block not in both], [block for block in b if block not in both]
    pairs = zip_longest(*(alone if any(alone) else (a, b)), fillvalue=(b"", b""))
    yield from ((one, other) for one, other in pairs if one != other)


def _digest(pieces: Iterator[bytes]) -> bytes:
    result = hashlib.sha256()
    for piece in pieces:
        result.update(piece)
    return result.digest()


def _write(path: Path, pieces: Iterator[bytes], limit: int) -> int:
    """Write pieces to a file; returns how many bytes are left of `limit`, less than none where it ended the writing."""
    with path.open("wb") as stream:
        for piece in pieces:
            limit -= len(piece)
            if limit < 0:
                break
            stream.write(piece)
    return limit


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4096)


def _may_be_text(head: bytes) -> bool:
    return head.startswith(devicetree.MAGIC) or is_text(head[: head.rfind(b"\n") + 1] or head)


def is_text(data: bytes) -> bool:
    """Whether people are meant to read it: no NUL, and hardly a control character."""
    sample = data[: 1 << 16]
    if b"\0" in sample:
        return False
    controls = sum(sample.count(bytes([code])) for code in range(32) if code not in (9, 10, 12, 13, 27))
    high = sum(byte >= 0x80 for byte in sample)
    try:
        data.decode("utf-8")
        high = 0
    except UnicodeDecodeError:
        pass
    return controls <= len(sample) // 100 and high <= len(sample) // 5


def _encoding(where: tuple[str, ...], a: bytes, b: bytes) -> Change | None:
    if a.replace(b"\r\n", b"\n") == b.replace(b"\r\n", b"\n"):
        return Change(where, "encoding", "", "", "the same text with other line ends")
    readings = [list(_readings(data)) for data in (a, b)]
    for name_a, text_a in readings[0]:
        for name_b, text_b in readings[1]:
            if name_a != name_b and text_a == text_b and a != b:
                return Change(where, "encoding", name_a, name_b, f"the same text as {name_a} in A and {name_b} in B")
    return None


def _readings(data: bytes) -> Iterator[tuple[str, str]]:
    for encoding in ("utf-8", "latin-1", "utf-16"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding != "latin-1" or not any("\x80" <= character <= "\x9f" for character in text):
            yield encoding, text.lstrip("\ufeff")
