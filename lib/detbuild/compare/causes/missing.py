# SPDX-License-Identifier: MIT
"""What only one side has."""

from __future__ import annotations

from detbuild.compare.change import Change, Facts

NAME = "missing"
TITLE = "only on one side"
REMEDY = "look at what decides whether it is made: a race, a program or library that the build machine happens to have"
RANK = 90


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect != "member":
        return None
    return f"{change.a} is in A alone" if change.a else f"{change.b} is in B alone"
