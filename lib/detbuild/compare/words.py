# SPDX-License-Identifier: MIT
"""Two texts narrowed down to the words that differ.

A text is split so that a date, a path, a UUID or a version is one word: what a cause is told from is the whole value,
never the two digits of it that changed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from detbuild.compare.change import Change, Emit, beginning
from detbuild.compare.clock import DATE

# Above them, lines are matched by counting rather than by alignment, whose time grows with their square.
ALIGNED_LINES = 2000
ALIGNED_WORDS = 400
# Changes told of one text; the rest is counted.
TOLD = 200
LINE = 4000  # characters of a line that are looked at: its first ones, or those around the first difference
JSON_LIMIT = 16 << 20  # bytes

_URL = r"\w+://[^\s\"'<>]+"
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_PATH = r"(?:\$?[\w.+~@%-]{0,255})(?:/[\w.+~@%=#-]+)+/?"  # a name has no more bytes (NAME_MAX)
# What can be split in one way only: 1.2.3_a_b_c in several would double the time with each of its parts.
_VERSION = r"\d+\.\d+\.\d+(?:_\w+)?(?:[-+~.]\w+)*"
_WORD = re.compile(
    rf"{_URL}|{_UUID}|{DATE}|{_VERSION}(?![/\w])|{_PATH}|0x[0-9a-fA-F]+|\d+(?:[.,]\d+)+|[\w.+-]+|\s+|.", re.DOTALL
)


def split(line: str) -> list[str]:
    return _WORD.findall(line)


def lines_of(data: bytes) -> list[str]:
    """A text's lines; JSON is spread out, so that each value stands on a line with its name."""
    text = data.decode("utf-8", "surrogateescape")
    if len(data) <= JSON_LIMIT and text[:1] in "{[":
        try:
            spread = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
            return [line.rstrip(",") for line in spread.split("\n")]
        except (ValueError, RecursionError):
            pass
    return text.split("\n")


def compare(where: tuple[str, ...], a: Sequence[str], b: Sequence[str], emit: Emit) -> None:
    """Emit the words in which the lines `a` and `b` differ. Lines that only changed places are one change."""
    a, b = _stripped(a, b)
    if Counter(map(_unended, a)) == Counter(map(_unended, b)):
        if a and Counter(a) != Counter(b) and list(map(_unended, a)) == list(map(_unended, b)):
            first = next((x, y) for x, y in zip(a, b, strict=True) if x != y)
            emit(Change(where, "text", first[0], first[1], first[0], first[1]))
        elif a:
            emit(_moved(where, a, b, len(a)))
        return
    told = 0
    for line_a, line_b in _pairs(a, b):
        start = beginning(line_a, line_b, LINE)
        for change in _changes(where, line_a[start : start + LINE], line_b[start : start + LINE]):
            told += 1
            if told > TOLD:
                emit(Change(where, "limit", line_a=f"more than {TOLD} words differ: the rest is not looked at"))
                return
            emit(change)


def _unended(line: str) -> str:
    """A line without the comma that separates it from the next: the last one of a list has none."""
    return line.rstrip(",; ")


def _moved(where: tuple[str, ...], a: Sequence[str], b: Sequence[str], count: int) -> Change:
    first = next(((x, y) for x, y in zip(a, b, strict=True) if x != y), (a[0], b[0]))
    return Change(where, "lines", first[0], first[1], "\n".join(a[:200]), "\n".join(b[:200]), count=count)


def _stripped(a: Sequence[str], b: Sequence[str]) -> tuple[list[str], list[str]]:
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return list(a[start : len(a) - end]), list(b[start : len(b) - end])


def _pairs(a: list[str], b: list[str]) -> Iterator[tuple[str, str]]:
    """Lines that belong together; an empty string stands for no line."""
    if max(len(a), len(b)) > ALIGNED_LINES:
        count_a, count_b = Counter(a), Counter(b)
        a = list((count_a - count_b).elements())
        b = list((count_b - count_a).elements())
        yield from _alike(a, b)
        return
    for tag, a1, a2, b1, b2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag != "equal":
            yield from _alike(a[a1:a2], b[b1:b2])


def _alike(a: list[str], b: list[str]) -> Iterator[tuple[str, str]]:
    """Pair lines of one replaced block: by place where their number is the same, else by their first word."""
    if len(a) != len(b) and len(a) * len(b) <= 10_000:
        b = list(b)
        matched: list[tuple[str, str]] = []
        for line in a:
            shape = _shape(line)
            found = next((other for other in b if _shape(other) == shape), None)
            if found is not None:
                b.remove(found)
            matched.append((line, found or ""))
        alone = [line for line, found in matched if not found]
        yield from ((line, found) for line, found in matched if found)
        if alone and b:
            # Lines that were wrapped elsewhere, because a word in them is longer.
            yield " ".join(" ".join(alone).split()), " ".join(" ".join(b).split())
        else:
            yield from ((line, "") for line in alone)
            yield from (("", line) for line in b)
        return
    yield from zip(a, b, strict=False)
    shorter = min(len(a), len(b))
    yield from ((line, "") for line in a[shorter:])
    yield from (("", line) for line in b[shorter:])


def _shape(line: str) -> str:
    return re.sub(r"[\w./+-]*\d[\w./+-]*|/[\w./+-]+", "0", line[:200])


def _changes(where: tuple[str, ...], a: str, b: str) -> Iterator[Change]:
    words_a, words_b = split(a), split(b)
    if a and b and a != b and Counter(_tight(words_a)) == Counter(_tight(words_b)):
        yield Change(where, "lines", a, b, a, b)
        return
    if max(len(words_a), len(words_b)) > ALIGNED_WORDS:
        words_a, words_b = [a], [b]
    if not (a and b):
        yield Change(where, "text", a, b, a, b)
        return
    matcher = SequenceMatcher(None, words_a, words_b, autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        before = "".join(words_a[:a1])
        if a2 - a1 == b2 - b1:
            for x, y in zip(words_a[a1:a2], words_b[b1:b2], strict=True):
                if x != y:
                    yield Change(where, "text", x, y, a, b, before)
                before += x
        else:
            yield Change(where, "text", "".join(words_a[a1:a2]), "".join(words_b[b1:b2]), a, b, before)


def _tight(words: list[str]) -> list[str]:
    return [word for word in words if not word.isspace()]
