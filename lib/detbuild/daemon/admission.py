# SPDX-License-Identifier: MIT
"""What a new session begins with, from whoever asks for it down to the maps."""

from __future__ import annotations

from typing import NamedTuple


class Admission(NamedTuple):
    """Processes go by their numbers in the first pid namespace; ``epoch`` is in seconds since 1970.

    A ``spared`` opener sees the real world, and in a session that ``observes`` every process does. With ``devices`` the
    bytes of random devices are those of the readers' streams. The first clock read of the opener's thread ``tid`` is
    answered with the epoch, whatever else holds for it.
    """

    opener: int
    tid: int
    supervisor: int
    epoch: int
    spared: bool = False
    observes: bool = False
    devices: bool = False
