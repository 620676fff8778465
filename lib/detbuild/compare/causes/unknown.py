# SPDX-License-Identifier: MIT
"""What no other cause explains. It is shown like any other."""

from __future__ import annotations

from detbuild.compare.change import Change, Facts

NAME = "unknown"
TITLE = "unknown"
REMEDY = "read the difference itself: `detbuild explain` shows it, and docs/causes.md says how to add a cause"
RANK = 1000


def judge(change: Change, facts: Facts) -> str | None:
    return change.line_a if change.aspect in ("bytes", "limit", "code") else "no cause explains these values"
