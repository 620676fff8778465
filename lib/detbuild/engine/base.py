# SPDX-License-Identifier: MIT
"""What every engine offers."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from detbuild import policy as policies
from detbuild import programs


class Terms:
    """What a session holds its programs to.

    ``epoch`` is in seconds since 1970-01-01 UTC. With ``spare_root`` the process that opens the session keeps the
    real values itself, and its reads are reported as leaks: a BitBake task's own Python. ``rules`` are the user's
    own rows of the programs' table, as dicts; they come before the built-in ones. ``policy`` may be spelt in any way,
    and is kept in one. ``seed`` is any text: sessions of one epoch and different seeds get different random numbers.
    Raises PolicyError for an unknown policy, ValueError for an epoch that is no time.
    """

    __slots__ = ("epoch", "policy", "rules", "seed", "spare_root")

    def __init__(
        self,
        epoch: int,
        policy: str = "time",
        spare_root: bool = False,
        rules: Iterable[dict[str, Any]] = (),
        seed: str = "",
    ) -> None:
        self.epoch, self.spare_root, self.rules, self.seed = epoch, spare_root, tuple(rules), seed
        self.policy = str(policies.Policy.parse(policy))
        programs.table(self.rules)
        if not isinstance(epoch, int) or not 0 <= epoch < 1 << 62:
            raise ValueError(f"an epoch is a whole number of seconds since 1970, not {epoch!r}")

    def to_dict(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {name: getattr(self, name) for name in self.__slots__}


class Connection(NamedTuple):
    """The client's end of a session: the engine's pid, its start time in clock ticks, and the way to talk to it.

    ``peer`` is None where the session is one that is held around this process already: it goes on, under its own
    terms, and is not ours to close.
    """

    pid: int
    started: int
    peer: socket.socket | None


class Engine(ABC):
    """Enforces sessions. Engines hold no state: a session's state lives in its own engine process or daemon."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def check(cls) -> None:
        """Raise EngineUnavailable, with a remedy, where this machine cannot run the engine."""

    @classmethod
    def holds(cls, policy: str) -> None:
        """Raise EngineUnavailable where the engine does not enforce that policy. Raises PolicyError."""
        policies.Policy.parse(policy)

    @classmethod
    @abstractmethod
    def open(cls, terms: Terms) -> Connection:
        """Put the calling process into a new session, for good: what it forks or executes from now on lives in it.

        Raises EngineUnavailable. Where the kernel refused half way, the caller may be filtered already and
        should end.
        """
