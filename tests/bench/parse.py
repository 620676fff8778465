"""What the class costs BitBake when it parses all of OE-Core, beside the same parse without it.

Pairs of BitBakes share one processor, one of each pair with the class, and parse recipe after recipe in turns: what
else the machine does then hits them all. Two processes that do the same differ by one or two in 100, by where their
memory lies and how their sets are ordered; so there are several pairs, and the two of a pair have one hash seed.
Compares processor time, of the configuration and of every recipe with its variants and its signatures. The layer is
there both times, and its one recipe with it. Exit 1 where the class costs more than 1 in 100, 2 where there is no OE
testbed. A pair takes three minutes or so.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "layer"))
import testbed

LIMIT = 0.01

# Prints the nanoseconds that the configuration took, the number of recipes, and then for every line that it reads,
# which is a recipe's number, the nanoseconds of that recipe: what BitBake's own parser processes do.
PARSER = """
import os, re, sys, time, types
import bb.cache, bb.cooker, bb.cookerdata, bb.event, bb.parse, bb.utils
start = time.process_time_ns()
config = types.SimpleNamespace(prefile=[], postfile=[], tracking=False, skip_fragments=False, env=dict(os.environ))
builder = bb.cookerdata.CookerDataBuilder(config, False)
builder.parseBaseConfiguration()
data = builder.data
configured = time.process_time_ns() - start
priorities = []
for name in data.getVar("BBFILE_COLLECTIONS").split():
    pattern = data.getVar("BBFILE_PATTERN_" + name)
    priority = int(data.getVar("BBFILE_PRIORITY_" + name) or 0)
    priorities.append((name, pattern, re.compile(pattern), priority))
files = bb.cooker.CookerCollectFiles(priorities, "")
recipes = sorted(files.collect_bbfiles(data, data)[0])
context, handlers = bb.utils.get_context().copy(), bb.event.get_class_handlers().copy()
print(configured, len(recipes), flush=True)
for line in sys.stdin:
    file = recipes[int(line)]
    start = time.process_time_ns()
    bb.utils.set_context(context.copy())
    bb.event.set_class_handlers(handlers.copy())
    appends, layer = files.get_file_appends(file), files.calc_bbfile_priority(file)[2]
    for variant, d in sorted(builder.parseRecipeVariants(file, appends, mc="", layername=layer).items(), reverse=True):
        bb.cache.CoreRecipeInfo(file, d), bb.cache.SiggenRecipeInfo(file, d)
    bb.parse.siggen.postparsing_clean_cache()
    print(time.process_time_ns() - start, flush=True)
"""


class Parser:
    """One BitBake that parses when it is told to."""

    def __init__(self, build: testbed.BuildDirectory, seed: int) -> None:
        self._process = build.python(PARSER, PYTHONHASHSEED=str(seed))
        self.nanoseconds, self.recipes = (int(word) for word in self._answer().split())

    def parse(self, recipe: int) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{recipe}\n")
        self._process.stdin.flush()
        self.nanoseconds += int(self._answer())

    def end(self) -> float:
        """Seconds of processor time in all."""
        self._process.communicate()
        return self.nanoseconds / 1e9

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise testbed.Failed("BitBake ended while it parsed; its message is above")
        return line


def measure(builds: list[testbed.BuildDirectory], pairs: int) -> list[float]:
    """Seconds of each parse: the first pair's, the second pair's, and so on."""
    parsers = [Parser(build, seed) for seed in range(1, pairs + 1) for build in builds]
    recipes = {parser.recipes for parser in parsers}
    if len(recipes) > 1:
        raise testbed.Failed(f"they see different numbers of recipes: {recipes}")
    for recipe in range(recipes.pop()):
        first = recipe % len(parsers)
        for parser in parsers[first:] + parsers[:first]:
            parser.parse(recipe)
    return [parser.end() for parser in parsers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="default: %(default)s")
    pairs = parser.parse_args().pairs
    try:
        testbed.builder()
    except pytest.skip.Exception as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    place = testbed.PLACE / "parse"
    without = testbed.BuildDirectory(place / "without", 'INHERIT:remove = "detbuild"', everything=True)
    with_it = testbed.BuildDirectory(place / "with", everything=True)
    print(f"bench: {pairs} pairs parse all of OE-Core, {3 * pairs} minutes or so", flush=True)
    seconds = measure([without, with_it], pairs)
    for old, new in zip(seconds[::2], seconds[1::2], strict=True):
        print(f"without {old:.2f} s, with {new:.2f} s, {new / old - 1:+.2%}")
    cost = sum(seconds[1::2]) / sum(seconds[::2]) - 1
    print(f"all {pairs} pairs: {cost:+.2%} (limit {LIMIT:+.2%})")
    return int(cost > LIMIT)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except testbed.Failed as error:
        sys.exit(f"bench: {error}")
