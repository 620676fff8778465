"""What the eBPF engine costs: all measured inside one run of a virtual machine with a real kernel, as ratios.

Builds of a package without a session, under the engine and under the tracer, by policies time and strict; system calls
outside any session with the daemon off and on; a session's opening and closing; the daemon's memory. Times under
emulation are no times of a machine, but their ratios say what the engine adds; take several runs. Exit 2 where a
virtual machine cannot be run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "kernel")]

import machine  # noqa: E402  # beside this directory, which is on no path
import measure  # noqa: E402
from disk import Disk  # noqa: E402

import sources  # noqa: E402

MIB = 1 << 20


def show(found: dict[str, Any], sessions: int, package: str) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("outside any session", "daemon off", "daemon on", "ratio")
    calls = found["calls"]
    for name, on in calls["on"].items():
        off = min(calls[when][name] for when in calls if when != "on")
        table.add_row(name, f"{off:.0f} ns", f"{on:.0f} ns", f"{on / off:.3f}")
    console.print(table)
    builds = found["builds"]
    table = Table(f"build of {package}", "seconds", "ratio", "of the best")
    for name, seconds in builds.items():
        ratios = [mine / none for mine, none in zip(seconds, builds["none"], strict=False)]
        best = min(seconds) / min(builds["none"])
        table.add_row(name, f"{statistics.median(seconds):.1f}", f"{statistics.median(ratios):.3f}", f"{best:.3f}")
    console.print(table)
    opening, one = statistics.median(found["sessions"]), min(found["one file"])
    console.print(
        f"open and close of a session: {opening * 1000:.1f} ms, {opening / min(builds['none']):.2%} of that build,"
        f" {opening / one:.1%} of the compilation of one file of lua"
    )
    closing = statistics.median(found["close beside others"])
    console.print(f"of which the daemon counts and closes, beside {sessions} sessions: {closing * 1000:.1f} ms")
    idle, busy = (size / MIB for size in found["resident"])
    console.print(f"the daemon's memory: {idle:.1f} MiB idle, {busy:.1f} MiB with {sessions} sessions")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2, metavar="N", help="builds of each kind; default: %(default)s")
    parser.add_argument("--build", choices=sources.BUILDS, default="lua5.4", help="what; default: %(default)s")
    parser.add_argument("--without-tracer", action="store_true", help="build without a session and under eBPF alone")
    parser.add_argument("--sessions", type=int, default=200, metavar="N", help="open at once; default: %(default)s")
    parser.add_argument("--preempt", default="voluntary", metavar="MODE", help="the kernel's; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1500, metavar="N", help="in all; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="detbuild-bench-") as temporary:
        share, inputs = Path(temporary, "share"), Path(temporary, "inputs")
        for place in (share, inputs / "programs"):
            place.mkdir(parents=True)
        try:
            machine.check()
            sources.share(sorted({"lua5.4", args.build}), inputs / "sources")
            disk = Disk(Path(temporary, "image"), machine.REPOSITORY, inputs)
            kinds = [
                name for name, (engine, _) in measure.KINDS.items() if not args.without_tracer or engine != "tracer"
            ]
            words = (str(args.runs), str(args.sessions), args.build, sources.BUILDS[args.build], *kinds)
            outcome = machine.run(args.preempt, share, disk, "measure.py", *words, seconds=args.seconds)
        except (machine.Unavailable, sources.Unavailable) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        text = (share / "measured.json").read_text() if (share / "measured.json").exists() else "{}"
    found = json.loads(text)
    if args.json:
        args.json.write_text(text)
    if not found.get("complete"):
        print(f"bench: the machine did not come to its end: {outcome.ended}", file=sys.stderr)
        return 2
    show(found, args.sessions, args.build)
    return 0


if __name__ == "__main__":
    sys.exit(main())
