# SPDX-License-Identifier: MIT
"""Outside files under a supervisor: a notified open is given a descriptor of ours for a file with fixed content.

What the program opens for itself is counted where it is there to be read: its end is not seen here.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from typing import NamedTuple

from detbuild import policy
from detbuild.audit import FIXED, LEAKED
from detbuild.bpf.layout import Flag
from detbuild.engine.base import Terms
from detbuild.engine.filter import NOT_READING
from detbuild.engine.namespace import Directory, opened
from detbuild.engine.opens import fill, named
from detbuild.engine.outside import Asker, Found, Outside, content, is_device
from detbuild.engine.stream import Stream
from detbuild.linux.notify import Listener, Notification
from detbuild.outside import DEVICES
from detbuild.policy import Rule, Treatment


class Handout(NamedTuple):
    """What became of an open: its name for the record and the outcome, "" where it is none of the table's.

    ``answered``: the caller has what it asked for.
    """

    source: str = ""
    outcome: str = ""
    answered: bool = False


class Asked(NamedTuple):
    """An open to read an outside file: which one, by what name below what directory, and the flags."""

    found: Found
    directory: Directory
    name: bytes
    how: int


class Handouts:
    """The outside files of one session."""

    def __init__(self, terms: Terms, listener: Listener) -> None:
        self._terms, self._listener = terms, listener
        self._outside = Outside(policy.files(terms.policy))

    def asked(self, call: Notification, rule: Rule) -> Asked | None:
        """The outside file that a call opens to read it; None for any other. Raises ProcessLookupError."""
        try:
            descriptor, name, how = named(call.tid, rule.call, call.arguments)
            directory = Directory(call.tid, descriptor)
            found = self._outside.find(directory, name) if name else None
        except ProcessLookupError:
            raise
        except OSError:
            return None  # EFAULT is the caller's own, and the kernel will say so
        if not found or not name or found.rule.treatment is Treatment.PASSED or how & NOT_READING:
            return None
        return Asked(found, directory, name, how)

    def give(self, call: Notification, asked: Asked, flags: int, stream: Stream | None) -> Handout:
        """Answer an open, or let it go on. ``flags`` are BPF's of the caller, ``stream`` its random numbers."""
        try:
            given = self._given(call, asked, flags, stream)
        except ProcessLookupError:
            raise
        except OSError:
            given = Handout()  # EMFILE is the caller's own
        if not given.answered:
            self._listener.proceed(call.ident)
        return given

    def _given(self, call: Notification, asked: Asked, flags: int, stream: Stream | None) -> Handout:
        found, directory, name, how = asked
        real = flags & (Flag.SPARED | Flag.OBSERVED) or found.rule.treatment is Treatment.REPORTED
        if found.rule.rule == "random":
            real = real or flags & Flag.RANDOM_REAL
        ours = None if real else self._made(call.tid, found, stream)
        if ours is not None:
            return Handout(found.source, FIXED, answered=True) if self._hand(call, ours, how) else Handout()
        with opened(directory, name) as place:
            if not place or not os.access(place, os.R_OK):
                return Handout()
            if not real and found.rule.path in DEVICES:
                # BPF rewrites what is read of it. Otherwise a file of that name in a root of the program's own.
                return Handout(found.source, FIXED) if is_device(os.stat(place)) else Handout()
            return Handout(found.source, LEAKED)

    def _made(self, tid: int, found: Found, stream: Stream | None) -> int | None:
        """A descriptor of ours for the file's content; None where it has to be the real one."""
        with contextlib.suppress(OSError):
            made = content(found.rule.path, Asker(tid, self._terms.epoch, self._terms.seed, stream))
            if made is not None:
                ours = os.memfd_create(posixpath.basename(found.source), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                try:
                    fill(ours, made)
                except OSError:
                    os.close(ours)
                    raise
                return ours
        return None

    def _hand(self, call: Notification, ours: int, how: int) -> bool:
        """Whether the caller took it. Raises OSError where it has no room for a descriptor."""
        try:
            return self._listener.give(call.ident, ours, bool(how & os.O_CLOEXEC))
        finally:
            os.close(ours)
