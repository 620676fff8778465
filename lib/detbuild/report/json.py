# SPDX-License-Identifier: MIT
"""The comparison as JSON: format "detbuild-compare", version 1. docs/compare-json.md describes every field.

Names are text; a name that is not UTF-8 has U+FFFD for its odd bytes and stands whole in ``artefact_base64``.
Sizes are bytes, digests SHA-256, null where sizes alone decided. ``structure`` is diffoscope's own JSON, version 1.
"""

from __future__ import annotations

import base64
import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detbuild.compare.cause import Cause
from detbuild.compare.model import Comparison, Entry, Finding
from detbuild.compare.roots import Root
from detbuild.report.file import replace

FORMAT = "detbuild-compare"
VERSION = 1
_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # those that stand for no byte of a name


def write(result: Comparison, path: Path) -> None:
    """Write the report; a regular file is replaced whole or not at all. Raises CompareError."""
    replace(path, pieces(result), "ascii")


def pieces(result: Comparison) -> Iterator[str]:
    """The document piece by piece: the differences of a large comparison need not fit into memory together."""
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    head |= {"a": clean(str(result.a)), "b": clean(str(result.b))}
    head |= {name.lower(): count for name, count in result.counts()}
    head["unknown"] = result.unknown
    head["warnings"] = [clean(warning) for warning in result.warnings]
    head["notes"] = [clean(note) for note in result.notes]
    head["stale"] = [clean(expectation) for expectation in result.stale]
    head["roots"] = [_root(root) for root in result.roots]
    head["troubles"] = [{"path": clean(t.path), "message": clean(t.message)} for t in result.troubles]
    yield json.dumps(head, indent=2)[: -len("\n}")]
    yield ',\n  "findings": ['
    for number, finding in enumerate(result.findings):
        yield ",\n" if number else "\n"
        yield textwrap.indent(json.dumps(_finding(finding), indent=2), "    ")
    yield "\n  ]\n}\n"


def clean(text: str) -> str:
    """Text that every JSON reader takes: no lone surrogates, neither PEP 383's nor those that diffoscope quotes."""
    text = _SURROGATES.sub("\ufffd", text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _finding(finding: Finding) -> dict[str, Any]:
    digests = finding.digests or (None, None)
    fields: dict[str, Any] = {"artefact": clean(finding.artefact)}
    if fields["artefact"] != finding.artefact:
        fields["artefact_base64"] = base64.b64encode(os.fsencode(finding.artefact)).decode("ascii")
    fields |= {
        "kind": finding.kind.value,
        "package": finding.package and clean(finding.package),
        "recipe": finding.recipe and clean(finding.recipe),
        "cause": finding.cause,
        "causes": [_cause(cause) for cause in finding.causes],
        "origins": [clean(origin) for origin in finding.origins],
        "culprits": [clean(culprit) for culprit in finding.culprits],
        "owners": {clean(path): _cleaned(list(owner)) for path, owner in finding.owners.items()},
        "expected": clean(finding.expected) or None,
        "path_in_b": clean(finding.other) or None,
        "note": clean(finding.note) or None,
        "inspected": None,
        "a": _side(finding.a, digests[0]),
        "b": _side(finding.b, digests[1]),
        "diffoscope": None,
    }
    if done := finding.inspected:
        fields["inspected"] = {
            "ending": done.ending.value,
            "detail": clean(done.detail) or None,
            "seconds": round(done.seconds, 3),
        }
    if difference := finding.difference:
        fields["diffoscope"] = {
            "ending": difference.ending.value,
            "detail": clean(difference.detail) or None,
            "seconds": round(difference.seconds, 3),
            "structure": _cleaned(difference.structure()),
        }
    return fields


def _side(entry: Entry | None, digest: str | None) -> dict[str, Any] | None:
    return {"size": entry.size, "sha256": digest} if entry else None


def _root(root: Root) -> dict[str, Any]:
    return {
        "recipe": clean(root.recipe) or None,
        "cause": root.cause or None,
        "findings": [clean(finding.artefact) for finding in root.findings],
        "followers": [clean(finding.artefact) for finding in root.followers],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "name": cause.name,
        "title": cause.title,
        "count": cause.count,
        "follows": cause.follows,
        "origin": clean(cause.origin) or None,
        "remedy": cause.remedy,
        "evidence": [_cleaned(proof.to_dict()) for proof in cause.evidence],
    }


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return {key: _cleaned(item) for key, item in value.items()} if isinstance(value, dict) else value
