# SPDX-License-Identifier: MIT
"""The directory in which the build happened."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "build-path"
TITLE = "build path"
REMEDY = (
    "pass -ffile-prefix-map (OE-Core's DEBUG_PREFIX_MAP) to every compiler, use relative paths, and replace what a "
    "generator writes; buildpaths in WARN_QA names the files"
)
RANK = 30

_ABSOLUTE = re.compile(r"(?<![\w.])/[\w.+~@%=-]+(?:/[\w.+~@%=-]+)*")
_TEMPORARY = re.compile(r"^(?:tmp\.?\w{6,}|cc\w{6}(?:\.\w+)?|tmp[\w-]{6,}|_MEI\w+|conftest.*|.*\.[A-Za-z0-9]{6})$")


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect not in ("text", "member"):
        return None
    if _known(facts) and facts.root_a in change.a and facts.root_b in change.b:
        return f"{facts.root_a} and {facts.root_b} are where the two builds stand"
    paths_a, paths_b = _ABSOLUTE.findall(change.a), _ABSOLUTE.findall(change.b)
    if "://" in change.a + change.b:
        return None
    if not paths_a and not paths_b:
        return _dashed(change)
    if not (paths_a and paths_b):
        return _one_sided(change, facts)
    a, b = paths_a[0].strip("/").split("/"), paths_b[0].strip("/").split("/")
    if a[:1] == ["proc"] or b[:1] == ["proc"]:
        return None
    if _is_temporary_name(a, b):
        return None
    if a == b:
        return None
    same_end = a[-1] == b[-1]
    deep = min(len(a), len(b)) >= 2
    return f"two absolute paths{' to one name' if same_end else ''}" if same_end or deep else None


def _known(facts: Facts) -> bool:
    """Whether the two builds' directories are told, and say more than a slash or a letter."""
    return facts.root_a != facts.root_b and min(len(facts.root_a), len(facts.root_b)) > 3


def _is_temporary_name(a: list[str], b: list[str]) -> bool:
    """Whether only the last name differs, and is one that mktemp(3) makes."""
    return a[:-1] == b[:-1] and bool(_TEMPORARY.match(a[-1]) and _TEMPORARY.match(b[-1]))


def _one_sided(change: Change, facts: Facts) -> str | None:
    """A path on one side, and a relative one, or a mapped one, on the other."""
    path, other = (change.a, change.b) if change.a.startswith("/") else (change.b, change.a)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    if other and other.rstrip("/").rsplit("/", 1)[-1] == name:
        return "an absolute path on one side alone"
    return None


def _dashed(change: Change) -> str | None:
    """Relative paths through a directory named after the build, such as ../../build-a/src."""
    a, b = change.a.split("/"), change.b.split("/")
    if len(a) > 2 and len(b) > 2 and a[0] == b[0] == ".." and a[-1] == b[-1]:
        return "two relative paths to one name"
    return None
