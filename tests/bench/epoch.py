"""The epoch of a tree like Linux's (80,000 files), beside OE-Core's own function, in one run.

OE-Core's function is loaded from a checkout: DETBUILD_OE_ROOT or /opt/oe, in openembedded-core. Both read the same
generated tree, in turns, with warm caches. Exit 1 where detbuild is the slower one, 2 where there is no
OE-Core.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

from detbuild.epoch import Sources, resolve

FILES, FILES_A_DIRECTORY, FANOUT = 80_000, 15, 12
DATE = 1_500_000_000


class Datastore:
    """What OE-Core's function asks of BitBake's d."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def getVar(self, name: str) -> str | None:
        return self._values.get(name)


def oe_core() -> types.ModuleType:
    root = Path(os.environ.get("DETBUILD_OE_ROOT", "/opt/oe"), "openembedded-core")
    path = root / "meta/lib/oe/reproducible.py"
    if not path.is_file():
        print(f"bench: no {path}. Name a directory with openembedded-core in DETBUILD_OE_ROOT", file=sys.stderr)
        raise SystemExit(2)
    silent = types.ModuleType("bb")
    silent.debug = silent.warn = lambda *_: None  # type: ignore[attr-defined]
    sys.modules["bb"] = silent
    spec = importlib.util.spec_from_file_location("reproducible", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grow(top: Path, files: int) -> None:
    """``files`` small files in a tree of directories, each with its own time."""
    directories = [top]
    for number in range(files):
        if number % FILES_A_DIRECTORY == 0:
            index = number // FILES_A_DIRECTORY
            directory = directories[index // FANOUT] / f"directory{index}"
            directory.mkdir(parents=True)
            directories.append(directory)
        path = directories[-1] / f"source-file-{number}.c"
        path.touch()
        os.utime(path, (DATE - number, DATE - number))


def commit(top: Path) -> None:
    git = ["git", "-C", str(top), "-c", "user.name=A", "-c", "user.email=a@example.com"]
    dates = {"GIT_AUTHOR_DATE": f"@{DATE} +0000", "GIT_COMMITTER_DATE": f"@{DATE} +0000"}
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *step], check=True, env={**os.environ, **dates})


def paired(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of each round: in turns, and alternately first, so that a busy machine slows both alike."""
    pairs = []
    for turn in range(rounds + 1):
        if turn % 2:
            pair = seconds(ours), seconds(theirs)
        else:
            pair = seconds(theirs), seconds(ours)
            pair = pair[::-1]
        pairs.append(pair)
    return pairs[1:]


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def report(name: str, pairs: list[tuple[float, float]]) -> bool:
    """One line of medians; the ratio is the median of the rounds' ratios."""
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(our / their for our, their in pairs)
    print(f"{name:10} detbuild {ours:.3f} s   OE-Core {theirs:.3f} s   ratio {ratio:.2f}")
    return ratio <= 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=FILES, metavar="N", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    theirs = oe_core()
    with tempfile.TemporaryDirectory() as temporary:
        unpackdir = Path(temporary, "sources")
        top = unpackdir / "linux-6.1"
        grow(top, args.files)
        sources = Sources(str(top), unpackdir=str(unpackdir))
        good = True
        for name, uri in (("tarball", "https://example.com/linux.tar.xz"), ("checkout", "git://example.com/linux")):
            if name == "checkout":
                commit(top)
            d = Datastore(SRC_URI=uri, UNPACKDIR=str(unpackdir), S=str(top), SOURCE_DATE_EPOCH_FALLBACK="1")
            assert resolve(sources).value == theirs.get_source_date_epoch(d, str(top)) == DATE
            pairs = paired(
                lambda: resolve(sources),
                lambda d=d: theirs.get_source_date_epoch(d, str(top)),  # type: ignore[misc]
                args.rounds,
            )
            good = report(name, pairs) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
