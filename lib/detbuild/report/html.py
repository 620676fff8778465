# SPDX-License-Identifier: MIT
"""The browsable report: an index that filters, a page for each finding, nothing loaded from anywhere else.

A page shows diffoscope's own findings, folded; its side-by-side page lies beside it. Nothing in the files is
random or dated: the same comparison gives the same report.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detbuild.compare.change import SHOWN, Change
from detbuild.compare.model import Comparison, Finding, shown
from detbuild.compare.roots import responsible
from detbuild.errors import CompareError
from detbuild.report import text

# Lines of diff on one page: beyond them a browser grows slow, and nobody reads on.
PAGE_LINES = 20_000
PAGES = "pages"
LABEL = 60  # characters before a value that are shown with it
_OURS = re.compile(r"\d{4,}(-diffoscope)?\.html")
_LINE_KINDS = {"+": "add", "-": "del", "@": "hunk"}


@dataclass
class Node:
    """One step into a file, as diffoscope took it: ``lines`` are (CSS class, text) of its unified diff."""

    title: str
    comments: list[str]
    lines: list[tuple[str, str]]
    cut: int = 0
    children: list[Node] = field(default_factory=list)


def prepare(directory: Path) -> None:
    """Make the directory, or clear an earlier report's pages. Raises CompareError before anything is compared."""
    try:
        (directory / PAGES).mkdir(parents=True, exist_ok=True)
        for page in (directory / PAGES).iterdir():
            if _OURS.fullmatch(page.name):
                page.unlink()
    except OSError as error:
        raise CompareError(
            f"cannot write the report to {directory}",
            cause=error.strerror or str(error),
            remedy="give --html a directory that you may write to",
        ) from error


def write(result: Comparison, directory: Path) -> Path:
    """Write the whole report into a prepared directory; returns the path of its index. Raises CompareError."""
    environment = Environment(
        loader=PackageLoader("detbuild.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"shown": shown, "size": human_size, "responsible": responsible}
    environment.globals |= {"remarks": text.notes, "title_of": text.title_of}
    environment.globals |= {"root_title": text.root_title, "format": form, "sizes": sizes, "pieces": pieces}
    script = environment.get_template("filter.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    names = [f"{number:04d}" for number in range(1, len(result.findings) + 1)]
    rows = list(zip(names, result.findings, strict=True))
    try:
        for (name, finding), before, after in zip(rows, ["", *names], [*names[1:], ""], strict=False):
            aside = _copy_aside(finding, directory / PAGES / f"{name}-diffoscope.html")
            values = {"finding": finding, "root": tree(finding), "aside": aside, "before": before, "after": after}
            page = environment.get_template("page.html").render(result=result, **values)
            (directory / PAGES / f"{name}.html").write_text(page, encoding="utf-8", errors="replace")
        page = environment.get_template("index.html").render(
            result=result, rows=rows, choices=choices(result), digest=digest, script=script
        )
        index = directory / "index.html"
        index.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CompareError(f"cannot write {directory}", cause=error.strerror or str(error)) from error
    return index


def form(path: str) -> str:
    """An artefact's format by its name: ``deb``, ``tar.xz``, ``other``."""
    found = re.search(r"\.(tar\.\w+|[A-Za-z]\w{0,9})$", path)
    return found[1].lower() if found else "other"


def choices(result: Comparison) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
    """What the index can be filtered by: (label, name, [(value, title, findings)]), the most frequent first."""
    recipes = Counter(responsible(finding) or "none" for finding in result.findings)
    causes = Counter(finding.cause or "none" for finding in result.findings)
    forms = Counter(form(finding.artefact) for finding in result.findings)
    return [
        ("Recipe", "recipe", [(name, shown(name), count) for name, count in recipes.most_common()]),
        ("Cause", "cause", [(name, _title(name), count) for name, count in causes.most_common()]),
        ("Format", "format", [(name, shown(name), count) for name, count in forms.most_common()]),
    ]


def sizes(finding: Finding) -> str:
    """The sizes of both files, once where they are the same."""
    found = [human_size(entry.size) for entry in (finding.a, finding.b) if entry and entry.is_file]
    return " \u2192 ".join(dict.fromkeys(found))


def pieces(change: Change) -> list[tuple[str, str, tuple[str, str, str, str]]]:
    """(side, CSS class, (what stands before, common beginning, what differs, common end)) of the sides with a value."""
    label = change.before[-LABEL:] if change.aspect in ("text", "header", "metadata") else ""
    if change.aspect == "metadata":
        label += " "
    start = _common(change.a, change.b)
    end = _common(change.a[start:][::-1], change.b[start:][::-1])
    if not start and not end:
        start = SHOWN  # nothing in them is the same, so that nothing is to be marked
    return [
        (side, css, (label, value[:start], value[start : len(value) - end], value[start:][len(value[start:]) - end :]))
        for side, css, value in (("A", "del", change.a), ("B", "add", change.b))
        if value
    ]


def _common(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _title(cause: str) -> str:
    return "none" if cause == "none" else text.title_of(cause)


def _copy_aside(finding: Finding, target: Path) -> str:
    """Copy diffoscope's own page into the report; returns its name, or nothing where there is none."""
    if not (finding.difference and finding.difference.html):
        return ""
    shutil.copyfile(finding.difference.html, target)
    return target.name


def tree(finding: Finding) -> Node | None:
    """diffoscope's structure of one pair, with at most PAGE_LINES lines of diffs in all."""
    structure = finding.difference.structure() if finding.difference else None
    return _node(structure, _Allowance(PAGE_LINES)) if structure else None


@dataclass
class _Allowance:
    left: int

    def take(self, wanted: int) -> int:
        taken = min(self.left, wanted)
        self.left -= taken
        return taken


def _node(structure: dict[str, Any], allowance: _Allowance) -> Node:
    sources = dict.fromkeys(_without_side(str(structure[key])) for key in ("source1", "source2"))
    lines = list(_lines(structure.get("unified_diff") or ""))
    kept = allowance.take(len(lines))
    children = [_node(child, allowance) for child in structure.get("details") or []]
    comments = [str(comment) for comment in structure.get("comments") or []]
    return Node(" / ".join(sources), comments, lines[:kept], len(lines) - kept, children)


def _without_side(source: str) -> str:
    return source[2:] if source.startswith(("a/", "b/")) else source


def _lines(diff: str) -> Iterator[tuple[str, str]]:
    # Not splitlines(): what else ends a line to Python may be a part of what differs.
    for line in diff.removesuffix("\n").split("\n") if diff else ():
        yield _LINE_KINDS.get(line[:1], "same"), line


def human_size(size: int) -> str:
    """Bytes for people: ``999 B``, ``12.3 KiB``."""
    value, units = float(size), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    for larger in units:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
