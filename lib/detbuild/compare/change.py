# SPDX-License-Identifier: MIT
"""One place where two artefacts differ: as small as it could be narrowed down, with both values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

# Characters of a value that are kept as evidence: enough to recognise it, too few to fill a report.
SHOWN = 200
# Characters that a cause is asked about: of what stands around a value, and of lines that changed places.
LINE, LINES = 2000, 20_000
NOTHING_UNDERSTOOD = "its bytes differ, and nothing that is understood in them does"


@dataclass(frozen=True)
class Change:
    """``where`` are the steps into the artefact, outermost first; ``aspect`` is one of ASPECTS.

    ``a`` and ``b`` are the two values as text, empty where one side has none. ``line_a`` and ``line_b`` are the text
    around them, ``before`` what stands before the value on its line, ``offset`` bytes from the start of the last step.
    ``count`` is how many alike were seen.
    """

    where: tuple[str, ...]
    aspect: str
    a: str = ""
    b: str = ""
    line_a: str = ""
    line_b: str = ""
    before: str = ""
    offset: int | None = None
    count: int = 1

    @property
    def key(self) -> str:
        """The last words before the value, in lower case: what its writer calls it."""
        return self.before[-60:].lower()

    def trimmed(self) -> Change:
        a, b = _trim(self.a, self.b)
        line_a, line_b = _trim(self.line_a, self.line_b)
        return replace(self, a=a, b=b, line_a=line_a, line_b=line_b, before=self.before[-SHOWN:])

    def bounded(self) -> Change:
        """What a cause is asked about: the values as evidence shows them, and more of what stands around them."""
        size = LINES if self.aspect == "lines" else LINE
        return replace(self.trimmed(), line_a=self.line_a[:size], line_b=self.line_b[:size])

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"where": list(self.where), "aspect": self.aspect, "a": self.a, "b": self.b}
        if self.offset is not None:
            fields["offset"] = self.offset
        if self.line_a or self.line_b:
            fields |= {"line_a": self.line_a, "line_b": self.line_b}
        if self.count > 1:
            fields["count"] = self.count
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Change:
        return cls(**{**fields, "where": tuple(fields["where"])})


# What a change can be about.
ASPECTS = (
    "text",  # a word of a text, or of a string in a binary
    "number",  # an integer in a binary
    "bytes",  # anything else in a binary: sizes, entropy and share in words
    "lines",  # the same lines, or the same words on a line, in another order
    "order",  # the same members of an archive in another order
    "metadata",  # what a container says of a member; `before` names the field
    "header",  # what a container says of itself; `before` names the field
    "member",  # a member that only one side has
    "compression",  # the same contents, compressed into other bytes
    "encoding",  # the same text in another character set or with other line ends
    "symbols",  # the same symbols of an object file in another order
    "sections",  # the same sections of an object file in another order
    "build-id",  # a digest that a linker made of an object file
    "debuglink",  # the checksum of a file of debug information
    "code",  # machine code
    "signature",  # what a key made
    "limit",  # something that was not looked into, and why
)


@dataclass(frozen=True)
class Facts:
    """What is known of the two builds: ``root_a`` and ``root_b`` are the directories that they happened in, if they
    differ; ``now`` is seconds since 1970, so that a number can be told to be a time. ``name`` is the artefact's own.
    """

    root_a: str = ""
    root_b: str = ""
    now: float = 0.0
    name: str = ""

    def steps(self, change: Change) -> tuple[str, ...]:
        """The names on the way to a change, the artefact's own first."""
        return (self.name, *change.where)

    @classmethod
    def of(cls, a: str, b: str, now: float) -> Facts:
        """From the paths of two trees: without their common end they are the two places of the build."""
        parts_a, parts_b = a.rstrip("/").split("/"), b.rstrip("/").split("/")
        while parts_a and parts_b and parts_a[-1] == parts_b[-1]:
            parts_a.pop()
            parts_b.pop()
        return cls("/".join(parts_a), "/".join(parts_b), now)


@dataclass(frozen=True)
class Inner:
    """A file inside an artefact whose contents differ: its place and its two SHA-256 digests."""

    where: tuple[str, ...]
    digest_a: str
    digest_b: str


Emit = Callable[[Change], None]


@dataclass
class Collected:
    """An Emit that keeps what it is given."""

    changes: list[Change] = field(default_factory=list)

    def __call__(self, change: Change) -> None:
        self.changes.append(change)


def beginning(a: str, b: str, size: int) -> int:
    """Where `size` characters of two texts begin that show a difference: at 0, unless the first one is farther in."""
    if a == b or max(len(a), len(b)) <= size:
        return 0
    common = _common(a, b)
    return common - size // 4 if common > size // 2 else 0


def _common(a: str, b: str) -> int:
    """How many characters both texts begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _trim(a: str, b: str) -> tuple[str, str]:
    start = beginning(a, b, SHOWN)
    return _cut(a, start), _cut(b, start)


def _cut(text: str, start: int) -> str:
    text = f"…{text[start : start + SHOWN]}" if start else text
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
