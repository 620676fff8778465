# SPDX-License-Identifier: MIT
"""What a randomised hash table gave out: sets and dictionaries of Python, hashes of Perl, maps of Go."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "hash-seed"
TITLE = "hash seed, or another order that nothing fixes"
REMEDY = (
    "export PYTHONHASHSEED=0 and PERL_HASH_SEED=0 for the task, or sort before writing; where nothing is "
    "hashed, parallel jobs "
    "wrote as they ended"
)
RANK = 26

_HASH = re.compile(r"hash\W*$", re.I)
_NUMBER = re.compile(r"-?\d{12,20}")


def judge(change: Change, facts: Facts) -> str | None:
    if (
        change.aspect == "text"
        and _HASH.search(change.key)
        and _NUMBER.fullmatch(change.a)
        and _NUMBER.fullmatch(change.b)
    ):
        return "what hash() gave for one thing"
    if change.aspect != "lines":
        return None
    if "\n" in change.line_a:
        return f"the same {change.count} lines in another order, sorted on neither side"
    return "the same words on a line in another order"
