# SPDX-License-Identifier: MIT
"""Compare two trees of build output and name the recipe behind each difference."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detbuild.compare import Comparing, Options
from detbuild.compare.limits import Limits
from detbuild.compare.model import shown
from detbuild.errors import CompareError
from detbuild.report import json, text

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from detbuild.compare.model import Comparison, Finding

TROUBLE = 2
MOST = 2_000_000  # of whatever is counted: poll(2) waits for 24 days at most, and no address space needs 2 TiB

HELP = """Compare two trees of build output and name the recipe behind each difference.

Files are matched by their path below A and B, without a build's date or a task's hash in it, and compared by their
contents alone; symbolic links are compared by their target and never followed. Each difference is printed as soon as it
is found, and the reports have them in order. The last four lines of output are the counts:

    Same: N
    Different: N
    Missing: N      (only in A plus only in B)
    Total: N

Each difference is told with its cause, and what follows from another stands under it; `detbuild explain` tells the
whole story of one. --expect takes a list of known differences:

    - artefact: "*/linux-*.ko"        # a glob; cause, recipe and expires are optional
      cause: embedded-signature
      reason: signed with a key of each build
      expires: 2027-06-30

Exit status: 0 everything is the same or as expected, 1 something is not, or an expectation is stale, 2 trouble (no
directory, an unreadable file, no diffoscope).

    detbuild-compare build-a/tmp/deploy/deb build-b/tmp/deploy/deb --html report
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="one tree")
    add("b", metavar="B", type=Path, help="the other tree")
    add("--text", action="store_true", help="print diffoscope's text below each difference")
    add("--html", metavar="DIR", type=Path, help="write a browsable report: an index and a page for each finding")
    add("--json", metavar="FILE", type=Path, help='write the findings as JSON, format "detbuild-compare" version 1')
    add("--markdown", metavar="FILE", type=Path, help="write a summary that fits a merge request comment")
    add("--junit", metavar="FILE", type=Path, help="write JUnit XML for continuous integration")
    add(
        "--expect",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="YAML of known differences with a reason and an expiry; repeatable",
    )
    add(
        "--resume",
        metavar="FILE",
        type=Path,
        help="keep the causes that are found in FILE, and go on from what it has; where diffoscope's part is asked for "
        "as well, every pair is done again",
    )
    add(
        "--audits",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="look for sessions' audit records below DIR too, to name the program that leaked; repeatable",
    )
    add("--cluster", metavar="ADDRESS", default="", help="take pairs apart on the Dask cluster at tcp://HOST:PORT")
    add("--shallow", action="store_true", help="do not ask diffoscope about what stays unknown")
    add(
        "--exclude", metavar="GLOB", action="append", default=[], help="leave out paths or names that match; repeatable"
    )
    add(
        "--pkgdata",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="look up recipes in this tmp/pkgdata/MACHINE too, beside that of a TMPDIR that a tree is in; repeatable",
    )
    add("--jobs", metavar="N", type=_positive, help="how many files and diffoscopes at once (default: one a CPU)")
    add(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        default=int(Limits.seconds),
        help="wall time of each process on one pair (default: %(default)s)",
    )
    add(
        "--memory",
        metavar="MIB",
        type=_positive,
        default=Limits.memory >> 20,
        help="address space of each process on one pair (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    # Names and diffs may hold what the terminal's encoding has no letters for.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Ended from outside, it still ends the diffoscopes that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _check_outputs(args)
    options = Options(
        formats=_formats(args),
        exclude=tuple(args.exclude),
        pkgdata=tuple(args.pkgdata),
        limits=Limits(args.timeout, args.memory << 20),
        deep=not args.shallow,
        expect=tuple(args.expect),
        journal=args.resume,
        audits=tuple(args.audits),
        cluster=args.cluster,
    )
    options.jobs = args.jobs or options.jobs
    terminal = sys.stdout.isatty()
    bar = _Bar()
    with Comparing(args.a, args.b, options, bar) as comparing:
        with bar:
            for finding in comparing.run():
                if not terminal:
                    _show(finding, args.text)
                else:
                    bar.tell(text.line(finding))
        if terminal:
            _show_tree(comparing.result, args.text)
        _write_files(comparing.result, args)
        index = _write_html(comparing.result, args.html) if args.html else None
    _close(comparing.result, index)
    return comparing.result.status


def _positive(value: str) -> int:
    if not (value.isdecimal() and 0 < int(value) <= MOST):
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1 to {MOST}")
    return int(value)


def _formats(args: argparse.Namespace) -> tuple[str, ...]:
    """What diffoscope must write: nothing that no presenter reads. The HTML report folds diffoscope's JSON."""
    wanted = {"text": args.text, "html": args.html, "json": args.json or args.html}
    return tuple(name for name, value in wanted.items() if value)


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse before the work what would fail, or change what is compared, after it."""
    for output in filter(None, (args.html, args.json, args.markdown, args.junit, args.resume)):
        for tree in (args.a, args.b):
            if output.resolve().is_relative_to(tree.resolve()):
                raise CompareError(
                    f"cannot write {output}",
                    cause=f"it is inside {tree}, which is being compared",
                    remedy="put the report elsewhere",
                )
    for output in filter(None, (args.json, args.markdown, args.junit, args.resume)):
        if not output.parent.is_dir():
            raise CompareError(f"cannot write {output}", cause=f"there is no directory {output.parent}")
    if args.html:
        from detbuild.report import html

        html.prepare(args.html)


def _show(finding: Finding, with_text: bool) -> None:
    print(text.line(finding))
    if with_text:
        sys.stdout.write(text.difference(finding))
    sys.stdout.flush()


def _show_tree(result: Comparison, with_text: bool) -> None:
    from rich.console import Console

    if result.findings:
        Console().print(text.tree(result))
        print()
    for finding in result.findings if with_text else ():
        _show(finding, with_text)


def _write_files(result: Comparison, args: argparse.Namespace) -> None:
    if args.json:
        json.write(result, args.json)
    if args.markdown:
        from detbuild.report import markdown

        markdown.write(result, args.markdown)
    if args.junit:
        from detbuild.report import junit

        junit.write(result, args.junit)


def _write_html(result: Comparison, directory: Path) -> Path:
    from detbuild.report import html

    return html.write(result, directory)


def _close(result: Comparison, index: Path | None) -> None:
    sys.stdout.flush()
    for complaint in text.complaints(result):
        print(f"detbuild: {complaint}", file=sys.stderr)
    if index:
        print(f"Report: {shown(str(index))}")
    print(*text.counts(result), sep="\n", flush=True)


class _Bar:
    """A progress bar on stderr where that is a terminal, and nothing where it is not."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            # The name last, so that what is before it stays where it is.
            columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            name = TextColumn(
                "{task.fields[name]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            )
            console = Console(stderr=True)
            self._progress = Progress(*columns, name, console=console, transient=True, redirect_stdout=False)
            self._progress.start()

    def __exit__(self, *error: object) -> None:
        if self._progress:
            self._progress.stop()

    def tell(self, line: str) -> None:
        """Show a line above the bar while the rest is still at work."""
        if self._progress:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def __call__(self, what: str, done: int, of: int, name: str) -> None:
        if self._progress:
            if what not in self._tasks:
                self._tasks[what] = self._progress.add_task(what, total=of, name="")
            self._progress.update(self._tasks[what], completed=done, total=of, name=shown(os.path.basename(name)))
