# SPDX-License-Identifier: MIT
"""Tell one artefact's whole story: what differs in it, why, who made it, and what to do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detbuild.errors import CompareError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detbuild.compare.model import Finding

TROUBLE = 2

HELP = """Tell one artefact's whole story: what differs in it, why, who made it, and what to do.

NAME is an artefact's path, its last name, a package or a recipe, or a glob of one of these. The story comes from a
report that `detbuild compare --json FILE` wrote, or, with two trees, from comparing what of them bears that name.

Exit status: 0 nothing of that name differs, 1 something does, 2 trouble (no such report, nothing of that name in
either tree, or something that could not be compared). A report does not list what is the same.

    detbuild explain libz1 --report out.json
    detbuild explain 'libz1_*.deb' build-a/tmp/deploy/deb build-b/tmp/deploy/deb
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="an artefact, a package or a recipe; a glob is understood")
    add("trees", metavar="TREE", nargs="*", type=Path, help="two trees to compare, where there is no report")
    add("--report", metavar="FILE", type=Path, help="a report of `detbuild compare --json`")
    add("--pkgdata", metavar="DIR", type=Path, action="append", default=[], help="as for `detbuild compare`")


def run(args: argparse.Namespace) -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if (args.report is None) == (not args.trees) or len(args.trees) not in (0, 2):
        raise CompareError(
            "nothing to explain from",
            cause="neither one report nor two trees were given",
            remedy="give --report FILE or A B",
        )
    document = _loaded(args.report) if args.report else _compared(args)
    findings = _named(document, args.name)
    for number, finding in enumerate(findings):
        print(*([""] if number else []), *story(finding, document), sep="\n")
    if not findings:
        print(f"{args.name}: no difference is on record")
    _complain(document["troubles"])
    return TROUBLE if document["troubles"] else int(bool(findings))


def _named(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    from detbuild.report.json import clean

    fields = ("artefact", "path_in_b", "package", "recipe")
    return [one for one in document["findings"] if is_named(clean(name), *(one[field] for field in fields))]


def is_named(name: str, artefact: str, path_in_b: str | None, package: str | None, recipe: str | None) -> bool:
    from fnmatch import fnmatchcase

    paths = [path for path in (artefact, path_in_b) if path]
    names = (*paths, *(path.rsplit("/", 1)[-1] for path in paths), package, recipe)
    return any(word == name or fnmatchcase(word, name) for word in names if word)


def _loaded(path: Path) -> dict[str, Any]:
    import json

    from detbuild.report.json import FORMAT, VERSION

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CompareError(f"cannot read {path}", cause=str(error)) from error
    if not isinstance(document, dict) or (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        remedy = "make it again with `detbuild compare --json`"
        raise CompareError(f"{path} is no report of this version", remedy=remedy)
    return document


def _compared(args: argparse.Namespace) -> dict[str, Any]:
    """Compare what bears the name, and what else may be its origin, which diffoscope is not asked about."""
    import json

    from detbuild.compare import Comparing, Options
    from detbuild.report.json import pieces

    def bears(one: Finding) -> bool:
        return is_named(args.name, one.artefact, one.other, one.package, one.recipe)

    options = Options(pkgdata=tuple(args.pkgdata), asked_about=bears)
    with Comparing(args.trees[0], args.trees[1], options) as comparing:
        found, result = list(comparing.run()), comparing.result
        # What a trouble hid may bear the name, and is told in its place.
        if not (result.troubles or any(map(bears, found)) or any(map(bears, comparing.artefacts()))):
            raise CompareError(
                f"there is no {args.name} in either tree",
                cause="neither an artefact nor a package or recipe has that name",
                remedy="give a path, a last name, a package or a recipe, or put a glob in quotes",
            )
        document: dict[str, Any] = json.loads("".join(pieces(result)))
    return document


def _complain(troubles: list[dict[str, str]]) -> None:
    from detbuild.compare.model import shown

    sys.stdout.flush()
    for trouble in troubles:
        print(f"detbuild: {shown(trouble['path'])}: {trouble['message']}", file=sys.stderr)


def story(finding: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """One finding in full, from the report's own fields."""
    from detbuild.compare.model import shown

    yield f"{shown(finding['artefact'])}: {finding['kind'].replace('-', ' ')}"
    if finding["path_in_b"]:
        yield f"  in B it is {shown(finding['path_in_b'])}"
    if finding["package"]:
        yield f"  package {shown(finding['package'])}, from recipe {shown(finding['recipe'] or 'unknown')}"
    for side in ("a", "b"):
        if finding[side]:
            digest = f", SHA-256 {finding[side]['sha256']}" if finding[side]["sha256"] else ""
            yield f"  {side.upper()}: {finding[side]['size']} bytes{digest}"
    for path, (package, recipe) in finding["owners"].items():
        yield f"  {shown(path)} was put there by package {shown(package)}, recipe {shown(recipe or 'unknown')}"
    yield from (f"  follows from {shown(origin)}" for origin in finding["origins"])
    followers = [
        name for root in document["roots"] if finding["artefact"] in root["findings"] for name in root["followers"]
    ]
    if followers:
        yield f"  from it follow: {', '.join(map(shown, followers[:10]))}" + (" ..." if len(followers) > 10 else "")
    for cause in finding["causes"]:
        yield from _cause(cause)
    yield from (f"  {shown(culprit)}" for culprit in finding["culprits"])
    for name in ("inspected", "diffoscope"):
        done = finding[name]
        if done and done["ending"] != "complete":
            yield f"  {name}: {done['ending'].replace('-', ' ')}" + (
                f": {shown(done['detail'])}" if done["detail"] else ""
            )
    if finding["expected"]:
        yield f"  expected: {shown(finding['expected'])}"


def _cause(cause: dict[str, Any]) -> Iterator[str]:
    from detbuild.compare.model import shown

    yield f"  {cause['title']} ({cause['count']} place{'' if cause['count'] == 1 else 's'})"
    for proof in cause["evidence"]:
        where = " > ".join(map(shown, proof["where"])) or "the file itself"
        at = f" at offset {proof['offset']}" if "offset" in proof else ""
        yield f"    {where}{at}"
        for side in ("a", "b"):
            if proof[side]:
                yield f"      {side.upper()}: {shown(proof[side])}"
        yield f"      {shown(proof['note'])}"
    yield f"    remedy: {cause['remedy']}"
