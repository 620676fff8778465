"""PROGRAMS CHUNK: the strict table under the engine ebpf, some cases a session; one JSON line a case.

PROGRAMS also holds TRACED, what the tracer printed outside: the engines show the same world.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import strict_cases  # beside this directory, which is on no path
from strict_cases import STREAM, Case

TRACED = "traced.json"
GAPS = "no gap in the whole strict table"
LEAKS = "no leak in the whole strict table"
LACKS = "lacks: "
CASES = strict_cases.CASES
# Cases that cost little and tell enough.
DYNAMIC = [case for case in CASES if case.name.startswith("a dynamic program")]
# Their numbers depend on the seed.
PLAIN = [case for case in DYNAMIC if case.kind == STREAM]
# What they print is the tracer's: all but the addresses of this kernel, the memory of this machine, and listings.
TRACED_TOO = [case for case in DYNAMIC if case.source in ("random", "identity") and not case.name.endswith("sysinfo")]


def name(case: Case) -> str:
    return f"strict: {case.name}"


NAMES = [*map(name, CASES), GAPS, LEAKS]


def trace(programs: Path) -> None:
    """Outside: write TRACED."""
    with TemporaryDirectory() as place:
        printed, _ = strict_cases.run(batched(DYNAMIC), programs, "tracer", Path(place))
    (programs / TRACED).write_text(json.dumps(parted(DYNAMIC, printed)))


def batched(cases: Sequence[Case]) -> list[Case]:
    """The same with one run of a program for all of its words: an emulated machine starts programs slowly."""
    batches: dict[str, Case] = {}
    for case in cases:
        batch = batches.setdefault(_batch(case), dataclasses.replace(case, name=_batch(case)))
        if batch.argv != case.argv:
            batches[batch.name] = dataclasses.replace(batch, argv=(*batch.argv, case.argv[2]))
    return list(batches.values())


def parted(cases: Sequence[Case], printed: dict[str, str]) -> dict[str, str]:
    """What each of the cases printed, of what the batches did, or why they did not."""
    found = {}
    for case in cases:
        found[case.name] = printed[_batch(case)]
        if _batch(case) != case.name and found[case.name].startswith("b"):
            parts = dict(part.split(b"\n", 1) for part in ast.literal_eval(found[case.name]).split(b"== ")[1:])
            found[case.name] = ascii(parts[case.argv[2].encode()])
    return found


def _batch(case: Case) -> str:
    return " ".join(case.argv[:2]) if case.argv[0].startswith("{programs}") else case.name


class Table:
    def __init__(self, programs: Path, chunk: int, place: Path) -> None:
        self._programs, self._chunk = programs, chunk
        # Of one name: what a shell is told depends on the command lines above it.
        self._places = [place / "first" / "here", place / "second" / "here"]
        self.gaps = ""
        self.leaks = ""
        for order, directory in enumerate(self._places):
            directory.parent.mkdir()
            strict_cases.furnish(directory, order)

    def run(self) -> dict[str, str]:
        """Name -> problem."""
        first, second = (self._ran(CASES, directory) for directory in self._places)
        other = self._ran(DYNAMIC, self._places[0], "another")
        traced = json.loads((self._programs / TRACED).read_text())
        problems = {}
        for case in CASES:
            if case.missing():
                problems[name(case)] = LACKS + case.missing()
                continue
            one, two = first[case.name], second[case.name]
            problem = "" if one == two else f"printed {one} and {two}"
            if case in TRACED_TOO and one != traced[case.name]:
                problem = f"printed {one}, and under the tracer {traced[case.name]}"
            if case in PLAIN and one == other[case.name]:
                problem = f"printed {one} with another seed too"
            problems[name(case)] = problem
        return problems | {GAPS: self.gaps, LEAKS: self.leaks}

    def _ran(self, cases: Sequence[Case], directory: Path, seed: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        cases = [case for case in cases if not case.missing()]
        batches = batched(cases)
        for start in range(0, len(batches), self._chunk):
            chunk = batches[start : start + self._chunk]
            try:
                printed, audit = strict_cases.run(chunk, self._programs, "ebpf", directory, seed=seed)
            except Exception as error:
                # Never the same twice, and so a problem of each.
                found |= {case.name: f"{directory}{seed}: {type(error).__name__}: {error}" for case in chunk}
                continue
            found |= printed
            self.gaps += "".join(f"{gap.kind}: {gap.detail}; " for gap in audit.gaps)
            # Others read files that the table reports.
            leaks = [read for read in audit.leaks if read.program.startswith(str(self._programs))]
            self.leaks += "".join(f"{read.reader} read {read.source}; " for read in leaks)
        return parted(cases, found)


def main() -> None:
    with TemporaryDirectory(dir="/run") as place:
        for what, problem in Table(Path(sys.argv[1]), int(sys.argv[2]), Path(place)).run().items():
            print(json.dumps({"name": what, "problem": problem}), flush=True)


if __name__ == "__main__":
    main()
