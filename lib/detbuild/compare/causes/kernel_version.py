# SPDX-License-Identifier: MIT
"""The kernel that the build ran on."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "kernel-version"
TITLE = "kernel version of the build machine"
REMEDY = "take the target's kernel version instead of `uname -r`, or pass --build/--host to configure"
RANK = 28

_RELEASE = re.compile(r"\d+\.\d+(?:\.\d+)?(?:[-+.][\w.+~-]*)?")
_FLAVOUR = re.compile(
    r"\d+\.\d+(?:\.\d+)?-(?:[\w.]+-)*(?:amd64|arm64|generic|cloud|rt|azure|aws|gcp|lts|default|el\d+|fc\d+|virt|x86_64|microsoft|WSL2|yocto|linuxkit|arch)\b",
    re.I,
)
_KEY = re.compile(
    r"(?:linux|kernel|uname|osrelease|sysname|release|host_os|kver|utsname)[\w\"']*\W*(?:version|release|\S+)?\W*$",
    re.I,
)


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect != "text" or change.a == change.b:
        return None
    a, b = _RELEASE.fullmatch(change.a), _RELEASE.fullmatch(change.b)
    if not (a and b):
        return None
    if _FLAVOUR.search(change.a) or _FLAVOUR.search(change.b):
        return "the release of a distribution's kernel"
    if (
        _KEY.search(change.key)
        and "." in change.a
        and re.search(r"linux|kernel|uname|osrelease|host_os|kver", change.key)
    ):
        return f"a release after the words {change.key.strip()!r}"
    return None
