# SPDX-License-Identifier: MIT
"""A comparison that fits a merge request comment: the roots first, then the findings, folded, and never too long."""

from __future__ import annotations

import re
from pathlib import Path

from detbuild.compare.model import Comparison, Finding, shown
from detbuild.compare.roots import Root
from detbuild.report import text
from detbuild.report.file import replace

# Characters. GitHub takes 65,536 in a comment, GitLab 1,000,000.
LIMIT = 60_000


def write(result: Comparison, path: Path) -> None:
    """Write the report; a regular file is replaced whole or not at all. Raises CompareError."""
    replace(path, [render(result)])


def render(result: Comparison) -> str:
    lines = [f"### detbuild-compare: {_verdict(result)}", ""]
    lines += [" · ".join(f"{name}: **{count}**" for name, count in result.counts()), ""]
    lines += [f"> **{kind}** {_plain(message)}" for kind, message in _complaints(result)]
    if result.roots:
        lines += ["", "| recipe | cause | findings | following | evidence |", "|---|---|--:|--:|---|"]
        lines += [_row(root) for root in result.roots]
    head = "\n".join(lines) + "\n"
    return head + _folded(result, LIMIT - len(head)) if len(head) < LIMIT else _cut(lines)


def _verdict(result: Comparison) -> str:
    return "all the same" if not result.findings and not result.troubles else text.heading(result)


def _complaints(result: Comparison) -> list[tuple[str, str]]:
    found = [("trouble:", f"{shown(trouble.path)}: {trouble.message}") for trouble in result.troubles]
    found += [("stale:", expectation) for expectation in result.stale]
    found += [("warning:", warning) for warning in result.warnings]
    return found[:20]


def _row(root: Root) -> str:
    first = root.findings[0] if root.findings else root.followers[0]
    proof = text.cause_line(first.causes[0]) if first.causes else ""
    cells = (
        root.recipe or "none",
        text.title_of(root.cause),
        str(len(root.findings)),
        str(len(root.followers)),
        _code(proof.removeprefix(f"{text.title_of(root.cause)}: ")[:300]),
    )
    return f"| {_plain(cells[0])} | {' | '.join(cells[1:])} |"


def _folded(result: Comparison, room: int) -> str:
    """Every finding in a section that is folded open on demand; what finds no room is counted."""
    if not result.findings:
        return ""
    head, tail = "\n<details><summary>All findings</summary>\n\n", "\n</details>\n"
    room -= len(head) + len(tail) + 60
    lines = []
    for number, finding in enumerate(result.findings):
        line = _item(finding)
        if len(line) + 1 > room:
            lines.append(f"- and {len(result.findings) - number} more")
            break
        room -= len(line) + 1
        lines.append(line)
    return head + "\n".join(lines) + tail


def _item(finding: Finding) -> str:
    return f"- {_code(text.line(finding)[:600])}"


def _cut(lines: list[str]) -> str:
    kept: list[str] = []
    room = LIMIT - 100
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join(kept) + f"\n\nand {len(lines) - len(kept)} more lines\n"


def _plain(words: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", words.replace("\n", " "))


def _code(words: str) -> str:
    """Text in backquotes, more of them than it has itself; a bar would end a table's cell."""
    words = words.replace("\n", " ").replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", words)), default=0) + 1)
    return f"{fence} {words} {fence}" if words else ""
