# SPDX-License-Identifier: MIT
"""Files in the order in which a directory happened to list them."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "file-order"
TITLE = "order of files"
REMEDY = (
    "sort what reads a directory: `sort` under LC_ALL=C behind find, `tar --sort=name`, $(sort $(wildcard "
    "...)) in make, "
    "sorted(os.listdir()) in Python"
)
RANK = 24

# Both in a time that grows as the text does: no two parts beside each other take the same characters.
_NAME_ALONE = re.compile(r"(?:\W*[^\w+~-])?[\w+~-]+\.(?:\w{1,5}|\w+\.\w{1,4})\W*$")
_NAMES = re.compile(
    r"(?:(?<![\w.+~@%-])[\w.+~@%-]*/[\w./+~@%=-]+|[\w+~-]\.(?:[chosdm]|cc|cpp|hpp|py|js|txt|so|ko|html|java|class|conf|"
    r"list|png|mo|rs|go))(?![\w/])"
)


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect == "order":
        return f"the members are the same, the first that moved are {change.a} and {change.b}"
    if change.aspect != "lines":
        return None
    lines = [line for line in change.line_a.split("\n") if line.strip()]
    if len(lines) == 1:
        names = _NAMES.findall(lines[0])
        return "the same file names on one line" if len(names) >= max(2, len(lines[0].split()) // 2) else None
    if sum(bool(_NAMES.search(line) or _NAME_ALONE.match(line)) for line in lines) > 0.6 * len(lines):
        return f"the same {change.count} lines of file names"
    return None
