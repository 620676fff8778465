# SPDX-License-Identifier: MIT
"""ar archives: .deb, .ipk and static libraries. The format is ar(5)'s, with GNU's table of long names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside.member import Damaged, Member, size_of, slice_of

RANK = 10
MAGIC = b"!<arch>\n"
_NAMES = 16 << 20


def opens(head: bytes, path: Path) -> bool:
    return head.startswith(MAGIC)


class Reader:
    kind = "ar archive"

    def __init__(self, path: Path) -> None:
        self._path = path

    def header(self) -> dict[str, str]:
        return {}

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        position, end, names, seen = len(MAGIC), size_of(self._path), b"", dict[str, int]()
        while position + 60 <= end:
            head = b"".join(slice_of(self._path, position, 60))
            if head[58:60] != b"`\n":
                raise Damaged(f"no member header at offset {position}")
            size = _number(head[48:58])
            position += 60
            if position + size > end:
                raise Damaged(f"it ends in the middle of a member, at {end} of {position + size} bytes")
            raw = head[:16].rstrip()
            if raw == b"//":
                names = b"".join(slice_of(self._path, position, min(size, _NAMES)))
            else:
                name = _name(raw, names)
                seen[name] = seen.get(name, 0) + 1
                shown = name if seen[name] == 1 else f"{name}#{seen[name]}"
                member = Member(shown, size=size, mode=_number(head[40:48], 8), uid=_number(head[28:34]),
                                gid=_number(head[34:40]), mtime=_number(head[16:28]))  # fmt: skip
                # The table of symbols restates the objects behind it.
                yield member, iter(()) if name in ("/", "/SYM64/") else slice_of(self._path, position, size)
            position += size + size % 2
        if position < end:
            raise Damaged("bytes behind the last member")


def _number(field: bytes, base: int = 10) -> int:
    text = field.strip() or b"0"
    if not re.fullmatch(rb"-?\d+", text):
        raise Damaged(f"{field!r} is no number")
    try:
        return int(text, base)
    except ValueError as error:
        raise Damaged(f"{field!r} is no number") from error


def _name(raw: bytes, names: bytes) -> str:
    if found := re.fullmatch(rb"/(\d+)", raw):
        start = int(found[1])
        raw = names[start : names.find(b"\n", start)]
    name = raw.removesuffix(b"/") or b"/"
    return name.decode("utf-8", "surrogateescape")
