# SPDX-License-Identifier: MIT
"""``detbuild audit``: show what detbuild.exposure found in a build's records."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from detbuild import audits
from detbuild.audit import FIXED, LEAKED, PASSED
from detbuild.audits import Place
from detbuild.errors import DetbuildError
from detbuild.exposure import FORMAT, GAP, LIBC, OWN, VERSION, Exposure, Finding

HELP = """Say which recipes still depend on the outside world, and through which programs, worst first.

What is given is a recipe (a glob and mc:NAME:PN are understood), a directory or a record: the one where the class
collects records, a deploy, TMPDIR, build or work directory, or a file that `detbuild run --audit` wrote. Without it the
records of the current build directory are read, from tmp*/deploy/detbuild-audit. One finding a line:

  gzip do_compile: zgrep <- make read clock_gettime (leaked 3 times: what to do)

A leak is a read that the session did not fix, a gap something that the engine could not hold.

Exit code 0: no leak and no gap; 1: some; 2: no records, or one that cannot be read."""

_STYLES = {GAP: "red", LEAKED: "yellow", OWN: "yellow", LIBC: "cyan", PASSED: "cyan", FIXED: "green"}
# What stands in place of findings that are the same for every recipe.
_SUMMED_UP = {
    OWN: "it logs and copies with real values in every task. What a Python task itself writes of them stays in what it "
    "makes: have a program do it",
    LIBC: "nothing is made of it",
}
_WHO = {OWN: "BitBake's own process", LIBC: "glibc's malloc"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="RECIPE|DIR|FILE", help="what to look at (default: all of the build)"
    )
    parser.add_argument(
        "--all", action="store_true", help="also what was fixed, what programs' rules let through and what is summed up"
    )
    parser.add_argument("--json", action="store_true", help=f"print JSON (format {FORMAT} {VERSION}) instead of text")


def run(args: argparse.Namespace) -> int:
    exposure = Exposure()
    unread = 0
    for where in _places(args.what):
        try:
            exposure.add(where, audits.load(where.path))
        except (OSError, DetbuildError) as error:
            unread += 1
            print(f"detbuild: {_shown(str(where.path))}: {error}", file=sys.stderr)
    kinds = tuple(_STYLES) if args.all else (GAP, LEAKED)
    if args.json:
        print(json.dumps(exposure.to_dict(kinds), indent=1))
    else:
        _show(exposure, kinds)
    return 2 if unread else 1 if exposure.exposed else 0


def _places(what: str | None) -> list[Place]:
    path = Path(what or "")
    if what and path.is_dir():
        return _found(path)
    if what and (path.exists() or os.sep in what):
        if not path.is_file():
            raise DetbuildError(f"there is no record {_shown(what)}", remedy="name a recipe, a directory or a record")
        return [audits.name(path)]
    build = Path(os.environ.get("BUILDDIR") or ".")
    places = _found(build)
    if not what:
        return places
    wanted = [place for place in places if any(fnmatchcase(name, what) for name in (place.target, place.recipe))]
    if not wanted:
        near = difflib.get_close_matches(what, {place.target for place in places}, 3)
        raise DetbuildError(
            f"no record of a recipe {_shown(what)} is in {_shown(str(build.absolute()))}",
            cause="none of its tasks ran in a session yet, or they came from sstate",
            remedy=f"did you mean {', '.join(map(_shown, near))}" if near else "see DETBUILD_TASKS, and build it",
        )
    return wanted


def _found(directory: Path) -> list[Place]:
    places = audits.find(directory)
    if not places:
        raise DetbuildError(
            f"there are no records in {_shown(str(directory.absolute()))}",
            cause="it is no build directory, or nothing was built there with the class detbuild",
            remedy="go to the build directory, or name the directory that DETBUILD_AUDIT_DIR is set to",
        )
    return places


def _show(exposure: Exposure, kinds: Sequence[str]) -> None:
    one = len(exposure.recipes) < 2
    findings = exposure.of(kinds, arguments=False) if one else exposure.by_source(kinds)
    if sys.stdout.isatty() and find_spec("rich"):  # an image of OE-Core alone has none
        _show_coloured(findings)
    else:
        for finding in findings:
            print(f"{_owner(finding)}{_shown(finding.saying)} ({_shown(finding.verdict)})")
    for note in exposure.notes:
        print(f"note: {_shown(note)}")
    for kind in (kind for kind in _SUMMED_UP if kind not in kinds):
        _sum_up(exposure, kind)
    print(_summary(exposure))


def _sum_up(exposure: Exposure, kind: str) -> None:
    recipes, counts = exposure.summed_up(kind)
    if recipes:
        where = f" in {len(recipes)} of {len(exposure.recipes)} recipes" if recipes != {""} else ""
        sources = ", ".join(map(_shown, sorted(counts)))
        print(f"{_WHO[kind]} read {sources}{where}, {counts.total()} times: {_SUMMED_UP[kind]}")


def _show_coloured(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for finding in findings:
        line = Text(_owner(finding), style="bold")  # a name may look like markup
        line.append(_shown(finding.saying), style="not bold")
        line.append(f" ({_shown(finding.verdict)})", style=f"not bold {_STYLES[finding.kind]}")
        console.print(line, soft_wrap=True)


def _owner(finding: Finding) -> str:
    named = " ".join(part for part in (finding.recipe, finding.task) if part)
    return f"{_shown(named)}: " if named else ""


def _summary(exposure: Exposure) -> str:
    read = f"{exposure.records} record{'s' * (exposure.records != 1)}"
    if not exposure.exposed:
        return f"no leak and no gap in {read}"
    counts = {kind: sum(finding.count for finding in exposure.findings if finding.kind == kind) for kind in _STYLES}
    said = ", ".join(
        f"{counts[kind]} {word}{'s' * (counts[kind] != 1)}" for kind, word in ((GAP, "gap"), (LEAKED, "leak"))
    )
    if exposure.exposed == [""]:
        return f"{said} in {read}"
    return f"{len(exposure.exposed)} of {len(exposure.recipes)} recipes depend on the outside world: {said} in {read}"


def _shown(text: str) -> str:
    """On one line, and nothing that a terminal would act on."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
