# SPDX-License-Identifier: MIT
"""What follows from what: a package in an image, a checksum in an index, a build-id, all under their origin."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from detbuild.compare import cause
from detbuild.compare.change import Inner
from detbuild.compare.model import Comparison, Finding, Kind
from detbuild.compare.recipe import Recipes

# Files whose MD5 and SHA-1 are taken to be found again in indexes; beyond them, only what is known already is used.
HASHED = 10_000
TOLD = 5  # origins named of one finding
LEADING = (".deb", ".ipk", ".rpm")

Sources = dict[tuple[str, str], list[tuple[Finding, tuple[str, ...]]]]
"""Findings by the digests of what differs: their own, and those of the files at some place inside."""


@dataclass
class Root:
    """One reason: a recipe and a cause, the findings that show it, and those that only follow from them."""

    recipe: str
    cause: str
    findings: list[Finding] = field(default_factory=list)
    followers: list[Finding] = field(default_factory=list)


def resolve(result: Comparison, recipes: Recipes) -> None:
    """Fill in the origins of every finding, and the roots of the result."""
    findings = result.findings
    _by_contents(findings)
    _by_entry(findings)
    if any(found.name == "checksum" for finding in findings for found in finding.causes):
        _by_checksum(findings, (result.a, result.b))
    _by_recipe(findings)
    result.roots = gathered(findings)


def _by_contents(findings: list[Finding]) -> None:
    """An image or archive whose differing files are those of packages, or artefacts themselves, follows from them."""
    sources = _sources(findings)
    for finding in findings:
        if finding.artefact.endswith(LEADING):
            continue
        origins = {inner.where: source for inner in finding.inner if (source := _origin(sources, inner, finding))}
        leaves = _leaves(finding, origins.keys())
        known = [origins[leaf] for leaf in leaves if leaf in origins]
        rest = [one for one in finding.causes if not one.follows and one.name != "archive-metadata"]
        if len(known) == len(leaves):
            # Where all that was looked into is known, what was not says nothing else.
            rest = [one for one in rest if any(proof.change.aspect != "limit" for proof in one.evidence)]
        # Something beside the known files may differ in its own right: then it is a root as well.
        if known and not _is_own(rest, known):
            _add(finding, known)


def _sources(findings: list[Finding]) -> Sources:
    sources: Sources = defaultdict(list)
    for finding in findings:
        if finding.digests:
            sources[finding.digests].append((finding, ()))
        for inner in finding.inner:
            sources[inner.digest_a, inner.digest_b].append((finding, inner.where))
    return sources


def _origin(sources: Sources, inner: Inner, finding: Finding) -> Finding | None:
    """What a file inside came from: a package that has it, or an artefact that is inside as a whole."""
    for source, where in sources[inner.digest_a, inner.digest_b]:
        is_inside = len(where) < len(inner.where) and inner.where[len(inner.where) - len(where) :] == where
        if source is not finding and not source.follows and (is_inside or source.artefact.endswith(LEADING)):
            return source
    return None


def _is_own(rest: list[cause.Cause], known: list[Finding]) -> bool:
    theirs = {one.name for source in known for one in source.causes}
    return any(one.name not in theirs for one in rest)


def _leaves(finding: Finding, known: Collection[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The innermost differing files, and those on the way that are artefacts themselves."""
    steps = dict.fromkeys(inner.where for inner in finding.inner)
    outer = {step[:n] for step in steps for n in range(1, len(step))}
    ends = {step for step in steps if step in known or step[-1].endswith(LEADING)}
    return [
        step
        for step in steps
        if (step in ends or step not in outer) and not any(step[:n] in ends for n in range(1, len(step)))
    ]


def _by_entry(findings: list[Finding]) -> None:
    """An index that lists a package on one side only follows from the package that is there on that side only."""
    alone = {(finding.kind, PurePath(finding.artefact).name): finding for finding in findings}
    for finding in findings:
        if not finding.has_two_files:
            continue
        for found in finding.causes:
            if found.name != "missing":
                continue
            changes = [proof.change for proof in found.evidence]
            sources = [
                alone.get((Kind.ONLY_IN_A if change.a else Kind.ONLY_IN_B, PurePath(change.a or change.b).name))
                for change in changes
            ]
            known = [source for source in sources if source]
            if len(known) == len(sources):
                found.origin = known[0].artefact
                if _only_follows(finding):
                    _add(finding, known)


