"""PROGRAMS CHUNK: the shared clock table under the engine ebpf, some cases a session; one JSON line a case."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import clock_cases  # beside this directory, which is on no path

GAPS = "no gap in the whole table"
LACKS = "lacks: "  # how the problem of a case begins that this kernel or machine cannot show


class Lacking(Exception):
    """What this kernel or machine has not, and a claim needs: a reason to skip it by name."""


def main() -> None:
    programs, chunk = Path(sys.argv[1]), int(sys.argv[2])
    gaps = ""
    for start in range(0, len(clock_cases.CASES), chunk):
        cases = clock_cases.CASES[start : start + chunk]
        try:
            problems = clock_cases.run(cases, programs, "ebpf")
        except Exception as error:
            problems = {case.name: f"{type(error).__name__}: {error}" for case in cases}
        gaps += problems.pop("", "")
        problems |= {case.name: LACKS + case.missing() for case in cases if case.missing()}
        for name, problem in problems.items():
            print(json.dumps({"name": name, "problem": problem}), flush=True)
    print(json.dumps({"name": GAPS, "problem": gaps}), flush=True)


if __name__ == "__main__":
    main()
