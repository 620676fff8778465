"""Compare two trees of packages, beside a parallel read, OE-Core's way, and diffoscope on the trees, in one run.

The trees hold repacked packages of this machine's Debian and, with --from, any others, until there are enough; a few of
B's have a file that carries another date. Both sides are read once before anything is measured, so the cache is warm.

    scripts/bench compare                          # 4,043 packages, 38 of them different; needs 1.3 GB in --work
    scripts/bench compare --packages 400 --differ 10 --skip diffoscope
    scripts/bench compare --trees DIR              # makes the trees there the first time, and measures those later
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detbuild.compare.differ import find_diffoscope

LIBRARY = Path(__file__).resolve().parents[2] / "lib"
SIZES = (20 << 10, 1 << 20)  # bytes of installed packages that are repacked
REPACKED = 80
ONE = ("taskset", "-c", "0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--packages", type=int, default=4043)
    add("--differ", type=int, default=38)
    add("--from", dest="sources", type=Path, action="append", default=[], help="take .debs below DIR too; repeatable")
    add("--work", type=Path, help="where to make the trees (default: a temporary directory)")
    add("--trees", type=Path, metavar="DIR", help="keep the trees in DIR; where they are there, nothing is made")
    add("--make", action="store_true", help="make the trees and measure nothing")
    add("--skip", action="append", default=[], choices=["diffoscope", "oe"], help="leave a yardstick out; repeatable")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-compare-", dir=args.work) as name:
        kept = args.trees or Path(name)
        kept.mkdir(parents=True, exist_ok=True)
        a, b, same = (kept / part for part in ("a", "b", "same"))
        if not (kept / "made").exists():
            make(kept, args)
            (kept / "made").touch()
        if not args.make:
            measure(Path(name), a, b, same, args)
            measure_noise(Path(name))
    return 0


def make(work: Path, args: argparse.Namespace) -> None:
    """Trees A and B, and one that is the same as A."""
    sources = [path for directory in args.sources for path in sorted(directory.rglob("*.deb"))]
    sources += list(repacked(work / "repacked"))
    a, b, same = (work / name for name in ("a", "b", "same"))
    print(f"{len(sources)} packages, repeated to {args.packages}, {args.differ} of them different", flush=True)
    chosen = set(random.Random(7).sample(range(args.packages), args.differ))
    for tree in (a, b, same):
        tree.mkdir()
        for number in range(args.packages):
            source = sources[number % len(sources)]
            target = tree / f"{source.stem.partition('_')[0]}-{number:04d}_1.0_all.deb"
            if number in chosen and tree is b:
                redated(source, target, "b", work)
            elif number in chosen:
                redated(source, target, "a", work)
            else:
                shutil.copyfile(source, target)


def repacked(directory: Path) -> Iterator[Path]:
    """Some of this machine's own packages, as dpkg knows their files."""
    directory.mkdir()
    rows = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Installed-Size}\\n"], capture_output=True, text=True, check=True
    )
    found = [line.split() for line in rows.stdout.splitlines()]
    sized = [row for row in found if len(row) == 2 and row[1].isdigit()]
    names = [row[0] for row in sized if SIZES[0] <= int(row[1]) << 10 <= SIZES[1]]
    random.Random(3).shuffle(names)
    for name in names[:REPACKED]:
        listed = subprocess.run(
            ["dpkg-query", "-L", name], capture_output=True, text=True, check=False
        ).stdout.splitlines()
        files = [
            path for path in listed if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK)
        ]
        root = directory / name
        for path in files:
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        if files:
            yield packed(root, directory / f"{name}_1.0_all.deb", name)
        shutil.rmtree(root, ignore_errors=True)


def packed(root: Path, target: Path, name: str) -> Path:
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    fields = [
        f"Package: {name}",
        "Version: 1.0",
        "Architecture: all",
        "Maintainer: Nobody <nobody@example.com>",
        "Description: x",
        "",
    ]
    (root / "DEBIAN/control").write_text("\n".join(fields))
    for path in (root, *root.rglob("*")):
        os.utime(path, (1, 1), follow_symlinks=False)
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-b", str(root), str(target)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"})
    return target


def redated(source: Path, target: Path, side: str, work: Path) -> None:
    """The package with one more file, which carries the day of its side."""
    root = work / "redated"
    subprocess.run(["dpkg-deb", "-R", source, root], check=True)
    place = root / "usr/share/built"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"built on 2026-11-{'20' if side == 'a' else '21'} 10:11:{'12' if side == 'a' else '42'}\n")
    packed(root, target, source.stem.partition("_")[0])
    shutil.rmtree(root)


