# SPDX-License-Identifier: MIT
"""What one pair of files may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """``seconds`` is wall time; ``memory`` is the address space, in bytes, of each single process."""

    seconds: float = 300.0
    memory: int = 4 << 30
