# SPDX-License-Identifier: MIT
"""diffoscope's structured output as changes: for the formats that it takes apart and this library does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detbuild.compare import words
from detbuild.compare.change import Change, Collected

NODES = 500  # of one structure


def changes(structure: dict[str, Any] | None) -> list[Change]:
    """Every word in which diffoscope's unified diffs differ (its JSON, version 1)."""
    collected = Collected()
    for number, (where, diff) in enumerate(_diffs(structure or {}, ())):
        if number == NODES:
            break
        lines = diff.split("\n")
        removed = [line[1:] for line in lines if line.startswith("-")]
        added = [line[1:] for line in lines if line.startswith("+")]
        if any(word in where[-1] for word in ("file list", "hexdump", "xxd")):
            continue  # restates what stands elsewhere
        words.compare(where, removed, added, collected)
    return collected.changes


def _diffs(node: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    where = (*above, str(node.get("source1", "")))
    if diff := node.get("unified_diff"):
        yield where[1:] or where, str(diff)
    for child in node.get("details") or ():
        yield from _diffs(child, where)
