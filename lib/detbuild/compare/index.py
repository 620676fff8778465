# SPDX-License-Identifier: MIT
"""A feed's index entry by entry: Packages of .deb and .ipk, and primary, filelists and other of rpm's repodata.

What dpkg-scanpackages and opkg-make-index write is one paragraph a package, with its place in ``Filename``; what
createrepo_c writes is one element ``package`` each. Compared as lines, one package more is a hundred words that nothing
explains, and it shifts those of its neighbours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from detbuild.compare import words
from detbuild.compare.change import Change, Emit
from detbuild.compare.match import settled

TOLD = 1000  # entries of one index that are compared word by word

_PARAGRAPHS = re.compile(r"\n{2,}")
_FILE = re.compile(r"^Filename: *(\S.*)$", re.MULTILINE)
_REPODATA = re.compile(r"\s*(?:<\?xml[^>]*\?>)?\s*<(?:metadata|filelists|otherdata)\s")
_ELEMENT = re.compile(r"<package\b.*?</package>\n?", re.DOTALL)
_LOCATION = re.compile(r"<location\b[^>]*\bhref=\"([^\"]+)\"")
_NAMED = re.compile(r"<package\b[^>]*\bname=\"([^\"]+)\"[^>]*\barch=\"([^\"]+)\"")
_VERSION = re.compile(r"<version\b[^>]*\bver=\"([^\"]*)\"[^>]*\brel=\"([^\"]*)\"")


@dataclass
class Index:
    """``entries`` are (file, text) by the package's file without a build's date; ``rest`` is the text around them."""

    entries: dict[str, tuple[str, str]]
    rest: str


def parse(text: str) -> Index | None:
    """None for what is no index, or has two entries of one name. That of a feed without packages is empty."""
    if not text.strip():
        return Index({}, text)
    if text.startswith("Package:"):
        return _packages(text)
    return _repodata(text) if _REPODATA.match(text) else None


def compare(where: tuple[str, ...], a: Index, b: Index, emit: Emit) -> None:
    """Emit a package that only one index lists as a member, and the words in which the others' entries differ."""
    for key, (name, _entry) in a.entries.items():
        if key not in b.entries:
            emit(Change(where, "member", a=name))
    for key, (name, _entry) in b.entries.items():
        if key not in a.entries:
            emit(Change(where, "member", b=name))
    both = [key for key in a.entries if key in b.entries]
    for x, y in zip(both, (key for key in b.entries if key in a.entries), strict=True):
        if x != y:
            emit(Change(where, "order", a.entries[x][0], b.entries[y][0]))
            break
    words.compare(where, a.rest.split("\n"), b.rest.split("\n"), emit)
    differing = [(a.entries[key][1], b.entries[key][1]) for key in both if a.entries[key][1] != b.entries[key][1]]
    for one, other in differing[:TOLD]:
        words.compare(where, one.split("\n"), other.split("\n"), emit)
    if len(differing) > TOLD:
        emit(Change(where, "limit", line_a=f"more than {TOLD} packages differ: the rest is not looked at"))


def _packages(text: str) -> Index | None:
    paragraphs = _PARAGRAPHS.split(text.strip("\n"))
    files = [_FILE.search(paragraph) for paragraph in paragraphs]
    names = [found[1].strip() for found in files if found]
    return _made(names, paragraphs, "") if len(names) == len(paragraphs) else None


def _repodata(text: str) -> Index | None:
    elements = _ELEMENT.findall(text)
    names = [name for name in map(_rpm, elements) if name]
    return _made(names, elements, _ELEMENT.sub("", text)) if len(names) == len(elements) else None


def _made(names: list[str], entries: list[str], rest: str) -> Index | None:
    found = {settled(name): (name, entry) for name, entry in zip(names, entries, strict=True)}
    return Index(found, rest) if len(found) == len(names) else None


def _rpm(element: str) -> str:
    """The file of a package: filelists and other have no place of it, and an .rpm's name is made from these."""
    if place := _LOCATION.search(element):
        return place[1]
    named, version = _NAMED.search(element), _VERSION.search(element)
    return f"{named[1]}-{version[1]}-{version[2]}.{named[2]}.rpm" if named and version else ""
