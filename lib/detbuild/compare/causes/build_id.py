# SPDX-License-Identifier: MIT
"""A linker's digest of an object file: it differs because something else in it, or in its debug information, does."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "build-id"
TITLE = "build-id, from another difference"
REMEDY = (
    "find what differs in the unstripped file (its -dbg package, or the recipe's package directory): the build-id is "
    "a digest of that, and follows by itself"
)
RANK = 12
FOLLOWS = True

_FILE = re.compile(r"\.build-id/[0-9a-f]{2}(?:/[0-9a-f]+(?:\.debug)?)?$")


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect == "build-id":
        return "the build-id is a digest of the whole file before it was stripped"
    if change.aspect == "debuglink":
        return "the checksum of the file that holds the debug information"
    if change.aspect in ("member", "text") and _FILE.search(change.a or change.b):
        return "the file is named after a build-id"
    return None
