# SPDX-License-Identifier: MIT
"""The time of the build."""

from __future__ import annotations

import re

from detbuild.compare import clock
from detbuild.compare.change import Change, Facts

NAME = "timestamp"
TITLE = "timestamp"
REMEDY = (
    'make the program use SOURCE_DATE_EPOCH, or run the task in a session: INHERIT += "detbuild", and name the task in '
    "DETBUILD_TASKS where it is not in there"
)
RANK = 40

_DATE = re.compile(clock.DATE)
_YEAR = re.compile(r"(?:19[89]|20[0-6])\d")
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:s|ms|us|ns)?")
_SPAN = re.compile(r"(?:uptime|elapsed|duration|took|runtime|monotonic|real|in)\W*$")
_KEY = re.compile(
    r"(?:time|date|epoch|stamp|built|created|modified|clock|now|mtime|ctime|seconds?|version|build|when|year|copyright|generated|at|on)\W*$",
    re.I,
)


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect == "number":
        return " and ".join(clock.spoken(float(value)) for value in (change.a, change.b))
    if change.aspect not in ("text", "header", "member"):
        return None
    a, b = change.a.strip(), change.b.strip()
    if _DATE.fullmatch(a) and _DATE.fullmatch(b) and _plausible(a) and _plausible(b):
        return "two dates or times of day"
    one, other = clock.seconds(a, facts.now), clock.seconds(b, facts.now)
    if one is not None and other is not None and len(a) == len(b):
        hexadecimal = not (a[0].isdigit() and re.fullmatch(r"[\d.]+", a + b))
        named = _KEY.search(change.key) and not re.search(r"id\W*$", change.key)
        if abs(one - other) < (5 if hexadecimal else 30) * clock.YEAR and (
            not hexadecimal or named or abs(one - other) < clock.YEAR / 12
        ):
            return f"{clock.spoken(one)} and {clock.spoken(other)}"
    if _SPAN.search(change.key) and _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b):
        return f"a span of time after the words {change.key.strip()!r}"
    if clock.NAME.fullmatch(a) and clock.NAME.fullmatch(b):
        return "two names of days or months"
    if _YEAR.fullmatch(a) and _YEAR.fullmatch(b):
        return "two years"
    if a.isdigit() and b.isdigit() and _KEY.search(change.key) and _is_near_a_date(change):
        return "a number in a date"
    return _within(a, b, facts)


def _plausible(text: str) -> bool:
    """Eight digits are a date only where they can be one; a time of day has an hour below 24."""
    if found := re.fullmatch(r"(\d{1,2}):(\d{2})(?::\d{2}.*)?", text):
        return int(found[1]) < 24 and int(found[2]) < 60
    return True


def _is_near_a_date(change: Change) -> bool:
    return bool(_DATE.search(change.line_a) or re.search(r"epoch|timestamp|mtime|seconds|time\W*$", change.key))


def _within(a: str, b: str, facts: Facts) -> str | None:
    """Dates inside a longer word, such as image-20261122003000 or libfoo.so.1700000000."""
    pattern = re.compile(rf"(?:19|20)\d{{6}}(?:[T_-]?\d{{4,6}})?|1\d{{9}}(?!\d)|{clock.DATE}")
    if a != b and pattern.sub("@", a) == pattern.sub("@", b) and "@" in pattern.sub("@", a):
        return "dates within a name"
    return None
