# SPDX-License-Identifier: MIT
"""Deterministic builds: decide the epoch, hold it for a process tree, and find what still differs.

BitBake's ``addpylib`` imports this package for every parse, so it imports nothing itself;
``Session`` is resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detbuild.session import Session

__version__ = "0.1.0"
__all__ = ["Session", "__version__"]

# BitBake hashes the functions of the modules named here into the tasks that call them.
# What changes outputs is hashed through variables instead, so that a comment here rebuilds nothing.
BBIMPORTS: list[str] = []


def __getattr__(name: str) -> Any:
    if name == "Session":
        from detbuild.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
