# SPDX-License-Identifier: MIT
"""Random numbers, UUIDs, and names that mktemp(3) made."""

from __future__ import annotations

import itertools
import re

from detbuild.compare.change import Change, Facts

NAME = "random"
TITLE = "random or UUID"
REMEDY = (
    "give a fixed seed or identifier: `mkfs.ext4 -U`, `mkfs.vfat -i`, `uuid5` of a name instead of `uuid4`, "
    "`-frandom-seed` for gcc; policy strict fixes getrandom and /dev/urandom"
)
RANK = 50

_UUID = re.compile(
    r"\{?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\}?|(?:[0-9A-F]{4}-[0-9A-F]{4})"
)
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{8,}")
_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{12,}")
_KEY = re.compile(
    r"(?:rand(?:om)?|seed|nonce|salt|token|uuid|guid|serial|\bid|_id|session|cookie|unique|key|iv|secret|volume)[\w\"')\]]*\W*(?:is|was|=)?\W*$",
    re.I,
)
_TEMPORARY = re.compile(
    r"(?:tmp|temp|cc|XX|conf|scratch|_MEI)[._-]?[A-Za-z0-9_]{6,}(?:\.\w{1,4})?|[\w-]+\.[A-Za-z0-9]{6,10}"
)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,16}")
_SUM = re.compile(r"entropy ([\d.]+) share ([\d.]+) bytes (\d+)")


def judge(change: Change, facts: Facts) -> str | None:  # noqa: PLR0911 (a list of signs)
    if change.aspect in ("bytes", "code"):
        return _bytes(change)
    if change.aspect not in ("text", "header", "member", "number"):
        return None
    a, b = change.a.strip(), change.b.strip()
    if not (a and b):
        return None
    for name, pattern in (("UUID", _UUID), ("address in memory", _ADDRESS)):
        if pattern.fullmatch(a) and pattern.fullmatch(b):
            return f"two values of the shape of a {name}"
    if _KEY.search(change.key):
        return f"a value after the words {change.key.strip()!r}"
    if re.search(_UUID, a) and _UUID.sub("@", a) == _UUID.sub("@", b):
        return "UUIDs within a name"
    if _HEX.fullmatch(a) and _HEX.fullmatch(b) and len(a) == len(b) and (len(a) >= 12 or not (a + b).isdigit()):
        return "two hexadecimal numbers of one length"
    if _TOKEN.fullmatch(a) and _TOKEN.fullmatch(b) and len(a) == len(b) and _mixed(a) and _mixed(b):
        return "two words of one length without meaning"
    return _temporary(a, b) or _fraction(a, b)


def _mixed(text: str) -> bool:
    """Whether letters and digits change places too often for a word of a language."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in text if c.isalnum()]
    return sum(x != y for x, y in itertools.pairwise(kinds)) >= len(kinds) // 4


def _temporary(a: str, b: str) -> str | None:
    names = [[part for part in text.split("/") if part] for text in (a, b)]
    if len(names[0]) != len(names[1]):
        return None
    differing = [(x, y) for x, y in zip(*names, strict=True) if x != y]
    if (
        len(differing) == 1
        and all(_TEMPORARY.fullmatch(name) for name in differing[0])
        and len({len(n) for n in differing[0]}) == 1
    ):
        return "names as mktemp(3) makes them"
    return None


def _fraction(a: str, b: str) -> str | None:
    if re.fullmatch(r"[01]?\.\d{6,}", a) and re.fullmatch(r"[01]?\.\d{6,}", b):
        return "two fractions of one, as random() gives them"
    return None


def _bytes(change: Change) -> str | None:
    found = _SUM.search(change.before)
    if not found or change.aspect == "code":
        return None
    entropy, share, count = float(found[1]), float(found[2]), int(found[3])
    # n random bytes have about log2(n) bits where n is small, and close on 8 where it is large.
    if count >= 1024 and share > 0.9 and entropy > 7.0:
        return f"nearly every byte differs and the entropy is {entropy:.2f} bits a byte"
    if 8 <= count < 1024 and entropy > 2.7 and share <= 1:
        return f"{count} bytes without pattern"
    if count >= 1024 and entropy > 7.5:
        return f"{count} bytes differ and their entropy is {entropy:.2f} bits a byte"
    return None
