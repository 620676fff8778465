# SPDX-License-Identifier: MIT
"""Moments in text: the ways in which programs write down a time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_DAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\.?,?[ \t]+)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?"
_ZONE = r"(?:[ \t]?(?:Z\b|[+-]\d{2}:?\d{2}\b)|[ \t](?:[A-Z]{3,5})\b(?!:))"
_YEAR = r"(?:19|20)\d{2}"
DATE = (
    rf"(?:{_DAY}?(?:\d{{1,2}}[ \t-]+{_MONTH}|{_MONTH}[ \t]+\d{{1,2}})(?:,?[ \t-]+{_YEAR})?"
    rf"(?:,?[ \t]+{_TIME}(?:[ \t]?[AP]M)?(?:{_ZONE})?)?(?:[ \t]+{_YEAR})?"
    rf"|{_YEAR}-[01]\d-[0-3]\d(?:[T \t_-]{_TIME}(?:{_ZONE})?)?"
    rf"|{_YEAR}/[01]?\d/[0-3]?\d(?:[ \t]+{_TIME}(?:{_ZONE})?)?"
    rf"|\d{{1,2}}[/.]\d{{1,2}}[/.](?:{_YEAR}|\d{{2}})\b(?:[ \t]+{_TIME})?"
    rf"|{_TIME}(?:{_ZONE})?"
    rf"|(?<!\w){_YEAR}[01]\d[0-3]\d(?:[T_-]?[0-2]\d[0-5]\d(?:[0-5]\d)?Z?)?(?!\w)"
    rf"|(?<!\w){_YEAR}:[01]\d:[0-3]\d(?:[ \t]+{_TIME})?)"
)
_LAYOUTS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d %b %Y %H:%M:%S",
    "%b %d %H:%M:%S %Y",
    "%b %d %Y %H:%M:%S",
    "%b %d %Y %H:%M",
    "%b %d %Y",
    "%d %b %Y",
    "%d-%b-%Y %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%Y%m%d%H%M",
    "%Y%m%d",
    "%Y:%m:%d %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%H:%M:%S",
)
NAME = re.compile(
    r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?|Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|"
    r"Aug(?:ust)?|Sep(?:tember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?"
)
_FIRST = 315532800  # 1980: no build is older, and no counter that large is likely
YEAR = 366 * 86400


def reading(text: str) -> tuple[datetime, str] | None:
    """The clock's face and the zone's name as they are written, where both can be read; (face, "") without a zone."""
    rest = re.sub(rf"^{_DAY}", "", text.strip())
    zone = ""
    found = re.search(r"(?:[ \t]?(Z|[+-]\d{2}:?\d{2})|[ \t]([A-Z]{3,5}))(?=$|[ \t]+\d{4}$)", rest)
    if found and found[2] not in ("AM", "PM") and ":" in rest:
        zone = found[1] or found[2]
        rest = rest[: found.start()] + rest[found.end() :]
    rest = re.sub(rf"({_MONTH})", lambda month: month[1][:3], rest).replace(",", " ")
    rest = re.sub(r"\.\d+", "", re.sub(r"[ \t]+", " ", re.sub(r"(?<=\d)[T_](?=\d)", " ", rest))).strip()
    rest = re.sub(r"^(\d{8}) (\d{4,6})$", r"\1\2", rest)
    for layout in _LAYOUTS:
        try:
            return datetime.strptime(rest, layout), zone
        except ValueError:
            continue
    return None


def instant(face: datetime, zone: str) -> float | None:
    """Seconds since 1970 where the zone is a number or UTC; None where its name says too little."""
    if zone in ("Z", "UTC", "GMT"):
        offset = timedelta()
    elif re.fullmatch(r"[+-]\d{2}:?\d{2}", zone):
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        offset = timedelta(minutes=-minutes if zone[0] == "-" else minutes)
    else:
        return None
    return face.replace(tzinfo=timezone.utc).timestamp() - offset.total_seconds()


def is_moment(value: float, now: float) -> bool:
    """Whether a number may be seconds since 1970: after 1980, and not more than a year ahead."""
    return _FIRST <= value <= now + YEAR


def seconds(text: str, now: float) -> float | None:
    """A number in text as seconds since 1970, from seconds, milli-, micro- or nanoseconds, or hexadecimal seconds."""
    if re.fullmatch(r"\d{9,10}(?:\.\d+)?", text):
        value = float(text)
    elif re.fullmatch(r"\d{13}|\d{16}|\d{19}", text):
        value = int(text) / 10 ** (len(text) - 10)
    elif re.fullmatch(r"0x[0-9a-fA-F]{8}|[0-9a-fA-F]{8}", text):
        value = float(int(text, 16))
    else:
        return None
    return value if is_moment(value, now) else None


def spoken(value: float) -> str:
    """Seconds since 1970 for people, in UTC."""
    return datetime.fromtimestamp(value, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
