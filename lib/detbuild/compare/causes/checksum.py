# SPDX-License-Identifier: MIT
"""The checksum or size of something else: an index, a manifest, a list of digests."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "checksum"
TITLE = "checksum or size of another difference"
REMEDY = "look at what the checksum is taken of: it follows by itself"
RANK = 14
FOLLOWS = True

_HEX = re.compile(
    r"(?:sha\d+[:-])?(?:[0-9a-fA-F]{8}|[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{56}|[0-9a-fA-F]{64}|[0-9a-fA-F]{96}|[0-9a-fA-F]{128})"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{27,88}={0,2}")
_LISTS = re.compile(
    r"(?:md5|sha\d*|b2|crc)sums?(?:\.\w+)?$|^(?:In)?Release$|^Packages(?:\.\w+)?$|\.sha\d+$|\.md5$|^RECORD$|^MANIFEST\.MF$"
    r"|\.manifest$|repomd\.xml$|primary\.xml|filelists\.xml|^Contents|\.spdx\.json|\.siginfo|sigdata", re.I,
)  # fmt: skip
_KEYS = re.compile(
    r"(?:(?:md5|sha-?\d*|crc\d*)(?:sum|header)?|digest|checksum|hash|blake\w*|integrity)\W*(?:value)?\W*(?:sha\d+)?\W*$",
    re.I,
)
_SIZE = re.compile(r"(?:size|length|bytes|\bpackages)\W*$", re.I)  # createrepo_c: <metadata packages="7">
_NAMED = re.compile(r"(?<=repodata/)[0-9a-f]{32,128}(?=-)")  # createrepo_c: repodata/CHECKSUM-primary.xml.gz
# Of these, only the kinds that are never random: what is called a digest is one.


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect == "header" and _KEYS.search(change.key.strip()):
        return "a checksum of the contents"
    if change.aspect != "text":
        return None
    listed = any(_LISTS.search(step.rsplit("/", 1)[-1]) for step in facts.steps(change))
    hexadecimal = _HEX.fullmatch(change.a) and _HEX.fullmatch(change.b) and len(change.a) == len(change.b)
    is_sum = hexadecimal and (_KEYS.search(change.key) or (listed and len(change.a) >= 32) or _is_sums_line(change))
    encoded = _BASE64.fullmatch(change.a) and _BASE64.fullmatch(change.b) and (listed or _KEYS.search(change.key))
    if is_sum or encoded:
        return "a checksum of another file"
    if _NAMED.search(change.a) and _NAMED.sub("", change.a) == _NAMED.sub("", change.b):
        return "a name made of a checksum"
    if change.a.isdigit() and change.b.isdigit() and _SIZE.search(change.key) and (listed or "installed" in change.key):
        return "the size of another file"
    return None


def _is_sums_line(change: Change) -> bool:
    """As sha256sum(1) writes: the digest, two spaces, a name."""
    return not change.before and bool(re.match(r"[0-9a-f]{32,128} [ *]\S", change.line_a))
