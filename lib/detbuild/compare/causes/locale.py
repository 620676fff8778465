# SPDX-License-Identifier: MIT
"""The language, the sorting rules or the time zone of who built."""

from __future__ import annotations

import re

from detbuild.compare import clock
from detbuild.compare.change import Change, Facts

NAME = "locale"
TITLE = "locale or time zone"
REMEDY = "run it with LC_ALL=C.UTF-8 and TZ=UTC, or export them for the task"
RANK = 20

_QUARTER = 15 * 60  # seconds; every zone is a multiple of it away from UTC
_FARTHEST = 26 * 3600
_NAMED = re.compile(r"^(?:C|POSIX|[a-z]{2,3}_[A-Z]{2})(?:\.[\w-]+)?(?:@\w+)?$")
_ZONE = re.compile(r"^(?:UTC|GMT|[A-Z]{3,5}|[+-]\d{4}|[+-]\d\d:\d\d|[A-Z][a-z]+/[A-Z]\w+|[A-Z]{3,4}[+-]?\d{1,2})$")
_ZONE_KEY = re.compile(r"(?:\btz|time ?zone|zone)\W*$", re.I)
_LANGUAGE_KEY = re.compile(r"(?:lang|lc_\w+|locale|language|charset|codeset|encoding)\W*$", re.I)
_QUOTES = str.maketrans(dict.fromkeys("\u2018\u2019`", "'") | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'))


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect == "encoding":
        return change.line_a
    if change.aspect == "lines":
        return _collation(change)
    if change.aspect != "text":
        return None
    if _LANGUAGE_KEY.search(change.key) or (
        _NAMED.match(change.a) and _NAMED.match(change.b) and "_" in change.a + change.b
    ):
        return "the name of a locale"
    if _ZONE_KEY.search(change.key) and _ZONE.match(change.a) and _ZONE.match(change.b):
        return "the name of a time zone"
    if change.a.translate(_QUOTES) == change.b.translate(_QUOTES):
        return "quotation marks of a language"
    return _separators(change) or _zones(change) or _months(change)


def _zones(change: Change) -> str | None:
    reading_a, reading_b = clock.reading(change.a), clock.reading(change.b)
    if reading_a is None or reading_b is None:
        return None
    (face_a, zone_a), (face_b, zone_b) = reading_a, reading_b
    apart = abs((face_a - face_b).total_seconds())
    instants = clock.instant(face_a, zone_a), clock.instant(face_b, zone_b)
    if zone_a and zone_b and zone_a != zone_b:
        if instants[0] is not None and instants[0] == instants[1]:
            return "one moment in two time zones"
        return f"the time zones {zone_a} and {zone_b}"
    exact = all(re.search(r"\d\d:?\d\d:?\d\d", value) for value in (change.a, change.b))
    if exact and 0 < apart <= _FARTHEST and apart % _QUARTER == 0 and apart % 86400:
        return f"the clocks are {apart / 3600:g} hours apart to the second, as two time zones are"
    return None


def _separators(change: Change) -> str | None:
    bare = [re.sub(r"[.,\u00a0\u202f' ]", "", value) for value in (change.a, change.b)]
    if bare[0] == bare[1] and bare[0].isdigit() and change.a != change.b:
        return "one number, written as in two languages"
    return None


_OTHER_MONTHS = re.compile(
    r"\b(?:Januar|Februar|M(?:ä|ae)rz|Mai|Juni|Juli|Okt(?:ober)?|Dez(?:ember)?|janv|f(?:é|e)vr|mars|avril|juin|juil|ao(?:û|u)t|"
    r"d(?:é|e)c|ene|abr|ago|dic|enero|gennaio|giu|lug|ott|Mo|Di|Mi|Do|Fr|Sa|So|lun|mar|mer|jeu|ven|sam|dim|dom|Montag|"
    r"Dienstag|Mittwoch|Donnerstag|Freitag|Samstag|Sonntag)\b\.?"
)
_ENGLISH_MONTHS = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\b"
)


def _months(change: Change) -> str | None:
    for one, other in ((change.line_a, change.line_b), (change.line_b, change.line_a)):
        if _ENGLISH_MONTHS.search(one) and _OTHER_MONTHS.search(other) and not _OTHER_MONTHS.search(one):
            return "a date in two languages"
    return None


def _collation(change: Change) -> str | None:
    lines = [value.split("\n") for value in (change.line_a, change.line_b)]
    if len(lines[0]) < 2:
        return None
    for one, other in (lines, lines[::-1]):
        if one == sorted(one) and _letters(other) == sorted(_letters(other)):
            return "sorted by bytes on one side and by a language's rules on the other"
    return None


def _letters(lines: list[str]) -> list[str]:
    return [re.sub(r"[^\w]|_", "", line).casefold() for line in lines]
