# SPDX-License-Identifier: MIT
"""What stands inside an artefact: one module a format, found by its being there.

Each has ``opens(head, path)``, whether a file of these first HEAD bytes is of its format, and ``Reader(path)`` with
``header()``, what the container says of itself, and ``members()``, which yields each Member with its contents in
pieces. A reader raises Damaged for what its format does not allow. RANK orders the modules where two could open a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from types import ModuleType

from detbuild.compare.inside.member import HEAD, Damaged, Member, Reader

__all__ = ["HEAD", "Damaged", "Member", "Reader", "opened"]


@cache
def formats() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "member"]
    found = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return sorted(found, key=lambda module: (module.RANK, module.__name__))


def opened(path: Path) -> Reader | None:
    """The reader of the container at `path`; None for what is none. Raises OSError and Damaged."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    for module in formats():
        if module.opens(head, path):
            reader: Reader = module.Reader(path)
            return reader
    return None
