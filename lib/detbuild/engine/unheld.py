# SPDX-License-Identifier: MIT
"""What a call that could be neither changed nor answered leaves in the record: under both engines the same."""

from __future__ import annotations

from detbuild.audit import Gap
from detbuild.policy import Rule

_KINDS = {
    "sleep": "wait not carried over",
    "deadline": "wait not carried over",
    "layout": "layout not kept",
    "told": "number not given back",
    "terminal": "number not given back",
    "write times": "file times not kept",
    "untraced": "child not followed",
}


def gap(rule: Rule, program: str, error: Exception) -> Gap:
    """By the rule's kind; of a call that is answered instead, the program got the kernel's own answer."""
    if rule.kind in _KINDS:
        return Gap(_KINDS[rule.kind], f"{program}: {rule.call}: {error}")
    return Gap("memory out of reach", f"{program} read {rule.call} itself: {error}")