def measure(work: Path, a: Path, b: Path, same: Path, args: argparse.Namespace) -> None:
    size, processors = sum(path.stat().st_size for path in a.iterdir()), len(os.sched_getaffinity(0))
    print(f"{size / 1e6:.0f} MB a side, {processors} processors\n")
    floor(a, b)
    (work / "none").mkdir()
    start = timed("start-up of detbuild compare", lambda: ours(work / "none", work / "none"))
    read = timed("floor: one parallel read with a digest", lambda: floor(a, same))
    equal = timed("ours, all the same", lambda: ours(a, same))
    print(f"  = {(equal - start) / read:.2f} of the floor, without start-up (target 1.5)")
    timed("ours, until the first finding shows (target 1 s)", lambda: first_finding(a, b))
    bare = timed("ours, causes of those that differ", lambda: ours(a, b, different=args.differ))
    alone = timed("the same on one processor", lambda: ours(a, b, different=args.differ, before=ONE))
    print(f"  = {alone / bare:.2f} times as fast on {processors} processors as on one")
    options = ("--text", "--json", str(work / "out.json"))
    full = timed("ours, with diffoscope's text and JSON", lambda: ours(a, b, *options, different=args.differ))
    slow = timed("the same on one processor", lambda: ours(a, b, *options, different=args.differ, before=ONE))
    print(f"  = {slow / full:.2f} times as fast on {processors} processors as on one")
    if "oe" not in args.skip:
        theirs = timed("OE-Core's way: a cmp each, diffoscope on the different ones", lambda: oe(work, a, b))
        print(
            f"  = {theirs / bare:.1f} times ours with causes, {theirs / full:.1f} times ours with "
            f"diffoscope (target 2.5)"
        )
    if "diffoscope" not in args.skip:
        program = find_diffoscope() or "diffoscope"
        command = [program, "--no-progress", "--text", str(work / "text")]
        timed("diffoscope A B", lambda: run([*command, str(a), str(b)]))
        exclude = ["--exclude-directory-metadata", "yes"]
        timed("diffoscope --exclude-directory-metadata yes A B", lambda: run([*command, *exclude, str(a), str(b)]))


def measure_noise(work: Path) -> None:
    """One package whose file of 10 MiB is other random bytes in B."""
    for side in ("noise-a", "noise-b"):
        (work / side / "root").mkdir(parents=True)
        (work / side / "root/noise").write_bytes(os.urandom(10 << 20))
        packed(work / side / "root", work / side / "noise_1.0_all.deb", "noise")
        shutil.rmtree(work / side / "root")
    command = [sys.executable, "-m", "detbuild", "compare", str(work / "noise-a"), str(work / "noise-b")]
    started = time.monotonic()
    # Through a small shell: the kernel counts what a process was forked from as its own peak.
    process = subprocess.Popen(
        ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command], env=_environment(), stdout=subprocess.DEVNULL
    )
    _pid, _status, used = os.wait4(process.pid, 0)
    process.returncode = 1
    seconds = time.monotonic() - started
    print(
        f"{seconds:8.2f} s  {used.ru_maxrss / 1024:8.0f} MiB at most in one process   "
        "ours, 10 MiB of noise in a package (target 2 s, 150 MiB)"
    )


def timed(name: str, work: Callable[[], object]) -> float:
    """Wall seconds of one run, and processor seconds of what it started."""
    before, started = os.times(), time.monotonic()
    work()
    seconds, after = time.monotonic() - started, os.times()
    used = sum(after[:4]) - sum(before[:4])
    print(f"{seconds:8.2f} s  {used:8.2f} s of processors  {name}", flush=True)
    return seconds


def floor(a: Path, b: Path) -> None:
    def digest(path: Path) -> str:
        result = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                result.update(piece)
        return result.hexdigest()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(digest, [*a.iterdir(), *b.iterdir()]))


def ours(a: Path, b: Path, *options: str, different: int = 0, before: tuple[str, ...] = ()) -> None:
    said = run([*before, sys.executable, "-m", "detbuild", "compare", str(a), str(b), *options])
    assert f"\nDifferent: {different}\nMissing: 0\n" in f"\n{said}", said[-500:]


def first_finding(a: Path, b: Path) -> None:
    command = [sys.executable, "-m", "detbuild", "compare", str(a), str(b)]
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.terminate()
    assert line.startswith("different"), line


def oe(work: Path, a: Path, b: Path) -> None:
    """As oeqa's selftest for reproducibility does it: cmp(1) on every pair, then diffoscope on what differs."""
    for number, path in enumerate(sorted(a.iterdir())):
        if subprocess.run(["cmp", "--quiet", path, b / path.name], check=False).returncode:
            program = find_diffoscope() or "diffoscope"
            run([program, "--no-progress", "--text", str(work / f"text{number}"), str(path), str(b / path.name)])


def run(command: list[str]) -> str:
    """What it printed."""
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command[0]} ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(LIBRARY)}


if __name__ == "__main__":
    sys.exit(main())
