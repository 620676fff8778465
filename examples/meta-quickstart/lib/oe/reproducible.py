"""What a build has without detbuild: the youngest file's time, or the fallback. The names are OE-Core's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def get_source_date_epoch(d: Any, sourcedir: str) -> int:
    """Seconds since 1970. Files that were copied to UNPACKDIR itself bear the time of the copy, and do not count."""
    times = []
    if sourcedir != d.getVar("UNPACKDIR"):
        for root, _, files in os.walk(sourcedir):
            times += [int(os.lstat(os.path.join(root, name)).st_mtime) for name in files]
    return max(times, default=int(d.getVar("SOURCE_DATE_EPOCH_FALLBACK")))


def epochfile_write(source_date_epoch: int, epochfile: str, d: Any) -> None:
    Path(epochfile).parent.mkdir(parents=True, exist_ok=True)
    Path(epochfile).write_text(str(source_date_epoch))


def epochfile_read(epochfile: str, d: Any) -> str:
    """What the file says, kept in the datastore from the first time on."""
    cached = d.getVar("__CACHED_SOURCE_DATE_EPOCH")
    if not cached:
        there = Path(epochfile)
        cached = there.read_text().strip() if there.exists() else d.getVar("SOURCE_DATE_EPOCH_FALLBACK")
        d.setVar("__CACHED_SOURCE_DATE_EPOCH", cached)
    return str(cached)
