# SPDX-License-Identifier: MIT
"""The length of the build path, where the path itself is no longer to be seen."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "path-length"
TITLE = "path length"
REMEDY = (
    "build in directories of one length, or map the path before it is measured: __FILE_NAME__ for __FILE__, relative "
    "paths, no padding of RPATHs"
)
RANK = 44

_PADDING = re.compile(r"^[\s.=*#_X0-]+$")


def judge(change: Change, facts: Facts) -> str | None:
    longer = len(facts.root_b) - len(facts.root_a)
    if not longer:
        return None
    if change.aspect in ("text", "code", "header") and change.a.isdecimal() and change.b.isdecimal():
        if int(change.b) - int(change.a) == longer:
            return f"B's directory is longer by {longer} characters, and so is this number"
        if int(change.b) - int(change.a) == -longer:
            return f"B's directory is longer by {longer} characters, and this number less by as many"
    if change.aspect == "text" and _is_padding(change, abs(longer)):
        return f"padding that differs by {abs(longer)} characters, as the directories do"
    return None


def _is_padding(change: Change, longer: int) -> bool:
    """Whether only a run of one character is longer, by as much as the directory is."""
    if _PADDING.match(change.a or " ") and _PADDING.match(change.b or " "):
        return abs(len(change.b) - len(change.a)) == longer
    shapes = [re.sub(r"([=*#_.-])\1+", r"\1", line) for line in (change.line_a, change.line_b)]
    return shapes[0] == shapes[1] and abs(len(change.line_b) - len(change.line_a)) == longer