def _by_checksum(findings: list[Finding], trees: tuple[Path, Path]) -> None:
    """An index follows from the artefacts whose checksums stand in it."""
    sums: dict[str, Finding] = {}
    for finding in findings[:HASHED]:
        if finding.has_two_files and not _only_follows(finding):
            for value in (*(finding.digests or ()), *_sums(finding, trees)):
                sums[value] = finding
        for inner in finding.inner:
            sums.setdefault(inner.digest_a, finding)
            sums.setdefault(inner.digest_b, finding)
    waiting = [finding for finding in findings if any(found.name == "checksum" for found in finding.causes)]
    # Each round finds what the last one's indexes are listed in: Packages, and then Release.
    while linked := [finding for finding in waiting if _linked(finding, sums)]:
        waiting = [finding for finding in waiting if not finding.follows]
        for finding in linked:
            for value in _sums(finding, trees):
                sums.setdefault(value, finding)


def _linked(finding: Finding, sums: dict[str, Finding]) -> bool:
    """Give an index its origins; whether it has any, and may be listed in another index."""
    for found in finding.causes:
        if found.name != "checksum":
            continue
        values = [value.lower() for proof in found.evidence for value in (proof.change.a, proof.change.b)]
        known = [sums[value] for value in values if value in sums and sums[value] is not finding]
        if known:
            found.origin = known[0].artefact
            if _only_follows(finding):
                _add(finding, known)
    return finding.follows and finding.has_two_files


def _sums(finding: Finding, trees: tuple[Path, Path]) -> list[str]:
    values = []
    for tree, name in zip(trees, (finding.artefact, finding.path_b), strict=True):
        try:
            data = tree / name
            if data.stat().st_size <= 1 << 30:
                with data.open("rb") as stream:
                    digests = [hashlib.new(kind, usedforsecurity=False) for kind in ("md5", "sha1", "sha256")]
                    while piece := stream.read(1 << 20):
                        for one in digests:
                            one.update(piece)
                values += [one.hexdigest() for one in digests]
        except OSError:
            continue  # it was read a moment ago; whatever befell it since is no news about the index
    return values


def _only_follows(finding: Finding) -> bool:
    return bool(finding.causes) and all(one.follows or one.name == "timestamp" for one in finding.causes) and any(
        one.follows for one in finding.causes
    )  # fmt: skip


def _by_recipe(findings: list[Finding]) -> None:
    """A package of which only a build-id differs follows from its recipe's package that says why."""
    roots: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.recipe and finding.causes and not finding.causes[0].follows and not finding.follows:
            roots[finding.recipe].append(finding)
    for finding in findings:
        if finding.recipe and finding.causes and finding.causes[0].name == "build-id" and not finding.follows:
            known = [source for source in roots.get(finding.recipe, ()) if source.causes[0].name != cause.UNKNOWN]
            if known:
                _add(finding, known)


def _add(finding: Finding, sources: list[Finding]) -> None:
    names = dict.fromkeys([*finding.origins, *(source.artefact for source in sources if source is not finding)])
    finding.origins = list(names)[:TOLD]


def gathered(findings: list[Finding]) -> list[Root]:
    """The roots, those with the most findings first; a finding stands under one root alone."""
    roots: dict[tuple[str, str], Root] = {}
    of: dict[str, Root] = {}
    for finding in findings:
        if not finding.follows:
            key = (responsible(finding), finding.cause or "")
            of[finding.artefact] = roots.setdefault(key, Root(*key))
            roots[key].findings.append(finding)
    by_name = {finding.artefact: finding for finding in findings}
    for finding in findings:
        if finding.follows:
            root = next((of[name] for name in _above(finding, by_name) if name in of), None)
            if root is None:
                key = (responsible(finding), finding.cause or "")
                roots.setdefault(key, Root(*key)).findings.append(finding)
            else:
                root.followers.append(finding)
    return sorted(roots.values(), key=lambda root: (-len(root.findings) - len(root.followers), root.recipe, root.cause))


def _above(finding: Finding, by_name: dict[str, Finding]) -> list[str]:
    """What a finding follows from, the nearest first, and what that follows from."""
    names = list(finding.origins)
    for name in names:
        names += [origin for origin in by_name[name].origins if origin not in names]
    return names


def responsible(finding: Finding) -> str:
    """The recipe behind a finding: its package's, or that of the files in it where it is one alone, or its own."""
    recipes = {recipe or package for package, recipe in finding.owners.values()}
    if not finding.package and len(recipes) == 1:
        return recipes.pop()
    return finding.recipe or ""
