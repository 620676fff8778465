# SPDX-License-Identifier: MIT
"""What the build machine's processor can do, where it went into the code or into a record."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "cpu-features"
TITLE = "CPU features"
REMEDY = "build for a fixed processor: no -march=native or -mtune=native, and tell configure what the target has"
RANK = 42

_FLAG = (
    r"(?:sse\d?(?:_\d)?a?|ssse3|avx(?:2|512\w*|_\w+)?|bmi[12]?|fma\d?|f16c|aes(?:ni)?|pclmul(?:qdq)?|popcnt|"
    r"movbe|rdrand|rdseed|"
    r"adx|sha(?:_ni)?|vaes|vnni|amx\w*|neon|asimd\w*|sve2?|vfpv\d\w*|lzcnt|abm|xsave\w*|mmx|3dnow|tsc\w*|"
    r"constant_tsc|hypervisor)"
)
_MARCH = re.compile(
    r"-m(?:arch|tune|cpu|fpu)=[\w.+-]+|\b(?:x86-64(?:-v[234])?|haswell|skylake\S*|broadwell|znver\d|"
    r"icelake\S*|cascadelake|nehalem|"
    r"sandybridge|ivybridge|westmere|core2|sapphirerapids|alderlake|cortex-a\d+\w*|neoverse-\w+|"
    r"armv[789][\w.+-]*|native)\b"
)
# Each name has to end where a word does: tsctsctsc could be split in more ways than anybody can wait for.
_FLAGS = re.compile(rf"^[\s,+-]*(?:{_FLAG}(?!\w)[\s,+-]*)+$|-m(?:no-)?{_FLAG}", re.I)
_KEY = re.compile(
    r"(?:\bcpu|processor|model name|flags|features|march|mtune|-m|simd|isa|vendor_id|nproc|cores|cpus|threads|"
    r"jobs|parallel)[\w\"' -]*\W*$",
    re.I,
)
_BRAND = re.compile(r"Intel|AMD|EPYC|Xeon|Ryzen|Core\(TM\)|GHz|ARMv|Cortex|Neoverse|GenuineIntel|AuthenticAMD")
_VECTOR = re.compile(
    r"\b(?:[yz]mm\d+|v(?:mov|add|mul|pxor|fmadd|perm|broadcast|zeroupper|insert|extract)\w*|shlx|shrx|sarx|"
    r"andn|mulx|rorx|tzcnt|lzcnt|popcnt)\b"
)


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect == "code":
        return _code(change)
    if change.aspect != "text":
        return None
    if _FLAGS.search(change.a) or _FLAGS.search(change.b):
        return "names of processor features"
    if _MARCH.search(change.a) or _MARCH.search(change.b):
        return "the processor that a compiler was told to build for"
    if bool(_VECTOR.search(change.line_a)) != bool(_VECTOR.search(change.line_b)) and re.search(
        r"objdump", " ".join(change.where)
    ):
        return "instructions that not every processor has, on one side alone"
    if _KEY.search(change.key) and not re.search(r"\d{9}", change.a):
        return f"a value after the words {change.key.strip()!r}"
    if _BRAND.search(change.line_a) and _BRAND.search(change.line_b):
        return "the name of a processor"
    return None


def _code(change: Change) -> str | None:
    found = re.fullmatch(r"vex ([\d.]+) ([\d.]+)", change.before)
    if not found:
        return None
    low, high = sorted((float(found[1]), float(found[2])))
    if high >= 4 and high > 3 * low + 2:
        return f"instructions of AVX or later: {found[1]} in a thousand bytes of A's code, {found[2]} of B's"
    return None
