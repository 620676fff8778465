# SPDX-License-Identifier: MIT
"""The journal of a run: what was found, a line a finding, so that an interrupted run can go on where it was.

A line counts only for the very files that it was written about: their paths, sizes and digests are in it, and where
sizes alone decided, which inodes they are and when those changed. A journal counts only for comparisons that would
find the same. One that cannot be read in part is used in part, and says so.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import IO, Any

import detbuild
from detbuild.compare.cause import Cause, Evidence, modules
from detbuild.compare.change import Change, Inner
from detbuild.compare.model import Ending, Finding, Inspected
from detbuild.errors import CompareError

FORMAT = "detbuild-compare-journal"
VERSION = 2


class Journal:
    """``recall`` fills in what an earlier run found, ``keep`` writes down what this one did."""

    def __init__(self, path: Path | None, a: Path, b: Path, deep: bool) -> None:
        """`path` None keeps nothing; `deep` says whether diffoscope is asked about what stays unknown.

        Raises CompareError where it is another comparison's, or cannot be written.
        """
        self.warnings: list[str] = []
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._stream: IO[str] | None = None
        if path:
            head = {"format": FORMAT, "version": VERSION, "detbuild": detbuild.__version__, "diffoscope": deep}
            head |= {"a": str(a.absolute()), "b": str(b.absolute())}
            try:
                self._read(path, head)
                self._stream = path.open("a", encoding="ascii")
                if path.stat().st_size == 0:
                    self._write(head)
            except OSError as error:
                raise CompareError(f"cannot write the journal {path}", cause=error.strerror or str(error)) from error

    def _read(self, path: Path, head: dict[str, Any]) -> None:
        if not path.exists() or path.stat().st_size == 0:
            return
        with path.open(encoding="utf-8", errors="replace") as stream:
            first = _loaded(stream.readline())
            if first != head:
                remedy = "give --resume another file, or remove this one"
                raise CompareError(f"{path} is no journal of this comparison", cause=_other(first, head), remedy=remedy)
            for line in stream:
                row = _loaded(line)
                if row is None or not isinstance(row.get("key"), str):
                    self.warnings.append(f"{path}: a line of the journal is cut or damaged: that pair was done again")
                else:
                    self._known[row["key"]] = row
        if not line_ends(path):
            with path.open("a", encoding="ascii") as out:
                out.write("\n")

    def recall(self, finding: Finding) -> bool:
        """Whether an earlier run took this very pair apart, within its limits; fills the finding in."""
        row = self._known.get(_key(finding))
        if row is None:
            return False
        try:
            finding.causes = [_cause(fields) for fields in row["causes"]]
            finding.inner = [Inner(tuple(where), a, b) for where, a, b in row["inner"]]
            ending, seconds, detail = row["inspected"]
            finding.inspected = Inspected(Ending(ending), seconds, detail)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def keep(self, finding: Finding) -> None:
        # What ran over a limit may end under another one.
        if self._stream and finding.inspected and finding.inspected.ending is Ending.COMPLETE:
            done = finding.inspected
            row = {
                "key": _key(finding),
                "causes": [_fields(cause) for cause in finding.causes],
                "inner": [[list(inner.where), inner.digest_a, inner.digest_b] for inner in finding.inner],
                "inspected": [done.ending.value, done.seconds, done.detail],
            }
            try:
                self._write(row)
            except OSError as error:
                why = error.strerror or str(error)
                self.warnings.append(f"{self._path}: the journal ends here ({why}): a later run does the rest again")
                self.close()

    def _write(self, row: dict[str, Any]) -> None:
        assert self._stream
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._stream:
            # What could not be written before is tried once more here, and was told.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None


def line_ends(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _loaded(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _other(found: dict[str, Any] | None, head: dict[str, Any]) -> str:
    """What tells a journal from this comparison's, in words."""
    if found is None or found.get("format") != FORMAT:
        return "it is no journal at all"
    differing = [name for name in head if found.get(name) != head[name]]
    return "; ".join(f"its {name} is {found.get(name)!r}, here {head[name]!r}" for name in differing)


def _key(finding: Finding) -> str:
    """What identifies a pair: paths, sizes, and digests, or where sizes decided, inodes and their times."""
    entries = (finding.a, finding.b)
    sizes = [entry.size if entry else None for entry in entries]
    seen = None if finding.digests else [(entry.identity, entry.times) if entry else None for entry in entries]
    return json.dumps([finding.artefact, finding.path_b, sizes, finding.digests, seen])


def _fields(cause: Cause) -> dict[str, Any]:
    rows = [[{**proof.change.to_dict(), "before": proof.change.before}, proof.note] for proof in cause.evidence]
    return {"name": cause.name, "count": cause.count, "evidence": rows}


def _cause(fields: dict[str, Any]) -> Cause:
    if fields["name"] not in modules():
        raise ValueError(fields["name"])
    proofs = [Evidence(Change.from_dict(change), note) for change, note in fields["evidence"]]
    return Cause(fields["name"], proofs, fields["count"])
