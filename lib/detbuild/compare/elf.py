# SPDX-License-Identifier: MIT
"""Two object files, section by section: which strings, symbols, notes and code differ.

The format is that of the ELF specification (System V gABI) and of binutils' own sections; only what a comparison
needs is read: section headers, notes and symbol tables.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detbuild.compare import blob, words
from detbuild.compare.change import Change, Collected, Emit, Facts

MAGIC = b"\x7fELF"
LIMIT = 256 << 20  # bytes of a file that is taken apart; a larger one is summed up
SECTION = 64 << 20  # bytes of a section once decompressed
_SYMTAB, _NOBITS, _COMPRESSED = 2, 8, 0x800
# What only restates other sections: offsets, lengths and indices that move when those change.
_DERIVED = (
    ".rel",
    ".eh_frame",
    ".dynsym",
    ".dynamic",
    ".gnu.hash",
    ".hash",
    ".gnu.version",
    ".symtab",
    ".strtab",
    ".shstrtab",
    ".plt",
    ".got",
    ".debug_aranges",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_loc",
    ".debug_abbrev",
    ".debug_info",
    ".gnu_debugdata",
    ".init_array",
    ".fini_array",
    ".note.GNU",
    ".group",
    ".debug_addr",
    ".debug_frame",
    ".debug_macro",
    ".debug_pub",
)
_HEX = re.compile(r"[0-9a-f]{12,}")
_CODE = (".text", ".init", ".fini")
_SIGNED = b"~Module signature appended~\n"


class NotElf(Exception):
    """The file claims to be ELF and its headers say otherwise."""


@dataclass(frozen=True)
class Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    entry: int


class Elf:
    """One object file, read whole. Raises NotElf where its headers lead out of it."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 52 or data[:4] != MAGIC or data[4] not in (1, 2) or data[5] not in (1, 2):
            raise NotElf("no ELF header")
        self.data, self._wide, self._order = data, data[4] == 2, "<" if data[5] == 1 else ">"
        try:
            self.sections = self._sections()
        except (struct.error, IndexError) as error:
            raise NotElf(f"its section headers are damaged: {error}") from error

    def _sections(self) -> list[Section]:
        layout, where = ("IIQQQQIIQQ", 40) if self._wide else ("IIIIIIIIII", 32)
        (table,) = struct.unpack_from(self._order + ("Q" if self._wide else "I"), self.data, where)
        size, count, names = struct.unpack_from(self._order + "HHH", self.data, 58 if self._wide else 46)
        if not table or not count:
            return []
        rows = [struct.unpack_from(self._order + layout, self.data, table + n * size) for n in range(count)]
        strings = self.data[rows[names][4] : rows[names][4] + rows[names][5]]
        return [Section(_text(strings, r[0]), r[1], r[2], r[4], r[5], r[6], r[9]) for r in rows]

    def contents(self, section: Section) -> bytes:
        """A section's bytes, decompressed where they are compressed with zlib."""
        if section.kind == _NOBITS:
            return b""
        data = self.data[section.offset : section.offset + section.size]
        if section.flags & _COMPRESSED:
            header = 24 if self._wide else 12
            if data[:4] in (b"\x01\0\0\0", b"\0\0\0\x01"):
                try:
                    return zlib.decompressobj().decompress(data[header:], SECTION)
                except zlib.error:
                    return data
        return data

    @cached_property
    def named(self) -> dict[str, Section]:
        """Sections by name; of several with one name, the later ones carry their number."""
        found: dict[str, Section] = {}
        for number, section in enumerate(self.sections[1:], 1):
            found[f"{section.name}#{number}" if section.name in found else section.name] = section
        return found

    def symbols(self) -> list[str]:
        """The names of the full symbol table in their order."""
        for section in self.sections:
            if section.kind == _SYMTAB and section.entry and section.link < len(self.sections):
                table, names = self.contents(section), self.contents(self.sections[section.link])
                starts = range(0, len(table) - section.entry + 1, section.entry)
                return [_text(names, struct.unpack_from(self._order + "I", table, start)[0]) for start in starts]
        return []

    def build_id(self) -> str:
        note = self.named.get(".note.gnu.build-id")
        return self.contents(note)[16:].hex() if note else ""


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.find(b"\0", offset)].decode("utf-8", "replace")


