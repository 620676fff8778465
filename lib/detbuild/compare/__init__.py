# SPDX-License-Identifier: MIT
"""Two trees in, findings out: which artefacts differ, and which recipe each comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detbuild.compare.comparison import Comparing, Options

__all__ = ["Comparing", "Options"]


def __getattr__(name: str) -> Any:
    # Late: a worker process needs neither, and starts in half the time without what they import.
    if name in __all__:
        from detbuild.compare import comparison

        return getattr(comparison, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
