# SPDX-License-Identifier: MIT
"""The same contents, compressed into other bytes: another level, another program, another number of threads."""

from __future__ import annotations

from detbuild.compare.change import Change, Facts

NAME = "compression"
TITLE = "compression parameters"
REMEDY = (
    "fix the level, the number of threads and the version of the compressor (XZ_THREADS, ZSTD_THREADS, pigz "
    "-p): xz and zstd "
    "write other bytes with several threads"
)
RANK = 9
MINOR = True


def judge(change: Change, facts: Facts) -> str | None:
    return change.line_a or "the contents are the same" if change.aspect == "compression" else None
