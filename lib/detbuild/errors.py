# SPDX-License-Identifier: MIT
"""The tree of errors that a user can do something about. Only ``detbuild.cli.main`` turns them into an exit."""

from __future__ import annotations


class DetbuildError(Exception):
    """What was refused, why it probably was, and what to do.

    ``refused`` is one sentence without a full stop; ``cause`` and ``remedy`` are optional sentences of the
    same kind. ``str()`` joins them.
    """

    def __init__(self, refused: str, *, cause: str = "", remedy: str = "") -> None:
        self.refused, self.cause, self.remedy = refused, cause, remedy
        sentences = [text.rstrip(".") for text in (refused, cause, remedy) if text]
        super().__init__(". ".join(text[0].upper() + text[1:] if i else text for i, text in enumerate(sentences)))


class EpochError(DetbuildError):
    """A source of the epoch says something that cannot be a time."""


class PolicyError(DetbuildError):
    """A policy or a rule was named that does not exist."""


class ProtocolError(DetbuildError):
    """A peer sent something that is not a message of this version."""


class SessionError(DetbuildError):
    """A session could not be opened, or ended in another way than its programs did."""


class EngineUnavailable(SessionError):
    """This kernel, container or parent process refuses what the engine needs."""


class EngineDied(SessionError):
    """The engine ended before its session; its programs were killed rather than let go unfixed."""


class DaemonError(DetbuildError):
    """The daemon cannot start: its configuration, its rights or this kernel are not what it needs."""


class CompareError(DetbuildError):
    """Two trees could not be compared at all."""
