# SPDX-License-Identifier: MIT
"""What a key made: the same key makes another signature each time, or each build has a key of its own."""

from __future__ import annotations

import re

from detbuild.compare.change import Change, Facts

NAME = "embedded-signature"
TITLE = "embedded signature"
REMEDY = (
    "sign after the comparison, or compare what was signed: for kernel modules set CONFIG_MODULE_SIG_ALL=n or give a "
    "fixed key in MODULE_SIG_KEY, for images sign in a step of its own"
)
RANK = 10

_ARMOUR = re.compile(
    r"-----(?:BEGIN|END) (?:PGP|CERTIFICATE|SSH SIGNATURE|PKCS7|CMS|X509|\w* ?PUBLIC KEY)|untrusted comment: "
)
_NAMED = re.compile(
    r"\.(?:sig|asc|sign|gpg|p7[bs]|minisig|pem|crt)$|signature|(?:^|/)META-INF/[^/]*\.(?:RSA|DSA|EC)$", re.I
)
_FIELD = re.compile(r"\b(?:signature|sigpgp|siggpg|rsaheader|dsaheader)\b|^sig\w*[\"']?\s*[:=]\s*[\"']?$", re.I)


def judge(change: Change, facts: Facts) -> str | None:
    if change.aspect == "signature":
        return f"a signature: {change.line_a or 'its bytes'}"
    if change.aspect == "header" and change.key.strip() == "signature size":
        return "the size of a signature"
    if change.aspect in ("text", "bytes", "lines", "number") and any(
        _NAMED.search(step) for step in facts.steps(change)
    ):
        return f"{facts.steps(change)[-1]} is a signature by its name"
    if change.aspect == "text" and (_ARMOUR.search(change.line_a + change.line_b) or _FIELD.search(change.key.strip())):
        return "what stands here is called a signature"
    return None
