# SPDX-License-Identifier: MIT
"""A build's own path in command lines, by which it gets into what is made: no policy changes it, the record names it.

A compiler's string, ``-DDIR="/build/here"``, and a substitution, ``sed 's|@GREP@|/build/here/grep|'``, put it there.
As the argument of any other option, or of none, it is where a file is.
"""

from __future__ import annotations

import re

# At an argument's beginning, in the form that /proc/PID/cmdline has: each ends in a null byte.
_STRING = rb"-D\0?\w+=\\?\""
_SUBSTITUTION = rb"(?:-e|--expression=)?\s*s[^\w\s\0\\]"


class Place:
    """``directory`` is where a session was opened; the root of the file system is no place."""

    def __init__(self, directory: str) -> None:
        self._path = directory.encode("utf-8", "surrogateescape") if directory != "/" else b""
        below = rb"[^\0]*" + re.escape(self._path) + rb"(?![\w.-])"
        self._embedded = re.compile(rb"(?:\A|\0)(?:" + _STRING + rb"|" + _SUBSTITUTION + rb")" + below)

    def is_embedded_by(self, command_line: bytes) -> bool:
        """Whether a command line, as /proc/PID/cmdline holds it, puts the place into what the command makes."""
        return bool(self._path) and self._path in command_line and bool(self._embedded.search(command_line))
