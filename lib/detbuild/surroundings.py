# SPDX-License-Identifier: MIT
"""What a program is given before it asks for anything: its environment and its umask, one for all under `identity`.

Sources: environ(7), locale(7), tzset(3), umask(2), and BitBake's lib/bb/utils.py for what its tasks get of the caller.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from detbuild.calls import Treatment

UMASK = 0o022
USER = "builder"
USER_NAMES = ("USER", "LOGNAME")

# Locales that are the same on every machine.
_LOCALES = (b"C", b"POSIX", b"C.UTF-8")
_LOCALE, _ZONE = b"LC_ALL=C.UTF-8", b"TZ=UTC0"
_DROPPED = (b"LANG", b"LANGUAGE", b"TZ", b"COLUMNS", b"LINES")


class Surrounding(NamedTuple):
    """A row of the table: a command's variables, or what else it inherits, and what becomes of them."""

    what: str
    treatment: Treatment
    reason: str


TABLE = (
    Surrounding("TZ", Treatment.FIXED, "UTC0, as /etc/localtime is UTC"),
    Surrounding(
        "LC_ALL LANG LANGUAGE LC_*",
        Treatment.FIXED,
        "LC_ALL is C.UTF-8, or as it was where that is C or POSIX; the others are taken away, for it overrules them",
    ),
    Surrounding(
        " ".join(USER_NAMES),
        Treatment.FIXED,
        "where they are set, builder or root, as /etc/passwd tells; so they are in BitBake's tasks",
    ),
    Surrounding("COLUMNS LINES", Treatment.FIXED, "taken away: a terminal's size is fixed where it is asked for"),
    Surrounding("the order of the environment", Treatment.FIXED, "by the bytes of the names"),
    Surrounding("the umask", Treatment.FIXED, "022"),
    Surrounding("HOME PATH SHELL PWD and all others", Treatment.PASSED, "builds find their caches and tools by them"),
)


def user() -> str:
    """The name of this process's user, as a session's programs are told it."""
    return USER if os.geteuid() else "root"


def fixed(environment: Iterable[bytes]) -> list[bytes]:
    """NAME=VALUE strings as TABLE has them; also those without a name, and twofold ones, whose first counts."""
    entries = list(environment)
    users = tuple(name.encode() for name in USER_NAMES)
    locale = next((entry for entry in entries if entry.startswith(b"LC_ALL=")), b"")
    kept = [_LOCALE if locale.partition(b"=")[2] not in _LOCALES else locale, _ZONE]
    for entry in entries:
        name = entry.partition(b"=")[0]
        if name in users:
            kept.append(b"%b=%b" % (name, user().encode()))
        elif name not in _DROPPED and not name.startswith(b"LC_"):
            kept.append(entry)
    return sorted(kept, key=lambda entry: entry.partition(b"=")[0])
