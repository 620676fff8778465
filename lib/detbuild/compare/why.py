# SPDX-License-Identifier: MIT
"""Why one pair of files differs: taken apart in a worker first, and shown by diffoscope where that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detbuild.compare import cause, structure
from detbuild.compare.change import NOTHING_UNDERSTOOD, Change, Facts
from detbuild.compare.differ import Differ
from detbuild.compare.model import Difference, Ending, Finding, Inspected
from detbuild.compare.pool import Outcome, Pool, Task

if TYPE_CHECKING:
    from detbuild.compare.comparison import Options

# A binary without structure of which more bytes than this differ is summed up and not diffed: diffoscope needs 11 s and
# 500 MiB for 10 MiB of it, and nobody reads the result.
OPAQUE = 1 << 20


class Why:
    """Usable from several threads at once. Close it to end what still runs."""

    def __init__(  # noqa: PLR0917 (what a comparison has at hand)
        self, pool: Pool, program: str | None, options: Options, scratch: Path, roots: tuple[Path, Path], facts: Facts
    ) -> None:
        self._pool, self._options, self._roots, self._facts = pool, options, roots, facts
        self._program = program
        self._differ = Differ(program or "", options.formats, options.limits, scratch / "shown")
        self._asked = Differ(program or "", ("json",), options.limits, scratch / "asked")

    def close(self) -> None:
        self._differ.close()
        self._asked.close()

    def is_asked(self, finding: Finding) -> bool:
        return self._options.causes or bool(self._options.formats and self._may_be_shown(finding))

    def _may_be_shown(self, finding: Finding) -> bool:
        """Whether diffoscope is there, and may look at it."""
        return bool(self._program) and self._options.asked_about(finding)

    def answer(self, number: int, finding: Finding) -> None:
        """Fill in a finding's causes and difference. Blocks; raises nothing but what is a defect of this library."""
        facts = replace(self._facts, name=finding.artefact)
        changes = self._taken_apart(finding) if self._options.causes else []
        opaque = opaque_bytes(changes) > OPAQUE
        may_be_shown = self._may_be_shown(finding)
        if self._options.formats and may_be_shown:
            detail = "a large binary without structure differs: its summary stands for a diff"
            finding.difference = (
                Difference(Ending.BOUNDED, 0.0, detail) if opaque else self._diff(self._differ, number, finding)
            )
        if self._options.causes:
            finding.causes = cause.gather(changes, facts)
            if self._options.deep and may_be_shown and not opaque and is_open(finding):
                changes += self._deeper(number, finding)
                finding.causes = cause.gather(changes, facts)

    def _taken_apart(self, finding: Finding) -> list[Change]:
        paths = [
            str((root / name).absolute())
            for root, name in zip(self._roots, (finding.artefact, finding.path_b), strict=True)
        ]
        outcome: Outcome = self._pool.submit(Task(paths[0], paths[1], self._facts, self._options.limits)).result()
        finding.inner = outcome.inner
        finding.inspected = Inspected(outcome.ending, outcome.seconds, outcome.detail)
        if outcome.changes:
            return outcome.changes
        # Nothing found is still an answer, and not no answer.
        words = NOTHING_UNDERSTOOD
        if outcome.ending is not Ending.COMPLETE:
            words = f"taking it apart ran {outcome.ending.value.replace('-', ' ')}: {outcome.detail}"
        return [Change((), "limit", line_a=words)]

    def _deeper(self, number: int, finding: Finding) -> list[Change]:
        """diffoscope's view of a pair that is not explained."""
        shown = finding.difference
        if shown is None or shown.json is None:
            shown = self._diff(self._asked, number, finding)
        found = structure.changes(shown.structure())
        return [change for change in found if cause.judge(change, self._facts)[0] != cause.UNKNOWN]

    def _diff(self, differ: Differ, number: int, finding: Finding) -> Difference:
        try:
            return differ.diff(number, self._roots[0], self._roots[1], finding.artefact, finding.path_b)
        except OSError as error:
            return Difference(Ending.FAILED, detail=f"diffoscope could not be run: {error}")


def is_open(finding: Finding) -> bool:
    """Whether diffoscope may know more: something other than a word of a text is unknown."""
    unknown = [found for found in finding.causes if found.name == cause.UNKNOWN]
    return any(evidence.change.aspect in ("bytes", "code") for found in unknown for evidence in found.evidence)


def opaque_bytes(changes: list[Change]) -> int:
    """How many bytes differ in binaries that nothing takes apart."""
    counts = [
        change.before.rsplit(" ", 1)[-1] for change in changes if change.aspect == "bytes" and "share" in change.before
    ]
    return sum(int(count) for count in counts if count.isdigit())
