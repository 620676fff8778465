# SPDX-License-Identifier: MIT
"""The comparison as JUnit XML, which continuous integration shows: a suite a recipe, a case an artefact that differs.

The schema is the one that Jenkins' and GitLab's readers share. What is the same is one passing case, with its count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from detbuild.compare.model import Comparison, Finding, shown
from detbuild.report import text
from detbuild.report.file import replace

# What XML 1.0 has no way to write, not even as a reference.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(result: Comparison, path: Path) -> None:
    """Write the report; a regular file is replaced whole or not at all. Raises CompareError."""
    replace(path, pieces(result))


def pieces(result: Comparison) -> Iterator[str]:
    failures = len(result.unexpected)
    skipped = len(result.findings) - failures
    total = len(result.findings) + len(result.troubles) + len(result.stale) + bool(result.same)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield (
        f'<testsuites name="detbuild-compare" tests="{total}" failures="{failures + len(result.stale)}" '
        f'errors="{len(result.troubles)}" skipped="{skipped}">\n'
    )
    suites: dict[str, list[Finding]] = defaultdict(list)
    for finding in result.findings:
        suites[finding.recipe or "no recipe"].append(finding)
    for name, findings in sorted(suites.items()):
        yield from _suite(name, findings)
    yield from _others(result)
    yield "</testsuites>\n"


def _suite(name: str, findings: list[Finding]) -> Iterator[str]:
    expected = sum(bool(finding.expected) for finding in findings)
    yield (
        f'  <testsuite name={_attribute(name)} tests="{len(findings)}" failures="{len(findings) - expected}" '
        f'errors="0" skipped="{expected}">\n'
    )
    for finding in findings:
        seconds = (finding.inspected.seconds if finding.inspected else 0.0) + (
            finding.difference.seconds if finding.difference else 0.0
        )
        yield (
            f"    <testcase classname={_attribute(finding.package or name)} name={_attribute(shown(finding.artefact))} "
            f'time="{seconds:.3f}">\n'
        )
        if finding.expected:
            yield f"      <skipped message={_attribute('expected: ' + finding.expected)}/>\n"
        else:
            kind = finding.cause or finding.kind.value
            body = "\n".join([*text.remarks(finding), *(f"remedy: {cause.remedy}" for cause in finding.causes[:1])])
            yield (
                f"      <failure type={_attribute(kind)} message={_attribute(text.line(finding)[:500])}>"
                f"{escape(_clean(body))}</failure>\n"
            )
        yield "    </testcase>\n"
    yield "  </testsuite>\n"


def _others(result: Comparison) -> Iterator[str]:
    """What is no finding: troubles are errors, stale expectations failures, and the same is good."""
    count = len(result.troubles) + len(result.stale) + bool(result.same)
    if not count:
        return
    yield (
        f'  <testsuite name="comparison" tests="{count}" failures="{len(result.stale)}" '
        f'errors="{len(result.troubles)}" skipped="0">\n'
    )
    for trouble in result.troubles:
        yield f'    <testcase classname="comparison" name={_attribute(shown(trouble.path))}>\n'
        yield f"      <error message={_attribute(trouble.message)}/>\n    </testcase>\n"
    for expectation in result.stale:
        yield f'    <testcase classname="comparison" name={_attribute(expectation[:200])}>\n'
        yield f'      <failure type="stale" message={_attribute(expectation)}/>\n    </testcase>\n'
    if result.same:
        yield f'    <testcase classname="comparison" name="{result.same} artefacts are the same"/>\n'
    yield "  </testsuite>\n"


def _attribute(value: str) -> str:
    return quoteattr(_clean(value).replace("\n", " "))


def _clean(value: str) -> str:
    return _FORBIDDEN.sub("\ufffd", value)
