# SPDX-License-Identifier: MIT
"""Formats of programs that this machine runs by an interpreter (the kernel's admin-guide/binfmt-misc)."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import NamedTuple

_PLACE = Path("/proc/sys/fs/binfmt_misc")
_CONTROLS = ("register", "status")


class Format(NamedTuple):
    """One registered format, known by ``magic`` at ``offset`` under ``mask``, or by the name's ``extension``.

    With ``keeps_name`` the interpreter gets the program's argv[0] as well, behind its path.
    """

    interpreter: bytes
    keeps_name: bool = False
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""
    extension: bytes = b""

    def matches(self, name: bytes, head: bytes) -> bool:
        if self.extension:
            return name.rpartition(b".")[1:] == (b".", self.extension)
        part = head[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return len(part) == len(self.magic) and all(
            (a ^ b) & bits == 0 for a, b, bits in zip(part, self.magic, mask, strict=True)
        )


def parse(text: str) -> Format | None:
    """One file of binfmt_misc; None for a format that is turned off."""
    lines = text.splitlines()
    if not lines or lines[0] != "enabled":
        return None
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    return Format(
        fields["interpreter"].encode(),
        "P" in fields.get("flags:", ""),
        int(fields.get("offset", 0)),
        bytes.fromhex(fields.get("magic", "")),
        bytes.fromhex(fields.get("mask", "")),
        fields.get("extension", "").removeprefix(".").encode(),
    )


@functools.cache
def registered() -> tuple[Format, ...]:
    """The formats that are on, as a session began with them; none where nobody mounted binfmt_misc."""
    found: list[Format] = []
    with contextlib.suppress(OSError):
        if (_PLACE / "status").read_text().strip() == "enabled":
            texts = [path.read_text() for path in sorted(_PLACE.iterdir()) if path.name not in _CONTROLS]
            found += filter(None, map(parse, texts))
    return tuple(found)
