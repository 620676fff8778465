# SPDX-License-Identifier: MIT
"""Symbols or sections of an object file in the order in which they happened to come."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "symbol-order"
TITLE = "order of symbols or sections"
REMEDY = (
    "give the linker its objects in a fixed order ($(sort $(wildcard *.o)), sorted globs), and check generators that "
    "walk a hash table"
)
RANK = 22

_MAP_LINE = re.compile(r"^\s*(?:0x)?[0-9a-f]{8,16}\s+(?:[A-Za-z]\s+)?[\w.$@]+$|^\s*\.(?:text|data|rodata|bss)\b")


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect in ("symbols", "sections"):
        return f"the same {change.aspect} in another order: {change.a} and {change.b} are the first that moved"
    if change.aspect == "lines":
        lines = [line for line in change.line_a.split("\n") if line.strip()]
        if len(lines) > 1 and all(_MAP_LINE.match(line) for line in lines):
            return "the same lines of a table of symbols"
    return None
