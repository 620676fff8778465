"""After one edit a build in a session rebuilds exactly what it rebuilds outside, and configure's checks pass."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from results import ENGINES, Result, gaps, run

pytestmark = pytest.mark.parametrize("engine", ENGINES)

_MAKEFILE = """\
program: main.o other.o
\tcc -o $@ $^
%.o: %.c common.h
\tcc -c -o $@ $<
main.o: generated.h
generated.h: generate.sh
\tsh generate.sh >$@.new
\tcmp -s $@.new $@ || mv -f $@.new $@
\ttouch $@
copy: program
\tcp -p program copy
stamp: copy
\ttouch -r copy stamp
all: program copy stamp
"""

_NINJA = """\
rule cc
  command = cc -MMD -MF $out.d -c -o $out $in
  depfile = $out.d
  deps = gcc
rule link
  command = cc -o $out $in
rule generate
  command = sh generate.sh >$out.new && (cmp -s $out.new $out || mv -f $out.new $out)
  restat = 1
build generated.h: generate generate.sh
build main.o: cc main.c || generated.h
build other.o: cc other.c
build program: link main.o other.o
"""


@pytest.fixture
def sources(tmp_path: Path) -> Callable[[str], Path]:
    """A small C project of one minute ago, once for each name."""

    def make(name: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        files = {
            "main.c": '#include "common.h"\n#include "generated.h"\nint main(void) { return other() - VALUE; }\n',
            "other.c": '#include "common.h"\nint other(void) { return 7; }\n',
            "common.h": "int other(void);\n",
            "generate.sh": "echo '#define VALUE 7'\n",
            "Makefile": _MAKEFILE,
            "build.ninja": _NINJA,
        }
        for file, text in files.items():
            (directory / file).write_text(text)
            os.utime(directory / file, (time.time() - 60,) * 2)
        return directory

    return make


def _said(result: Result) -> tuple[int, list[str]]:
    """The code and every command that was run: jobs come in any order."""
    text = result.out + result.err
    assert "skew" not in text
    assert "future" not in text
    assert not gaps(result)
    return result.code, sorted(re.sub(r"^\[\d+/\d+\] ", "", line) for line in text.splitlines())


def _replace_the_generator(top: Path) -> None:
    (top / "generate.sh").write_text("echo '#define VALUE 07'\n")


EDITS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda _: None,
    "a source": lambda top: (top / "other.c").touch(),
    "a header": lambda top: (top / "common.h").touch(),
    "a generator of the same": lambda top: (top / "generate.sh").touch(),
    "a generator of something else": _replace_the_generator,
    "a lost object": lambda top: (top / "main.o").unlink(),
}

TOOLS: dict[str, tuple[str, ...]] = {
    "make": ("make", "all"),
    "make with jobs": ("make", "-j4", "all"),
    "ninja": ("ninja", "-v"),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_rebuild_does_what_it_does_outside(engine: str, tool: str, sources: Callable[[str], Path]) -> None:
    command = TOOLS[tool]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    inside, outside = sources("inside"), sources("outside")
    for which, top in ((engine, inside), ("", outside)):
        assert run(which, *command, cwd=top).code == 0
        assert run(which, "./program", cwd=top).code == 0
    for name, edit in EDITS.items():
        rebuilt = []
        for which, top in ((engine, inside), ("", outside)):
            edit(top)
            rebuilt.append([_said(run(which, *command, cwd=top)) for _ in range(2)])
        assert rebuilt[0] == rebuilt[1], name
    # What a session built, the outside finds up to date, and the other way round.
    assert _said(run("", *command, cwd=inside)) == _said(run("", *command, cwd=outside))
    assert _said(run(engine, *command, cwd=outside)) == _said(run("", *command, cwd=outside))


# What configure does before all else (AM_SANITY_CHECK), and what config.status does to its outputs.
_CONFIGURE = r"""
sleep 1
echo timestamp > conftest.file
am_has_slept=no
for am_try in 1 2; do
  set X `ls -Lt "./configure" conftest.file`
  if test "$*" != "X ./configure conftest.file" && test "$*" != "X conftest.file ./configure"; then
    echo "ls -t appears to fail"; exit 1
  fi
  if test "$2" = conftest.file || test $am_try -eq 2; then break; fi
  sleep 1
  am_has_slept=yes
done
test "$2" = conftest.file || { echo "newly created file is older than distributed files"; exit 1; }
rm -f conftest.file
if find conf$$.dir -newer configure 2>/dev/null | grep -q .; then exit 2; fi
echo "slept again: $am_has_slept"
"""


def test_configure_finds_its_build_environment_sane(engine: str, tmp_path: Path) -> None:
    (tmp_path / "configure").write_text(_CONFIGURE)
    result = run(engine, "sh", "./configure", cwd=tmp_path)
    assert result.said == (0, "slept again: no\n", "")


def test_files_that_are_older_than_the_epoch_are_sane_too(engine: str, tmp_path: Path) -> None:
    (tmp_path / "configure").write_text(_CONFIGURE)
    os.utime(tmp_path / "configure", (1_200_000_000,) * 2)
    assert run(engine, "sh", "./configure", cwd=tmp_path).said == (0, "slept again: no\n", "")


def test_a_regenerated_configure_passes(engine: str, tmp_path: Path) -> None:
    if not shutil.which("autoreconf"):
        pytest.skip("autoconf and automake are not installed")
    (tmp_path / "configure.ac").write_text(
        "AC_INIT([small], [1])\nAM_INIT_AUTOMAKE([foreign])\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n"
    )
    (tmp_path / "Makefile.am").write_text("noinst_SCRIPTS = small\nsmall:\n\techo small >$@\n")
    result = run(engine, "sh", "-c", "autoreconf -i && ./configure && make && make", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "sane... yes" in result.out
    # Nothing regenerates configure or the Makefile a second time.
    assert result.out.count("checking whether build environment is sane") == 1
    assert "skew" not in result.err


def test_cargo_rebuilds_what_it_rebuilds_outside(engine: str, tmp_path: Path) -> None:
    if not shutil.which("cargo") or run("", "cargo", "--version").code:
        pytest.skip("cargo is not installed")
    rebuilt = []
    for which in (engine, ""):
        top = tmp_path / (which or "outside")
        (top / "src").mkdir(parents=True)
        (top / "Cargo.toml").write_text('[package]\nname = "small"\nversion = "1.0.0"\nedition = "2021"\n')
        (top / "src" / "main.rs").write_text("mod part;\nfn main() { std::process::exit(part::seven() - 7) }\n")
        (top / "src" / "part.rs").write_text("pub fn seven() -> i32 { 7 }\n")
        build = ("cargo", "build", "--offline", "--quiet", "--message-format=json")
        steps = []
        for edit in ("", "", "src/part.rs"):
            if edit:
                (top / edit).touch()
            result = run(which, *build, cwd=top, timeout=120, CARGO_HOME=str(tmp_path / "cargo"))
            assert (result.code, result.err) == (0, "")
            steps.append('"fresh":true' in result.out)
            assert run(which, "target/debug/small", cwd=top).code == 0
        rebuilt.append(steps)
    assert rebuilt == [[False, True, False]] * 2
