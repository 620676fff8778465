# SPDX-License-Identifier: MIT
"""What a comparison finds: computing fills it in, presenters visit it, and neither knows the other."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbuild.compare.cause import Cause
from detbuild.compare.change import Inner

if TYPE_CHECKING:
    from detbuild.compare.roots import Root


class Kind(str, Enum):
    """How an artefact differs; the values are those of the JSON report."""

    DIFFERENT = "different"
    ONLY_IN_A = "only-in-a"
    ONLY_IN_B = "only-in-b"

    @property
    def words(self) -> str:
        return self.value.replace("-a", " A").replace("-b", " B").replace("-", " ")


class Ending(str, Enum):
    """How the work on one pair ended. BOUNDED: not asked for a diff, because it would be a large binary's."""

    COMPLETE = "complete"
    BOUNDED = "bounded"
    OVER_TIME = "over-time"
    OVER_MEMORY = "over-memory"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One thing in a tree that is not a directory, as lstat(2) saw it.

    ``path`` is relative to the tree, with undecodable bytes as surrogates (PEP 383). ``size`` is in bytes,
    ``identity`` is (st_dev, st_ino), ``target`` a symbolic link's text, ``device`` a device node's st_rdev, ``times``
    (st_mtime_ns, st_ctime_ns).
    """

    path: str
    mode: int
    size: int
    identity: tuple[int, int]
    target: str = ""
    device: int = 0
    times: tuple[int, int] = (0, 0)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def description(self) -> str:
        names = {
            stat.S_IFREG: "a regular file",
            stat.S_IFLNK: f"a symbolic link to {shown(self.target)}",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: f"a character device {self.device:#x}",
            stat.S_IFBLK: f"a block device {self.device:#x}",
        }
        return names.get(stat.S_IFMT(self.mode), "an unknown kind of file")


@dataclass(frozen=True)
class Difference:
    """What diffoscope said about one pair, in the files it wrote; a format that was not asked for is None.

    ``seconds`` is wall time. The files live as long as the comparison's scratch directory.
    """

    ending: Ending
    seconds: float = 0.0
    detail: str = ""
    text: Path | None = None
    html: Path | None = None
    json: Path | None = None

    def read_text(self) -> str:
        if self.text is None:
            return ""
        # newline="": a carriage return may be the very difference.
        with self.text.open(encoding="utf-8", errors="replace", newline="") as stream:
            return stream.read()

    def structure(self) -> Any:
        """diffoscope's own JSON (its version 1), or None where there is none."""
        if self.json is None:
            return None
        return json.loads(self.json.read_text(encoding="utf-8", errors="replace"))


@dataclass
class Inspected:
    """How far taking a pair apart came: ``seconds`` of wall time, and what stopped it where anything did."""

    ending: Ending = Ending.COMPLETE
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Finding:
    """One artefact that is not the same in both trees, why, and where it came from.

    ``other`` is its path in B where a date in its name makes that another one. ``digests`` are SHA-256 in hexadecimal
    of (A, B), None where sizes alone decided. ``causes`` come most telling first. ``inner`` are the files inside whose
    contents differ, ``owners`` says which (package, recipe) put those that are known by name into an image.
    ``origins`` are the artefacts that this difference follows from, ``culprits`` the programs that leaked, by audit
    records. ``expected`` is the reason that an expectation gives. ``note`` says in words what nothing looks into: a
    change of file type.
    """

    artefact: str
    kind: Kind
    a: Entry | None = None
    b: Entry | None = None
    package: str | None = None
    recipe: str | None = None
    note: str = ""
    digests: tuple[str, str] | None = None
    difference: Difference | None = None
    other: str = ""
    causes: list[Cause] = field(default_factory=list)
    inner: list[Inner] = field(default_factory=list)
    owners: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    origins: list[str] = field(default_factory=list)
    culprits: list[str] = field(default_factory=list)
    expected: str = ""
    inspected: Inspected | None = None

    @property
    def cause(self) -> str | None:
        """The name of the most telling cause; None where nobody looked."""
        return self.causes[0].name if self.causes else None

    @property
    def path_b(self) -> str:
        return self.other or self.artefact

    @property
    def has_two_files(self) -> bool:
        return bool(self.a and self.b and self.a.is_file and self.b.is_file)

    @property
    def follows(self) -> bool:
        """Whether it is the consequence of another finding."""
        return bool(self.origins)

    @property
    def present(self) -> Entry:
        entry = self.a or self.b
        assert entry is not None, "a finding is about something in at least one tree"
        return entry


@dataclass(frozen=True)
class Trouble:
    """Something that could not be compared, and why."""

    path: str
    message: str


@dataclass
class Comparison:
    """The whole result. ``total`` counts the union of both trees; what troubles hid is ``unknown``.

    ``stale`` are expectations that did not occur, or have expired, in words.
    """

    a: Path
    b: Path
    same: int = 0
    total: int = 0
    findings: list[Finding] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    roots: list[Root] = field(default_factory=list)

    @property
    def unexpected(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.expected]

    @property
    def different(self) -> int:
        return sum(finding.kind is Kind.DIFFERENT for finding in self.findings)

    @property
    def missing(self) -> int:
        return len(self.findings) - self.different

    @property
    def unknown(self) -> int:
        return self.total - self.same - len(self.findings)

    @property
    def status(self) -> int:
        """The exit status: 0 all the same or as expected, 1 something differs or an expectation is stale, 2 trouble."""
        return 2 if self.troubles else int(bool(self.unexpected or self.stale))

    def counts(self) -> Iterator[tuple[str, int]]:
        """The closing lines, in their order."""
        yield from (("Same", self.same), ("Different", self.different))
        yield from (("Missing", self.missing), ("Total", self.total))


def shown(name: str) -> str:
    """A name as people read it: printable, on one line, and unambiguous.

    Backslashes are doubled, bytes that are no UTF-8 become ``\\xNN``, and what a terminal would act on is escaped.
    """
    return "".join(_shown(character) for character in name)


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() else ascii(character)[1:-1]
