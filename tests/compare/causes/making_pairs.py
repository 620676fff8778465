"""The labelled set: pairs of artefacts made by real programs, each with the one cause that makes it differ.

A maker runs in a directory for each side and leaves the file ``out`` there. Nothing is edited by hand afterwards: the
program, its environment, its options or its place differ, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MOMENTS = {"a": 1_700_000_000, "b": 1_731_234_567}
PLACES = {"a": "build", "b": "elsewhere-longer"}

Make = Callable[["Side"], None]


@dataclass
class Side:
    """One of the two builds. ``home`` is where it happens, ``moment`` its time in seconds."""

    name: str
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def moment(self) -> int:
        return MOMENTS[self.name]

    def pick(self, a: str, b: str) -> str:
        return a if self.name == "a" else b

    def run(self, *command: str, **environment: str) -> str:
        """Run a program here; returns what it said."""
        done = subprocess.run(
            command,
            cwd=self.home,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", **self.environment, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str, **environment: str) -> str:
        return self.run("/bin/sh", "-ec", script, **environment)

    def python(self, script: str, **environment: str) -> str:
        environment.setdefault("PYTHONHASHSEED", "0")
        return self.run("/usr/bin/python3", "-c", textwrap.dedent(script), **environment)

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def age(self, *names: str, moment: int | None = None) -> None:
        """Give files one time of change, so that it is not what differs."""
        for name in names:
            path = self.home / name
            for one in (path, *(path.rglob("*") if path.is_dir() else ())):
                os.utime(one, (moment or MOMENTS["a"],) * 2, follow_symlinks=False)

    def faked(self) -> dict[str, str]:
        """This side's own time for programs that read SOURCE_DATE_EPOCH."""
        return {"SOURCE_DATE_EPOCH": str(self.moment)}


@dataclass(frozen=True)
class Pair:
    """``needs`` are programs without which it cannot be made. ``same_place``: both sides are made in one directory."""

    name: str
    cause: str
    make: Make
    needs: tuple[str, ...] = ()
    same_place: bool = True

    @property
    def missing(self) -> str:
        return next((program for program in self.needs if not shutil.which(program, path=PATH)), "")


PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
PAIRS: list[Pair] = []


def pair(cause: str, *needs: str, place: bool = False) -> Callable[[Make], Make]:
    """Register a maker; `place` builds the two sides in directories of different names and lengths."""

    def register(make: Make) -> Make:
        PAIRS.append(Pair(make.__name__, cause, make, needs, not place))
        return make

    return register


def build(one: Pair, top: Path) -> tuple[Path, Path]:
    """Make both sides; returns the two files called ``out``."""
    found = []
    for name in ("a", "b"):
        home = top / ("place" if one.same_place else PLACES[name]) / "work"
        home.mkdir(parents=True)
        one.make(Side(name, home, {"HOME": str(top)}))
        if one.same_place:
            home = home.parent.rename(top / name) / "work"
        found.append(home / "out")
    return found[0], found[1]


HELLO = """
    #include <stdio.h>
    int add(int a, int b) { return a + b; }
    int main(int argc, char **argv) { printf("hello %d\\n", add(argc, 2)); return 0; }
"""


def tree(side: Side, name: str = "tree") -> None:
    """Some files of one age, owned by whoever runs this."""
    for number in range(6):
        side.write(f"{name}/usr/share/doc/part{number}.txt", f"part {number}\n" * 40)
    side.write(f"{name}/usr/bin/tool", "#!/bin/sh\necho tool\n").chmod(0o755)
    side.age(name)


def package(side: Side, out: str = "out") -> None:
    """A .deb of the directory ``tree``, with nothing of its own that differs."""
    side.write(
        "tree/DEBIAN/control",
        """\
        Package: thing
        Version: 1.0
        Architecture: all
        Maintainer: Nobody <nobody@example.com>
        Description: thing
    """,
    )
    side.age("tree")
    side.run("dpkg-deb", "--root-owner-group", "-Zxz", "-b", "tree", out, SOURCE_DATE_EPOCH=str(MOMENTS["a"]))
