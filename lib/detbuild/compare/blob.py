# SPDX-License-Identifier: MIT
"""Two binaries that nothing here understands: where they differ, as strings, as integers, or summed up.

The sum is bounded, whatever their size: sizes, entropy, first and last differing offset, share of bytes that differ.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from detbuild.compare import clock, words
from detbuild.compare.change import Change, Emit, Facts

CHUNK = 1 << 20
# Bytes of a binary whose strings are read: of a larger one the first so many, and around what differs behind them.
STRINGS = 8 << 20
AROUND = 256  # bytes on each side of what differs, so that a path is read whole
LONG = 4096  # bytes of a run that no string is expected to hold whole
RUNS = 64  # differing runs that are looked at one by one
SAMPLE = 1 << 16  # bytes that an entropy is taken of
HIGH_ENTROPY = 7.0  # bits a byte, for a sample of some KiB; machine code has 5 to 6.5
NOISE = 7.9  # of a full sample: random, compressed or encrypted, so that letters in it are no words
_GAP = re.compile(rb"\0{4,}")
_STRING = re.compile(rb"[\t\x20-\x7e]{4,}")


class Bytes(Protocol):
    """Bytes in memory or in a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


@dataclass(frozen=True)
class Summary:
    """``first`` and ``last`` are offsets in bytes of what differs within the common length, -1 where nothing does."""

    size_a: int
    size_b: int
    differing: int
    first: int
    last: int
    entropy_a: float
    entropy_b: float

    @property
    def share(self) -> float:
        longest = max(self.size_a, self.size_b)
        return (self.differing + abs(self.size_a - self.size_b)) / longest if longest else 0.0

    def __str__(self) -> str:
        where = f"offsets {self.first} to {self.last}, " if self.first >= 0 else "one is the other's beginning, "
        return (
            f"{self.size_a} and {self.size_b} bytes, {where}{self.share:.1%} of bytes differ, "
            f"entropy {self.entropy_a:.2f} and {self.entropy_b:.2f} bits a byte"
        )


def compare(where: tuple[str, ...], a: Path, b: Path, facts: Facts, emit: Emit) -> None:
    """Emit what differs between two files. Raises OSError."""
    with _Opened(a) as data_a, _Opened(b) as data_b:
        summary, runs = summarise(data_a, data_b)
        noise = min(summary.entropy_a, summary.entropy_b) > NOISE and summary.share > 0.5
        same_size = summary.size_a == summary.size_b
        explained = not noise and _strings(where, data_a, data_b, _spans(runs if same_size else []), emit)
        left: list[tuple[int, int]] = []
        if not noise and same_size and len(runs) < RUNS:
            left = [run for run in runs if not _in_string(data_a, data_b, run)]
            found = list(numbers(where, data_a, data_b, left, facts))
            for change in found:
                emit(change)
            if len(found) == len(left) and (found or explained):
                return
        if noise or left or not explained or max(summary.entropy_a, summary.entropy_b) > HIGH_ENTROPY:
            emit(
                Change(
                    where,
                    "bytes",
                    _hex(data_a, summary.first),
                    _hex(data_b, summary.first),
                    str(summary),
                    "",
                    entropies(summary),
                    summary.first,
                )
            )


def entropies(summary: Summary) -> str:
    return (
        f"entropy {min(summary.entropy_a, summary.entropy_b):.2f} share {summary.share:.4f} bytes {summary.differing}"
    )


def summarise(a: Bytes, b: Bytes) -> tuple[Summary, list[tuple[int, int]]]:
    """The summary, and the first RUNS differing runs as (start, end)."""
    common = min(len(a), len(b))
    differing, first, last = 0, -1, -1
    runs: list[tuple[int, int]] = []
    for start in range(0, common, CHUNK):
        x, y = a[start : min(start + CHUNK, common)], b[start : min(start + CHUNK, common)]
        if x == y:
            continue
        # One big XOR is what Python does fastest; its zero bytes are what is equal.
        mixed = (int.from_bytes(x, "big") ^ int.from_bytes(y, "big")).to_bytes(len(x), "big")
        differing += len(mixed) - mixed.count(0)
        begin = len(mixed) - len(mixed.lstrip(b"\0"))
        first = start + begin if first < 0 else first
        last = start + len(mixed.rstrip(b"\0")) - 1
        if len(runs) < RUNS:
            runs += _runs(mixed, start)
    del runs[RUNS:]
    span = (max(first, 0), last + 1 if first >= 0 else common)
    summary = Summary(len(a), len(b), differing, first, last, _entropy(a, span), _entropy(b, span))
    return summary, runs


