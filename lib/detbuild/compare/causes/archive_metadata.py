# SPDX-License-Identifier: MIT
"""What an archive or file system says of its members: owner, mode, time, inode."""

from __future__ import annotations

from detbuild.compare import clock
from detbuild.compare.change import Change, Facts

NAME = "archive-metadata"
TITLE = "archive metadata"
REMEDY = (
    "fix it where the archive is made: `tar --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 "
    "--numeric-owner`, `gzip -n`, "
    "`ar D`, `cpio --reproducible`, `zip -X`, `mksquashfs -all-time -all-root`"
)
RANK = 8
MINOR = True


def judge(change: Change, facts: Facts) -> str | None:
    field = change.before.strip()
    # Of a header, that is what gzip and zip record of the file they were given.
    if change.aspect == "header" and field != "name" and not field.startswith(("mtime", "system", "extra field")):
        return None
    if change.aspect not in ("metadata", "header"):
        return None
    if field == "mtime":
        return f"the time of change is {_moment(change.a)} in A and {_moment(change.b)} in B"
    return f"{field or 'a field'} is {change.a or 'absent'} in A and {change.b or 'absent'} in B"


def _moment(value: str) -> str:
    """An archive may hold any number for a time, also one that is in no year of a calendar."""
    try:
        return clock.spoken(float(int(value))) if value else "none"
    except (ValueError, OverflowError, OSError):
        return value
