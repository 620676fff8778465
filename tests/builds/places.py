"""The two directories in which a program is built, and in which files its builds there differ beyond their paths."""

from __future__ import annotations

import subprocess

from workshop import Build

PLACES = ("one-place", "elsewhere")  # of one length: what has a path in it stays comparable


def differing(first: Build, second: Build) -> list[str]:
    """The files, of all that either installed."""
    names = sorted(first.installed.keys() | second.installed.keys())
    return [name for name in names if not _alike(name, first, second)]


def _alike(name: str, first: Build, second: Build) -> bool:
    digests = [build.installed.get(name) for build in (first, second)]
    if None in digests or digests[0] == digests[1]:
        return digests[0] == digests[1]
    return _without_paths(first, name) == _without_paths(second, name)


def _without_paths(build: Build, name: str) -> bytes:
    """Its bytes without the build's path, and without what is made of that: debug information and the build id."""
    file, bare = build.target / name, build.target.with_name("bare")
    strip = ["objcopy", "--strip-debug", "--remove-section=.note.gnu.build-id", str(file), str(bare)]
    elf = file.read_bytes().startswith(b"\x7fELF")
    if elf:
        subprocess.run(strip, check=True)
    data = (bare if elf else file).read_bytes()
    for place in PLACES:
        data = data.replace(place.encode(), b"PATH")
    return data