def build_id(path: Path) -> str:
    """A file's build-id in hexadecimal, or nothing."""
    try:
        return Elf(path.read_bytes()).build_id() if path.stat().st_size <= LIMIT else ""
    except (NotElf, OSError):
        return ""


def compare(where: tuple[str, ...], a: Path, b: Path, facts: Facts, emit: Emit) -> None:
    """Emit what differs between two object files. Raises OSError, and NotElf where one cannot be taken apart."""
    if max(a.stat().st_size, b.stat().st_size) > LIMIT:
        raise NotElf("too large to be taken apart")
    data_a, data_b = (_unsigned(where, path.read_bytes()) for path in (a, b))
    if data_a[1] != data_b[1]:
        emit(Change(where, "signature", _sum(data_a[1]), _sum(data_b[1]), "module signature", "module signature"))
    one, other = Elf(data_a[0]), Elf(data_b[0])
    own = Collected()
    for change in _differences(where, one, other, facts):
        own(change)
        emit(change)
    if not own.changes and data_a[0] != data_b[0]:
        emit(Change((*where, "file header"), "bytes", line_a="bytes outside of all sections differ"))


def _unsigned(where: tuple[str, ...], data: bytes) -> tuple[bytes, bytes]:
    """A kernel module without the signature that sign-file appends, and that signature."""
    if not data.endswith(_SIGNED):
        return data, b""
    (length,) = struct.unpack_from(">I", data, len(data) - len(_SIGNED) - 4)
    start = len(data) - len(_SIGNED) - 12 - length
    return (data[:start], data[start:]) if start > 0 else (data, b"")


def _sum(data: bytes) -> str:
    return f"{len(data)} bytes, {data[:12].hex(' ')}" if data else ""


def _differences(where: tuple[str, ...], a: Elf, b: Elf, facts: Facts) -> Iterator[Change]:
    names_a, names_b = list(a.named), list(b.named)
    differing = [n for n in names_a if n in b.named and a.contents(a.named[n]) != b.contents(b.named[n])]
    telling = False
    for change in _tables(where, a, b):
        telling = True
        yield change
    for name in differing:
        for change in _section((*where, name), name, a.contents(a.named[name]), b.contents(b.named[name]), facts):
            telling = telling or change.aspect not in ("build-id", "debuglink", "code")
            yield change
    base_a, base_b = ([n.partition("#")[0] for n in names] for names in (names_a, names_b))
    if base_a != base_b and not telling:
        if Counter(base_a) == Counter(base_b):
            first = next((x, y) for x, y in zip(base_a, base_b, strict=True) if x != y)
            yield Change(where, "sections", *first, " ".join(base_a), " ".join(base_b))
            return
        only_a, only_b = (sorted((x - y).elements()) for x, y in _both_ways(Counter(base_a), Counter(base_b)))
        collected = Collected()
        if [_HEX.sub("@", name) for name in only_a] == [_HEX.sub("@", name) for name in only_b]:
            for x, y in zip(only_a, only_b, strict=True):
                parts_a, parts_b = _HEX.findall(x), _HEX.findall(y)
                pairs = zip(parts_a, parts_b, strict=True)
                collected.changes += [
                    Change((*where, x), "text", one, other, x, y) for one, other in pairs if one != other
                ]
        else:
            collected.changes += [Change((*where, name), "member", name, "", "section", "section") for name in only_a]
            collected.changes += [Change((*where, name), "member", "", name, "section", "section") for name in only_b]
        telling = bool(collected.changes)
        yield from collected.changes
    if not telling:
        yield from _rest(where, a, b, differing, facts)


def _both_ways(a: Counter[str], b: Counter[str]) -> tuple[tuple[Counter[str], Counter[str]], ...]:
    return (a, b), (b, a)


