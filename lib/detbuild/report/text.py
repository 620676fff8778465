# SPDX-License-Identifier: MIT
"""Lines for people and pipes, and a tree where a terminal looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from detbuild.compare.cause import UNKNOWN, Cause, modules
from detbuild.compare.model import Comparison, Ending, Finding, Kind, shown

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from detbuild.compare.roots import Root

SHOWN = 20  # findings of one root in a tree; the reports hold all
VALUE = 80  # characters of a value on a line
_CONTROLS = re.compile(r"[^\n\t -~\xa0-\U0010ffff]")


def line(finding: Finding) -> str:
    """One finding on one line: what, where, whose, why."""
    parts = [f"{finding.kind.words:<9}", shown(finding.artefact)]
    if finding.package:
        parts.append(f"(package {shown(finding.package)}, recipe {shown(finding.recipe or UNKNOWN)})")
    elif finding.recipe:
        parts.append(f"(recipe {shown(finding.recipe)})")
    why = [cause_line(finding.causes[0])] if finding.causes and finding.kind is Kind.DIFFERENT else []
    why += [f"also {shown(cause.title)}" for cause in finding.causes[1:]] if finding.kind is Kind.DIFFERENT else []
    said = "; ".join([*why, *map(shown_words, finding.culprits), *notes(finding)])
    expected = f"  [expected: {shown_words(finding.expected)}]" if finding.expected else ""
    return "  ".join(parts) + (f": {said}" if said else "") + expected


def ending(finding: Finding) -> str:
    """What is to be said about diffoscope's own fate on this pair, if anything."""
    difference = finding.difference
    if difference is None:
        return ""
    names = {Ending.COMPLETE: "", Ending.FAILED: "", Ending.BOUNDED: "diffoscope was not asked"}
    name = names.get(difference.ending, f"diffoscope ran {difference.ending.value.replace('-', ' ')}")
    return ": ".join(text for text in (name, shown(difference.detail)) if text)


def difference(finding: Finding) -> str:
    """diffoscope's text for one finding, ending in a newline unless there is none."""
    text = finding.difference.read_text() if finding.difference else ""
    # What differs may be a terminal's own language.
    text = _CONTROLS.sub(lambda found: shown(found[0]), text)
    return text if not text or text.endswith("\n") else text + "\n"


def tree(result: Comparison) -> Tree:
    """The findings for a terminal, by recipe and cause. Names go in as plain text: they may look like rich's markup."""
    from rich.text import Text
    from rich.tree import Tree

    top = Tree(Text(heading(result), style="bold"), guide_style="dim")
    for root in result.roots:
        branch = top.add(_root(root))
        for finding in root.findings[:SHOWN]:
            leaf = branch.add(_leaf(finding))
            for remark in remarks(finding):
                leaf.add(Text(remark, style="dim"))
        if len(root.findings) > SHOWN:
            branch.add(Text(f"and {len(root.findings) - SHOWN} more", style="dim"))
        if root.followers:
            below = branch.add(Text(f"{_counted(len(root.followers), 'finding')} following from it", style="dim"))
            for finding in root.followers[:SHOWN]:
                below.add(_leaf(finding, style="dim"))
            if len(root.followers) > SHOWN:
                below.add(Text(f"and {len(root.followers) - SHOWN} more", style="dim"))
    return top


def heading(result: Comparison) -> str:
    """How much there is to understand, in one line."""
    return f"{_counted(len(result.findings), 'finding')}, {_counted(len(result.roots), 'root')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def root_title(root: Root) -> str:
    """A root in words: whose it is, and why."""
    owner = f"recipe {shown(root.recipe)}" if root.recipe else "no recipe"
    return f"{owner}: {title_of(root.cause)}" if root.cause else owner


def title_of(cause: str) -> str:
    return str(modules()[cause].TITLE) if cause else UNKNOWN


def _root(root: Root) -> Text:
    from rich.text import Text

    style = "bold red" if root.cause in ("", UNKNOWN) else "bold yellow"
    return Text(root_title(root), style=style)


def _leaf(finding: Finding, style: str = "") -> Text:
    from rich.text import Text

    styles = {Kind.DIFFERENT: "yellow", Kind.ONLY_IN_A: "red", Kind.ONLY_IN_B: "cyan"}
    leaf = Text(f"{finding.kind.words}  ", style=style or styles[finding.kind])
    leaf.append(shown(finding.artefact), style=style or "default")
    if finding.expected:
        leaf.append(f"  expected: {shown_words(finding.expected)}", style="green")
    return leaf


def remarks(finding: Finding) -> list[str]:
    """What is to be said of a finding beside its name: each cause with its first evidence, culprits, notes."""
    found = [cause_line(cause) for cause in finding.causes] if finding.kind is Kind.DIFFERENT else []
    found += [shown_words(culprit) for culprit in finding.culprits]
    found += [f"from package {shown(package)}, recipe {shown(recipe or UNKNOWN)}: {shown(path)}"
              for path, (package, recipe) in sorted(finding.owners.items())[:SHOWN]]  # fmt: skip
    return found + notes(finding)


def notes(finding: Finding) -> list[str]:
    """What is to be said of a finding beside its causes."""
    said = [finding.note, ending(finding), over(finding)]
    if finding.other:
        said.append(f"in B it is {shown(finding.other)}")
    if finding.origins:
        said.append(f"follows from {', '.join(map(shown, finding.origins))}")
    return [note for note in said if note]


def over(finding: Finding) -> str:
    """What stopped the taking apart, if anything did."""
    done = finding.inspected
    if done is None or done.ending is Ending.COMPLETE:
        return ""
    return f"taking it apart {_ran(done.ending)}: {shown(done.detail)}"


def _ran(end: Ending) -> str:
    return "failed" if end is Ending.FAILED else f"ran {end.value.replace('-', ' ')}"


def cause_line(cause: Cause) -> str:
    """One cause with its first evidence and the number of places."""
    words = cause.title
    if cause.evidence:
        first = cause.evidence[0]
        where = " > ".join(shown(step) for step in first.change.where)
        values = " / ".join(quoted(value) for value in (first.change.a, first.change.b) if value)
        note = "" if values else shown_words(first.note)
        words += ": " + " ".join(part for part in (where, values, note) if part)
    if cause.count > 1:
        words += f" (and {cause.count - 1} more)"
    return words + (f", from {shown(cause.origin)}" if cause.origin else "")


def quoted(value: str) -> str:
    short = value if len(value) <= VALUE else value[: VALUE - 3] + "..."
    return f"'{shown(short)}'"


def counts(result: Comparison) -> Iterator[str]:
    """The four closing lines."""
    for name, count in result.counts():
        yield f"{name}: {count}"


def complaints(result: Comparison) -> Iterator[str]:
    """Warnings and troubles, one a line, for stderr."""
    for warning in result.warnings:
        yield f"warning: {shown_words(warning)}"
    for note in result.notes:
        yield f"note: {shown_words(note)}"
    for expectation in result.stale:
        yield f"stale: {shown_words(expectation)}"
    for trouble in result.troubles:
        yield f"{shown(trouble.path)}: {trouble.message}"
    if result.unknown:
        yield f"{result.unknown} of {result.total} artefacts could not be compared"


def shown_words(text: str) -> str:
    """Like `shown` for a sentence that may hold a name: no line of it can pose as another."""
    return "".join(character if character == "\\" else shown(character) for character in text)
