"""The journal of a run: what was found, a line a finding, so that an interrupted run can go on where it was.

A line counts only for the very files that it was written about: their paths, sizes and digests are in it. A journal
that cannot be read in part is used in part, and says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from detbuild.compare.cause import Cause, Evidence, modules
from detbuild.compare.change import Change, Inner
from detbuild.compare.model import Ending, Finding, Inspected
from detbuild.errors import CompareError

FORMAT = "detbuild-compare-journal"
VERSION = 1


class Journal:
    """``recall`` fills in what an earlier run found, ``keep`` writes down what this one did."""

    def __init__(self, path: Path | None, a: Path, b: Path) -> None:
        """`path` None keeps nothing. Raises CompareError where it is another comparison's, or cannot be written."""
        self.warnings: list[str] = []
        self._known: dict[str, dict[str, Any]] = {}
        self._stream: IO[str] | None = None
        if path:
            head = {"format": FORMAT, "version": VERSION, "a": str(a.absolute()), "b": str(b.absolute())}
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
                raise CompareError(f"{path} is no journal of this comparison", remedy=remedy)
            for line in stream:
                row = _loaded(line)
                if row is None or "key" not in row:
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
            self._write(
                {
                    "key": _key(finding),
                    "causes": [_fields(cause) for cause in finding.causes],
                    "inner": [[list(inner.where), inner.digest_a, inner.digest_b] for inner in finding.inner],
                    "inspected": [done.ending.value, done.seconds, done.detail],
                }
            )

    def _write(self, row: dict[str, Any]) -> None:
        assert self._stream
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._stream:
            self._stream.close()


def line_ends(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _loaded(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _key(finding: Finding) -> str:
    """What identifies a pair: paths, sizes, and digests where sizes did not decide."""
    sizes = [entry.size if entry else None for entry in (finding.a, finding.b)]
    times = [entry.identity if entry else None for entry in (finding.a, finding.b)] if not finding.digests else None
    return json.dumps([finding.artefact, finding.path_b, sizes, finding.digests, times])


def _fields(cause: Cause) -> dict[str, Any]:
    rows = [[{**proof.change.to_dict(), "before": proof.change.before}, proof.note] for proof in cause.evidence]
    return {"name": cause.name, "count": cause.count, "evidence": rows}


def _cause(fields: dict[str, Any]) -> Cause:
    if fields["name"] not in modules():
        raise ValueError(fields["name"])
    proofs = [Evidence(Change.from_dict(change), note) for change, note in fields["evidence"]]
    return Cause(fields["name"], proofs, fields["count"])