def _tables(where: tuple[str, ...], a: Elf, b: Elf) -> Iterator[Change]:
    """The symbol table: the same names in another order, or other names."""
    names_a, names_b = a.symbols(), b.symbols()
    if names_a == names_b:
        return
    if Counter(names_a) == Counter(names_b):
        first = next((x, y) for x, y in zip(names_a, names_b, strict=True) if x != y)
        yield Change((*where, ".symtab"), "symbols", *first, " ".join(names_a), " ".join(names_b))
        return
    count_a, count_b = Counter(names_a), Counter(names_b)
    collected = Collected()
    only_a, only_b = (sorted((x - y).elements()) for x, y in ((count_a, count_b), (count_b, count_a)))
    words.compare((*where, ".symtab"), only_a, only_b, collected)
    yield from collected.changes


def _section(where: tuple[str, ...], name: str, a: bytes, b: bytes, facts: Facts) -> Iterator[Change]:
    if name == ".note.gnu.build-id":
        yield Change(where, "build-id", a[16:].hex(), b[16:].hex())
    elif name == ".gnu_debuglink":
        yield Change(where, "debuglink", a[-4:].hex(), b[-4:].hex())
    elif name.startswith((*_DERIVED, *_CODE)):
        return
    else:
        collected = Collected()
        strings = [blob.strings(data) for data in (a, b)]
        if name == ".dynstr" and strings[0] != strings[1] and Counter(strings[0]) == Counter(strings[1]):
            first = next((x, y) for x, y in zip(*strings, strict=True) if x != y)
            yield Change(where, "symbols", *first)
            return
        words.compare(where, strings[0], strings[1], collected)
        if not collected.changes:
            collected.changes.extend(_plain(where, a, b, facts))
        yield from collected.changes


def _plain(where: tuple[str, ...], a: bytes, b: bytes, facts: Facts) -> Iterator[Change]:
    """Data without strings: integers that are moments, or a sum."""
    summary, runs = blob.summarise(a, b)
    if len(a) == len(b):
        found = list(blob.numbers(where, a, b, runs, facts))
        if found and len(found) == len(runs):
            yield from found
            return
    yield Change(
        where,
        "bytes",
        a[max(summary.first, 0) :][:16].hex(" "),
        b[max(summary.first, 0) :][:16].hex(" "),
        str(summary),
        "",
        blob.entropies(summary),
        summary.first,
    )


def _rest(where: tuple[str, ...], a: Elf, b: Elf, differing: list[str], facts: Facts) -> Iterator[Change]:
    """Where nothing telling differs: code and derived sections themselves."""
    code = [name for name in differing if name.startswith(_CODE)]
    for name in code:
        x, y = a.contents(a.named[name]), b.contents(b.named[name])
        summary, _runs = blob.summarise(x, y)
        constants = constant(x, y)
        yield Change((*where, name), "code", *constants, str(summary), "", features(x, y), summary.first)
    if code:
        return
    for name in differing:
        if name.startswith(_DERIVED):
            x, y = a.contents(a.named[name]), b.contents(b.named[name])
            yield from _plain((*where, name), x, y, facts)


def constant(a: bytes, b: bytes) -> tuple[str, str]:
    """Where code of one length differs in one small integer alone: both values. Empty where it does not."""
    if len(a) != len(b):
        return "", ""
    _summary, runs = blob.summarise(a, b)
    pairs = {(int.from_bytes(a[s : s + 4], "little"), int.from_bytes(b[s : s + 4], "little")) for s, _e in runs}
    small = {(x & 0xFFFF, y & 0xFFFF) for x, y in pairs} if len(runs) < 8 else set()
    if len(pairs) == 1:
        x, y = pairs.pop()
        return str(x), str(y)
    if len(small) == 1:
        x, y = small.pop()
        return str(x), str(y)
    return "", ""


def features(a: bytes, b: bytes) -> str:
    """How often x86 code has the prefixes of AVX and later (VEX, EVEX), in a thousand bytes of each side."""
    rates = [
        1000
        * sum(
            data.count(bytes([0xC5, second])) + data.count(bytes([0xC4, second]))
            for second in (0xE2, 0xE3, 0xE1, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE)
        )
        / max(len(data), 1)
        for data in (a, b)
    ]
    return f"vex {rates[0]:.1f} {rates[1]:.1f}"
