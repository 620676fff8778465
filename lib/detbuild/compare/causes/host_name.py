# SPDX-License-Identifier: MIT
"""The name of the machine that built."""

from __future__ import annotations

import re

from detbuild.compare import clock
from detbuild.compare.change import Change, Facts

NAME = "host-name"
TITLE = "host name"
REMEDY = "leave it out, or give a fixed name (KBUILD_BUILD_HOST for the kernel); policy strict fixes it"
RANK = 34

_KEY = re.compile(
    r"(?:host(?:[_ -]?name)?|nodename|node|machine[_ -]?name|fqdn|builder|build[_ -]?(?:host|machine|server)|"
        r"computer(?:name)?|"
    r"built (?:on|at)|compiled on|generated on|(?:made|run|running|done|packaged) on|by [\w.-]+ "
        r"on)[\"')\]]*\W*(?:is|was|name)?\W*$", re.I,
)  # fmt: skip
_HOST = re.compile(r"(?=[\w-]*[A-Za-z])[\w-]+(?:\.[\w-]+)*")
_AT = re.compile(r"[\w.+-]@$")
_UNAME = re.compile(r"\bLinux $")


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect == "header" and _KEY.search(change.key):
        return "the builder's name in the header"
    if change.aspect not in ("text", "header") or not (_HOST.fullmatch(change.a) and _HOST.fullmatch(change.b)):
        return None
    if clock.NAME.fullmatch(change.a):
        return None
    if _AT.search(change.before):
        return "a name after user@"
    if _UNAME.search(change.before):
        return "the second word of `uname -a`"
    if _KEY.search(change.key):
        return f"a name after the words {change.key.strip()!r}"
    return None
