"""Build the recipes of meta-quickstart twice without detbuild and twice with it, and compare each pair.

The two builds of a pair are made in directories of different length, the second at least a second after the
first ended, so whatever reads the clock or the path differs. Exit codes: 0 if nothing differs with detbuild,
1 if something does, 2 if a build or a comparison failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from embedded import Build, Refused, Result
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

TOP = Path(__file__).resolve().parents[1]
RECIPES = TOP / "examples" / "meta-quickstart"
MARK = ".detbuild-quickstart"
PLACES = ("a", "the-second-build-in-a-longer-directory")
# The library's own recipes need OE-Core's classes.
CONFIGURATIONS = {"without": "", "with": 'INHERIT += "detbuild"\nBBMASK = "/recipes-devtools/"'}

console = Console(highlight=False, soft_wrap=True)


class Trouble(Exception):
    """A build or a comparison failed; the text says which and what to do."""


@dataclass(frozen=True)
class Comparison:
    """What detbuild-compare counted, and where its report is."""

    counts: dict[str, int]
    report: Path

    @property
    def different(self) -> int:
        """Artefacts that are not the same: other bytes, or in one build alone."""
        return self.counts["Different"] + self.counts["Missing"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="quickstart", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("dir", nargs="?", type=Path, default=TOP / "build" / "quickstart", metavar="DIR")
    args = parser.parse_args()
    try:
        top = prepare(args.dir.resolve())
        found = {mode: pair(top, mode) for mode in CONFIGURATIONS}
    except (Trouble, Refused, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 2
    return conclude(found)


def prepare(top: Path) -> Path:
    """An output directory of ours, without what an earlier run left. Refuses somebody else's."""
    if top.exists() and any(top.iterdir()) and not (top / MARK).exists():
        raise Trouble(f"{top} holds files that are not from a quickstart. Name another directory")
    top.mkdir(parents=True, exist_ok=True)
    (top / MARK).touch()
    for name in (*CONFIGURATIONS, *(f"report-{mode}" for mode in CONFIGURATIONS)):
        shutil.rmtree(top / name, ignore_errors=True)
    return top


def pair(top: Path, mode: str) -> Comparison:
    for number, place in enumerate(PLACES):
        if number:
            time.sleep(1.1)  # the clocks that the examples read show whole seconds
        build(top / mode / place, mode)
    trees = [top / mode / place / "tmp" / "deploy" for place in PLACES]
    console.print(f"  comparing them with detbuild-compare {trees[0]} {trees[1]}")
    return compare(trees, top / f"report-{mode}")


def build(directory: Path, mode: str) -> None:
    console.print(f"Building {mode} detbuild at {time.strftime('%H:%M:%S')} in {directory}")
    embedded = Build(directory, [RECIPES, *([TOP] if mode == "with" else [])], CONFIGURATIONS[mode])
    columns = TextColumn("  {task.description}"), BarColumn()
    # No thread may redraw the bar: it would be alive while tasks are forked.
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=quiet) as progress:
        bar = progress.add_task("", total=len(embedded.hashes(*embedded.recipes)))

        def started(name: str) -> None:
            progress.update(bar, description=name, advance=1, refresh=True)

        result = embedded.run(*embedded.recipes, jobs=os.cpu_count() or 1, started=started)
    tell(result)
    if directory.name == PLACES[0]:
        tell_epochs(result)


def tell(result: Result) -> None:
    """Raise what failed, and print what was warned of."""
    for task in result.failed:
        raise Trouble(f"{task.name} failed with exit code {task.exit_code}. Its log ends:\n{task.log[-2000:]}")
    for text in (*result.messages, *(text for task in result.tasks for text in task.messages)):
        if text.startswith(("WARNING", "ERROR", "CRITICAL")):
            console.print(f"  {text}", markup=False)


def tell_epochs(result: Result) -> None:
    """Each recipe's epoch and where it is from, by what detbuild wrote into the log of do_unpack."""
    for task in result.tasks:
        found = re.search(r"SOURCE_DATE_EPOCH: (\d+) from (\w+): (.*)", task.log)
        if found:
            recipe, moment = task.name.partition(":")[0], time.gmtime(int(found[1]))
            source = found[2] if found[2] == "fallback" else f"{found[2]} ({os.path.basename(found[3])})"
            console.print(f"  epoch of {recipe:<13} {time.strftime('%Y-%m-%d %H:%M:%S', moment)}  {source}")


def compare(trees: list[Path], report: Path) -> Comparison:
    command = [str(TOP / "scripts" / "detbuild-compare"), *map(str, trees), "--html", str(report)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise Trouble(f"{' '.join(command)} ended with {done.returncode}")
    counts = {}
    for line in done.stdout.splitlines():
        name, _, number = line.partition(": ")
        if name in ("Same", "Different", "Missing", "Total"):
            counts[name] = int(number)
        elif not line.startswith("Report: "):
            console.print(f"  {line}", markup=False)
    return Comparison(counts, report)


def conclude(found: dict[str, Comparison]) -> int:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for mode, comparison in found.items():
        table.add_row(f"{mode} detbuild", f"Different: {comparison.different}")
    console.print()
    console.print(table)
    console.print()
    console.print(f"Report of what differed without detbuild: {found['without'].report / 'index.html'}")
    if not found["without"].different:
        console.print("Nothing differed without detbuild either, so this run shows nothing.")
        return 1
    if found["with"].different:
        console.print(
            f"With detbuild something differs still: {found['with'].report / 'index.html'} says what.\n"
            f"Does {TOP / 'scripts' / 'detbuild'} doctor find an engine that works on this machine?"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