def _runs(mixed: bytes, offset: int) -> list[tuple[int, int]]:
    """Where bytes differ, as (start, end); what is less than four equal bytes apart is one run."""
    found, start = [], len(mixed) - len(mixed.lstrip(b"\0"))
    for gap in _GAP.finditer(mixed, start):
        found.append((offset + start, offset + gap.start()))
        start = gap.end()
        if len(found) >= RUNS:
            return found
    if start < len(mixed.rstrip(b"\0")):
        found.append((offset + start, offset + len(mixed.rstrip(b"\0"))))
    return found


def _entropy(data: Bytes, span: tuple[int, int]) -> float:
    """Shannon's, of a sample from the span that differs, in bits a byte."""
    start, end = span
    if len(data) <= start:
        return 0.0
    return shannon(data[start : min(max(end, start + 1), start + SAMPLE, len(data))])


def shannon(sample: bytes) -> float:
    if not sample:
        return 0.0
    return -sum(n / len(sample) * math.log2(n / len(sample)) for n in Counter(sample).values())


def strings(data: bytes) -> list[str]:
    return [found.decode("ascii") for found in _STRING.findall(data)]


def _spans(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where strings are read, as (start, end): the beginning, and around the short runs that differ behind it."""
    spans = [(0, STRINGS)]
    for start, end in runs:
        if end - start > LONG:
            continue
        if start - AROUND <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], end + AROUND)
        else:
            spans.append((start - AROUND, end + AROUND))
    return spans


def _strings(where: tuple[str, ...], a: Bytes, b: Bytes, spans: list[tuple[int, int]], emit: Emit) -> bool:
    """Emit the differing words of both sides' strings; whether there were any worth telling."""
    # Random bytes hold short strings too: one that has none of a word's marks says nothing.
    told = False

    def pass_on(change: Change) -> None:
        nonlocal told
        if change.aspect == "text" and not _is_telling(change):
            return
        told = told or change.aspect != "limit"
        emit(change)

    found = [[text for start, end in spans for text in strings(data[start:end]) if _is_wordy(text)] for data in (a, b)]
    words.compare(where, found[0], found[1], pass_on)
    return told


def _is_wordy(text: str) -> bool:
    """Whether a string looks like somebody's words, rather than like four bytes that happen to be letters."""
    good = sum(character.isalnum() or character in " /._-:" for character in text)
    return len(text) >= 6 and good >= 0.85 * len(text)


def _is_telling(change: Change) -> bool:
    return max(len(change.line_a), len(change.line_b)) >= 6


def _in_string(a: Bytes, b: Bytes, run: tuple[int, int]) -> bool:
    """Whether a run lies within a string on both sides, and so was told already."""
    start, end = run
    if end - start > LONG:
        return False
    for data in (a, b):
        around = data[max(0, start - AROUND) : end + AROUND]
        inside = range(start - max(0, start - AROUND), end - max(0, start - AROUND))
        spans = [range(*found.span()) for found in _STRING.finditer(around) if _is_wordy(found[0].decode("ascii"))]
        if not any(inside.start >= span.start and inside.stop <= span.stop for span in spans):
            return False
    return True


def numbers(where: tuple[str, ...], a: Bytes, b: Bytes, runs: list[tuple[int, int]], facts: Facts) -> Iterator[Change]:
    """Runs that are integers of 4 bytes on both sides which may be moments; others are left to the summary."""
    for start, end in runs:
        if end - start > 4:
            continue
        for order in ("little", "big"):
            found = next(_moments(a, b, (start, end), order == "little", facts), None)
            if found:
                offset, x, y = found
                yield Change(
                    where,
                    "number",
                    str(x),
                    str(y),
                    f"{order}-endian integer at offset {offset}",
                    f"{order}-endian integer at offset {offset}",
                    "time ",
                    offset,
                )
                break


def _moments(a: Bytes, b: Bytes, run: tuple[int, int], little: bool, facts: Facts) -> Iterator[tuple[int, int, int]]:
    start, end = run
    # A time that moves on changes its low bytes: in a little-endian one, those come first.
    for offset in range(start, end - 5, -1) if little else range(end - 4, start + 1):
        if offset < 0 or offset + 4 > len(a) or not (offset <= start and end <= offset + 4):
            continue
        x, y = (int.from_bytes(data[offset : offset + 4], "little" if little else "big") for data in (a, b))
        if _is_second(x, facts.now) and _is_second(y, facts.now) and abs(x - y) < 30 * clock.YEAR:
            yield offset, x, y


def _is_second(value: int, now: float) -> bool:
    # Bytes beside zeroes look like a moment at a whole 18 hours; a real one hardly ever is.
    return clock.is_moment(value, now) and value % 0x10000 != 0


def _hex(data: Bytes, offset: int) -> str:
    return data[max(offset, 0) : max(offset, 0) + 16].hex(" ")


class _Opened:
    """A file's bytes, read where they are asked for: mapping it would count its size against the memory limit."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _step = part.indices(self._size)
        return os.pread(self._descriptor, max(end - start, 0), start)
