# SPDX-License-Identifier: MIT
"""What a session does with each read of the outside world: the one table that every engine obeys.

System calls stand in ``detbuild.calls`` and ``detbuild.strict``, programs in ``detbuild.programs``; here is what
engines ask.

A policy is written as a name and single rules added or removed: ``time``, ``strict``, ``observe``, ``strict -random``,
``time +layout +order``. Spellings of one policy are one: ``Policy.parse`` gives each the same name.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from detbuild import calls, outside, strict
from detbuild.calls import ALL_CLOCKS, CONDITIONS, KINDS, WALL_CLOCKS, Treatment
from detbuild.errors import PolicyError

__all__ = [
    "ALL_CLOCKS",
    "BASES",
    "CONDITIONS",
    "KINDS",
    "RULES",
    "VERSION",
    "WALL_CLOCKS",
    "FileRule",
    "Policy",
    "Rule",
    "Treatment",
    "added",
    "files",
    "rules",
    "table",
]

# Enters the task signatures: raise it with every change of a rule that can change a build's output.
VERSION = 8

RULES = tuple(strict.RULES)
BASES = {
    "time": "the wall clocks, and file times later than the epoch",
    "strict": "also " + ", ".join(RULES),
    "observe": "nothing; what strict would fix is reported",
}

# What an engine does at a read. The other kinds keep a wait's length, a file's order, or a program in its session.
_READS = frozenset({"clock", "file times", "random", "order", "identity", "files", "process", "terminal"})
_ASKING = {"window, address or group": "window or address"}  # who sets a terminal's group reads nothing


class Rule(NamedTuple):
    """One system call's rule.

    ``clocks`` are the clock ids that the rule is for, where the call names one; every other clock passes. ``when``
    is one of CONDITIONS: where it does not hold, the call passes. ``kind`` is one of KINDS: what the engine does
    at the call. ``limit`` is what the call still lets through.
    """

    call: str
    treatment: Treatment
    reason: str
    clocks: tuple[int, ...] = ()
    when: str = ""
    kind: str = ""
    limit: str = ""


class FileRule(NamedTuple):
    """What becomes of the reading of one file of the outside world, or of those that a pattern matches.

    ``path`` and ``limit`` are as in ``outside.Files``; ``rule`` is the one of RULES that it goes with.
    """

    path: str
    treatment: Treatment
    reason: str
    rule: str
    limit: str = ""


class Policy(NamedTuple):
    """``rules`` are those of RULES that hold beside the clocks. With ``observes`` nothing is fixed, all reported."""

    rules: frozenset[str] = frozenset()
    observes: bool = False

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Raises PolicyError for an unknown name, and for a rule with neither + nor -."""
        name, *changes = text.split() or [""]
        if name not in BASES:
            raise PolicyError(f"there is no policy {name!r}", remedy=f"the known policies are: {', '.join(BASES)}")
        held = set() if name == "time" else set(RULES)
        for change in changes:
            sign, rule = change[:1], change[1:]
            if sign not in "+-" or rule not in RULES:
                raise PolicyError(
                    f"a policy cannot be changed by {change!r}",
                    remedy=f"put + or - before a rule's name; the known rules are: {', '.join(RULES)}",
                )
            (held.add if sign == "+" else held.discard)(rule)
        return cls(frozenset(held), name == "observe")

    def fixes(self, rule: str) -> bool:
        """Whether one of RULES is held, not only observed."""
        return rule in self.rules and not self.observes

    def __str__(self) -> str:
        """The shortest spelling, of which each policy has one."""
        without = [f"-{rule}" for rule in RULES if rule not in self.rules]
        if self.observes:
            return " ".join(["observe", *without])
        changes = [f"+{rule}" for rule in RULES if rule in self.rules]
        return " ".join(["strict", *without] if len(without) < len(changes) else ["time", *changes])


def _row(name: str, group: calls.Calls) -> Rule:
    clocks = WALL_CLOCKS if group.when == "wall clock" else ()
    return Rule(name, group.treatment, group.reason, clocks, group.when, group.kind, group.limit)


def _observed(rule: Rule) -> Rule:
    """Real, and counted where it is a read. What would leave the session is still refused or held: it must be seen."""
    if rule.treatment is not Treatment.FIXED or rule.kind == "untraced":
        return rule
    if rule.kind not in _READS or rule.when == "group":
        return rule._replace(treatment=Treatment.PASSED, kind="")
    return rule._replace(treatment=Treatment.REPORTED, when=_ASKING.get(rule.when, rule.when))


def added(name: str) -> tuple[Rule, ...]:
    """The rows that one of RULES puts in place of policy time's."""
    return tuple(_row(call, group) for group in strict.RULES[name] for call in group.names)


@functools.cache
def _table(policy: Policy) -> tuple[Rule, ...]:
    others: dict[str, Rule] = {}
    for row in (row for name in RULES if name in policy.rules for row in added(name)):
        # One rule may report what another one fixes.
        if row.call not in others or row.treatment is Treatment.FIXED:
            others[row.call] = row
    rows = [others.get(call) or _row(call, group) for group in calls.TIME for call in group.names]
    return tuple(map(_observed, rows) if policy.observes else rows)


@functools.cache
def _stopping(policy: Policy) -> tuple[Rule, ...]:
    return tuple(row for row in _table(policy) if row.treatment is not Treatment.PASSED)


def table(name: str) -> tuple[Rule, ...]:
    """A policy's rule of every system call. Raises PolicyError for an unknown name."""
    return _table(Policy.parse(name))


def rules(name: str) -> tuple[Rule, ...]:
    """The rules that an engine acts on: every one that is not passed. Raises PolicyError for an unknown name."""
    return _stopping(Policy.parse(name))


def files(name: str) -> tuple[FileRule, ...]:
    """A policy's rule of every file that the table names, the first that matches first. Raises PolicyError."""
    held = Policy.parse(name)
    rows = [
        FileRule(path, group.treatment, group.reason, rule, group.limit)
        for rule, groups in outside.RULES.items()
        if rule in held.rules
        for group in groups
        for path in group.paths
    ]
    if held.observes:
        rows = [row._replace(treatment=Treatment.REPORTED) if row.treatment is Treatment.FIXED else row for row in rows]
    return tuple(rows)
