# SPDX-License-Identifier: MIT
"""The number of a process."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "process-id"
TITLE = "process id"
REMEDY = "name temporary files and records after something fixed instead of $$ or getpid(); policy strict fixes it"
RANK = 16

_KEY = re.compile(r"(?:\bp?pid|_pid|process(?:[ _-]?id)?|getpid|\$\$|(?:\w*pid))[\"')\]]*\W*(?:is|was)?\W*$", re.I)
_PROC = re.compile(r"/proc/(\d+)(?=/|$)")
_DAEMON = re.compile(r"\w\[$")
_PART = re.compile(r"\d{2,7}")


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect not in ("text", "member"):
        return None
    a, b = _PROC.search(change.a), _PROC.search(change.b)
    if a and b and a[1] != b[1]:
        return f"/proc/{a[1]} and /proc/{b[1]}"
    if _is_number(change.a) and _is_number(change.b):
        if _KEY.search(change.key):
            return f"a number after the words {change.key.strip()!r}"
        if _DAEMON.search(change.key):
            return "a number in brackets after a program's name, as syslog writes it"
    return _named(change)


def _is_number(text: str) -> bool:
    return text.isdigit() and 1 <= len(text) <= 7


def _named(change: Change) -> str | None:
    """Temporary files in the way of ``name.$$``: one number of the size of a process id, the rest the same."""
    if not re.search(
        r"(?:tmp|temp|conf|build|work|log|lock|run|sess|cache|out|script)\w*[._-]?\d{2,7}\b", change.a, re.I
    ):
        return None
    if _PART.sub("#", change.a) != _PART.sub("#", change.b) or change.a == change.b:
        return None
    numbers = [_PART.findall(value) for value in (change.a, change.b)]
    if len(numbers[0]) != len(numbers[1]):
        return None  # a # of its own stands where the other side has a number
    pairs = [(x, y) for x, y in zip(*numbers, strict=True) if x != y]
    if len(pairs) == 1 and all(10 < int(number) <= 4194304 for number in pairs[0]) and not pairs[0][0].startswith("0"):
        return f"{pairs[0][0]} and {pairs[0][1]} in a name as ${{NAME}}.$$ makes it"
    return None
