# SPDX-License-Identifier: MIT
"""The union of two trees, pair by pair, and what can be said of a pair without reading it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from detbuild.compare.collect import Tree
from detbuild.compare.model import Entry, Finding, Kind


@dataclass(frozen=True)
class Pair:
    """The same relative path in both trees; at most one side is None.

    ``other`` is the path in B where the names differ in a date or a task's hash. ``hidden``: the absent side's
    directory could not be listed, so whether it is absent is not known.
    """

    path: str
    a: Entry | None
    b: Entry | None
    hidden: bool = False
    other: str = ""

    @property
    def path_b(self) -> str:
        return self.other or self.path


# A build's date in a name (IMAGE_VERSION_SUFFIX is "-${DATETIME}", 14 digits), and the hash in an sstate archive's
# (SSTATE_PKGNAME in sstate.bbclass), whose first characters are the two directories above it. createrepo_c puts a
# file's own checksum before its name.
_DATE = re.compile(r"(?<!\d)(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[-_T]?\d{4}(?:\d{2})?)?(?!\d)")
_SSTATE = re.compile(r"(?:[0-9a-f]{2}/[0-9a-f]{2}/)?(sstate:[^/]*:)[0-9a-f]{16,}(_\w+\..*)")
_REPODATA = re.compile(r"(?<=repodata/)[0-9a-f]{32,128}(?=-\w)")


def settled(path: str) -> str:
    """A path without what changes from build to build by itself."""
    return _DATE.sub("@", _REPODATA.sub("@", _SSTATE.sub(r"\1@\2", path)))


def match(a: Tree, b: Tree) -> Iterator[Pair]:
    """Every path that either tree has, in the order of their names; those that settle on one name are one pair."""
    renamed = _renamed(a, b)
    taken = set(renamed.values())
    for path in sorted(a.entries.keys() | b.entries.keys()):
        in_a, in_b = a.entries.get(path), b.entries.get(path)
        if in_a is None and path in taken:
            continue
        other = renamed.get(path, "")
        if other:
            in_b = b.entries[other]
        hidden = (in_a is None and a.hides(path)) or (in_b is None and b.hides(path))
        yield Pair(path, in_a, in_b, hidden, other)


def _renamed(a: Tree, b: Tree) -> dict[str, str]:
    """Paths of A alone with those of B alone that settle on the same name, where each side has one such path."""
    forms: list[dict[str, list[str]]] = []
    for one, other in ((a, b), (b, a)):
        found: dict[str, list[str]] = {}
        for path in one.entries.keys() - other.entries.keys():
            if (form := settled(path)) != path:
                found.setdefault(form, []).append(path)
        forms.append(found)
    return {
        paths[0]: forms[1][form][0]
        for form, paths in forms[0].items()
        if len(paths) == len(forms[1].get(form, ())) == 1
    }


def glance(pair: Pair) -> Finding | bool | None:
    """Judge a pair by what lstat(2) said: a finding, True for the same, None where the contents must decide."""
    if pair.a is None or pair.b is None:
        kind = Kind.ONLY_IN_B if pair.a is None else Kind.ONLY_IN_A
        return Finding(pair.path, kind, pair.a, pair.b)
    if stat.S_IFMT(pair.a.mode) != stat.S_IFMT(pair.b.mode):
        return _different(pair, f"{pair.a.description} in A, {pair.b.description} in B")
    if not pair.a.is_file:
        same = (settled(pair.a.target), pair.a.device) == (settled(pair.b.target), pair.b.device)
        return same or _different(pair, f"{pair.a.description} in A, {pair.b.description} in B")
    if pair.a.size != pair.b.size:
        return _different(pair)
    return None


def _different(pair: Pair, note: str = "") -> Finding:
    return Finding(pair.path, Kind.DIFFERENT, pair.a, pair.b, note=note, other=pair.other)
