# SPDX-License-Identifier: MIT
"""Which engine a session gets."""

from __future__ import annotations

from typing import NamedTuple

from detbuild.engine.base import Engine
from detbuild.engine.ebpf import EbpfEngine
from detbuild.engine.service import TracerEngine
from detbuild.errors import EngineUnavailable, SessionError

# In the order in which `auto` prefers them.
ENGINES: tuple[type[Engine], ...] = (EbpfEngine, TracerEngine)
AUTO = "auto"
NAMES = (AUTO, *(engine.name for engine in ENGINES))


class Candidate(NamedTuple):
    """Whether this machine can run an engine; if not, why, and what would change that."""

    name: str
    usable: bool
    reason: str = ""
    remedy: str = ""


def candidates() -> list[Candidate]:
    """Every engine, best first."""
    found = []
    for engine in ENGINES:
        try:
            engine.check()
        except EngineUnavailable as error:
            found.append(
                Candidate(engine.name, False, ". ".join(filter(None, (error.refused, error.cause))), error.remedy)
            )
        else:
            found.append(Candidate(engine.name, True))
    return found


def choose(name: str = AUTO, policy: str = "time") -> type[Engine]:
    """The engine of that name, or the best that works here and holds all of the policy.

    Raises SessionError or PolicyError for an unknown name and EngineUnavailable where no engine works.
    """
    if name not in NAMES:
        raise SessionError(f"there is no engine {name!r}", remedy=f"the known engines are: {', '.join(NAMES)}")
    refusals: list[EngineUnavailable] = []
    for engine in ENGINES:
        if name not in (AUTO, engine.name):
            continue
        try:
            engine.holds(policy)
            engine.check()
        except EngineUnavailable as error:
            refusals.append(error)
        else:
            return engine
    raise refusals[-1]  # the last asks for least, so what it lacks is what to mend
