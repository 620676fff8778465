# SPDX-License-Identifier: MIT
"""Two containers' members side by side: which differ, which only one has, in what order they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from detbuild.compare import words
from detbuild.compare.change import Change, Collected, Emit
from detbuild.compare.inside import Member

TOLD = 3  # changes of one kind of metadata that are told one by one; the last one counts the others
_COMPRESSED = re.compile(r"\.(?:gz|xz|bz2|zst|lz4|lz|lzma|lzo|Z)(?=$|#)")
_CHANGING = re.compile(
    r"\d{8,14}(?:[-_T]?\d{4,6})?|[0-9a-f]{12,}|(?<=[._-])\d{3,7}(?=[._-]|$)|(?<=\.build-id/)[0-9a-f]{2}/[0-9a-f]+"
)
_RANDOM = re.compile(r"(?<=[._-])[A-Za-z0-9]{6,10}(?=[./]|$)")


@dataclass
class Layer:
    """One container: what it says of itself, and its members in their order."""

    kind: str
    header: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether it is one compressed file rather than an archive."""
        return list(self.members) == ["contents"]


def compare_layers(where: tuple[str, ...], a: Layer, b: Layer, emit: Emit) -> list[tuple[Member, Member]]:
    """Emit every difference but those in the contents; returns the pairs of members whose contents differ."""
    _headers(where, a.header, b.header, emit)
    pairs = _pairs(where, a, b, emit)
    common_a = [x.name for x, _y in pairs]
    by_name = {y.name: x.name for x, y in pairs}
    common_b = [by_name[name] for name in b.members if name in by_name]
    if common_a != common_b:
        first = next((x, y) for x, y in zip(common_a, common_b, strict=True) if x != y)
        emit(Change(where, "order", *first, "\n".join(common_a[:100]), "\n".join(common_b[:100])))
    _metadata(where, pairs, emit)
    for x, y in pairs:
        if x.kind != y.kind:
            emit(Change((*where, x.name), "metadata", x.kind, y.kind, before="kind"))
        elif x.target != y.target:
            _texts((*where, x.name, "target"), x.target or "", y.target or "", emit)
    return [(x, y) for x, y in pairs if x.kind == y.kind == "file" and x.digest != y.digest]


def _headers(where: tuple[str, ...], a: dict[str, str], b: dict[str, str], emit: Emit) -> None:
    if a.get("compressor") != b.get("compressor"):
        return  # the fields are another compressor's, and that it is another one is told by its name
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name, ""), b.get(name, "")
        if x == y or name == "compressor":
            continue
        if name == "level":
            continue  # told as compression where nothing else is
        if " " in x.strip() or " " in y.strip():
            _texts((*where, name), x, y, emit, f"{name}: ")
        else:
            emit(Change(where, "header", x, y, f"{name}: {x}", f"{name}: {y}", f"{name} "))


def _texts(where: tuple[str, ...], a: str, b: str, emit: Emit, label: str = "") -> None:
    words.compare(where, (label + a).split("\n"), (label + b).split("\n"), emit)


def _pairs(where: tuple[str, ...], a: Layer, b: Layer, emit: Emit) -> list[tuple[Member, Member]]:
    """Members of one name, and then those whose names differ in what changes from build to build."""
    matches = {name: name for name in a.members if name in b.members}
    for normal in (_uncompressed, _undated, _unrandom):
        left_a = [name for name in a.members if name not in matches]
        taken = set(matches.values())
        left_b = [name for name in b.members if name not in taken]
        forms_a, forms_b = ({}, {})  # type: tuple[dict[str, list[str]], dict[str, list[str]]]
        for names, forms in ((left_a, forms_a), (left_b, forms_b)):
            for name in names:
                forms.setdefault(normal(name), []).append(name)
        for form, names in forms_a.items():
            if len(names) == len(forms_b.get(form, ())):
                for x, y in zip(names, forms_b[form], strict=True):
                    matches[x] = y
                    _renamed(where, x, y, emit)
    taken = set(matches.values())
    for name in a.members:
        if name not in matches:
            emit(Change((*where, name), "member", a=name))
    for name in b.members:
        if name not in taken:
            emit(Change((*where, name), "member", b=name))
    return [(a.members[x], b.members[matches[x]]) for x in a.members if x in matches]


def _uncompressed(name: str) -> str:
    return _COMPRESSED.sub("", name)


def _undated(name: str) -> str:
    return _CHANGING.sub("@", _uncompressed(name))


def _unrandom(name: str) -> str:
    return _RANDOM.sub("@", _undated(name))


def _renamed(where: tuple[str, ...], a: str, b: str, emit: Emit) -> None:
    if _uncompressed(a) == _uncompressed(b):
        emit(Change(where, "compression", a, b, f"compressed by one program in A ({a}) and another in B ({b})"))
        return
    if ".build-id/" in a:
        emit(Change((*where, a), "text", a, b, a, b))
        return
    collected = Collected()
    words.compare((*where, a), [a], [b], collected)
    for change in collected.changes:
        emit(change)


def _metadata(where: tuple[str, ...], pairs: list[tuple[Member, Member]], emit: Emit) -> None:
    found: dict[str, list[Change]] = {}
    for x, y in pairs:
        one, other = x.metadata(), y.metadata()
        for name in one.keys() | other.keys():
            if one.get(name) != other.get(name):
                values = one.get(name, ""), other.get(name, "")
                change = Change(
                    (*where, x.name), "metadata", *values, f"{name} {values[0]}", f"{name} {values[1]}", name
                )
                found.setdefault(name, []).append(change)
    # A moved order moves the inodes with it, and a file that grew moves what stands behind it.
    for name, changes in sorted(found.items()):
        for change in changes[:TOLD]:
            emit(change)
        if len(changes) > TOLD:
            last = changes[TOLD]
            emit(
                Change(
                    last.where, "metadata", last.a, last.b, last.line_a, last.line_b, name, count=len(changes) - TOLD
                )
            )
