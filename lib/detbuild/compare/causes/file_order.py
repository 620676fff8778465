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

_PATHS = re.compile(r"^\W*(?:\w+ )?[\w.+~@%-]*(?:/[\w.+~@%=-]+)+\W*$|^\W*[\w+~-]+\.(?:\w{1,5}|\w+\.\w{1,4})\W*$")
_NAMES = re.compile(
    r"(?:[\w.+~@%-]*/[\w./+~@%=-]+|[\w+~-]+\.(?:[chosdm]|cc|cpp|hpp|py|js|txt|so|ko|html|java|class|conf|list|"
    r"png|mo|rs|go))(?![\w/])"
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
    if sum(bool(_PATHS.match(line) or len(_NAMES.findall(line)) >= 1) for line in lines) > 0.6 * len(lines):
        return f"the same {change.count} lines of file names"
    return None
