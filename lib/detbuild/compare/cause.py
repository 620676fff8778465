# SPDX-License-Identifier: MIT
"""Why two artefacts differ: a name, the evidence, and what to do about it.

Each cause is one module of ``detbuild.compare.causes``, found by its being there. It has NAME, TITLE (for people),
REMEDY, RANK (lower ones are asked first), and ``judge(change, facts)``, which returns a note on the evidence where
the change is its own, and None where it is not. FOLLOWS says that what it names is always another difference's
consequence, MINOR that it is told after causes in the contents.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from detbuild.compare import causes
from detbuild.compare.change import Change, Facts

UNKNOWN = "unknown"
EVIDENCE = 5  # pieces of evidence kept for one cause of one artefact


@dataclass(frozen=True)
class Evidence:
    """``note`` is what the cause made of the values of ``change``."""

    change: Change
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**self.change.to_dict(), "note": self.note}


@dataclass
class Cause:
    """One cause in one artefact. ``count`` are the places, of which ``evidence`` holds the first few.

    ``follows`` says whether this is the consequence of another difference, and ``origin`` of which, where it is known.
    """

    name: str
    evidence: list[Evidence] = field(default_factory=list)
    count: int = 0
    origin: str = ""

    @property
    def title(self) -> str:
        return str(modules()[self.name].TITLE)

    @property
    def remedy(self) -> str:
        return str(modules()[self.name].REMEDY)

    @property
    def follows(self) -> bool:
        return bool(self.origin) or bool(getattr(modules()[self.name], "FOLLOWS", False))

    @property
    def weight(self) -> tuple[bool, bool, bool, int, int]:
        """Sorts causes of one artefact: what others follow from comes first, what is known before what is not."""
        module = modules()[self.name]
        return (
            self.follows,
            bool(getattr(module, "MINOR", False)),
            self.name == UNKNOWN,
            -self.count,
            int(module.RANK),
        )

    def add(self, change: Change, note: str) -> None:
        self.count += change.count
        if len(self.evidence) < EVIDENCE:
            self.evidence.append(Evidence(change.trimmed(), note))


@cache
def modules() -> dict[str, ModuleType]:
    """Every cause by its name, in the order in which they are asked."""
    names = [module.name for module in pkgutil.iter_modules(causes.__path__)]
    found = [importlib.import_module(f"{causes.__name__}.{name}") for name in names]
    return {module.NAME: module for module in sorted(found, key=lambda module: (module.RANK, module.NAME))}


def judge(change: Change, facts: Facts) -> tuple[str, str]:
    """The name of the cause of one change, and its note. Nothing would end this, so what it looks at is bounded."""
    change = change.bounded()
    for name, module in modules().items():
        note = module.judge(change, facts)
        if note is not None:
            return name, str(note)
    raise AssertionError("the cause `unknown` takes every change")


def gather(changes: Iterable[Change], facts: Facts) -> list[Cause]:
    """The causes of one artefact, the first to be looked at first."""
    found: dict[str, Cause] = {}
    for change in changes:
        name, note = judge(change, facts)
        found.setdefault(name, Cause(name)).add(change, note)
    return sorted(found.values(), key=lambda cause: cause.weight)
