"""Archives that programs make in a session are the same whenever they are made; outside none of these is."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from results import ENGINES, EPOCH, PYTHON, USABLE, gaps, run

pytestmark = pytest.mark.parametrize("engine", ENGINES)

_ZIP = "import zipfile\nwith zipfile.ZipFile('it.zip', 'w') as z: z.write('tree/a.py'); z.write('tree/b')"
_TAR = "import tarfile\nwith tarfile.open('it.tar', 'w', format=tarfile.PAX_FORMAT) as t: t.add('tree')"
_PERL_TAR = "use Archive::Tar; Archive::Tar->create_archive('it.tar', 0, 'tree/a.py', 'tree/b') or die"
_MEMBERS = "find tree | LC_ALL=C sort"

# Kind -> the program that it needs, the command, the file that it makes.
ARCHIVES: dict[str, tuple[str, str, str]] = {
    "tar": ("tar", "tar --sort=name -cf it tree", "it"),
    "tar in ustar format": ("tar", "tar --sort=name --format=ustar -cf it tree", "it"),
    "tar in pax format": ("tar", "tar --sort=name --format=pax -cf it tree", "it"),
    "tar through gzip": ("tar", "tar --sort=name -czf it tree", "it"),
    "python's tarfile": (PYTHON, f'{PYTHON} -I -c "{_TAR}"', "it.tar"),
    "perl's Archive::Tar": ("perl", f'perl -e "{_PERL_TAR}"', "it.tar"),
    "zip": ("zip", "zip -q it.zip tree/a.py tree/b", "it.zip"),
    "python's zipfile": (PYTHON, f'{PYTHON} -I -c "{_ZIP}"', "it.zip"),
    "python's shutil.make_archive": (
        PYTHON, f"{PYTHON} -I -c \"import shutil; shutil.make_archive('it', 'gztar', '.', 'tree')\"", "it.tar.gz",
    ),
    # Every format of cpio holds inode numbers, which --reproducible renumbers.
    "cpio": ("cpio", f"{_MEMBERS} | cpio --quiet --reproducible -o >it", "it"),
    "cpio in newc format": ("cpio", f"{_MEMBERS} | cpio --quiet --reproducible -o -H newc >it", "it"),
    "pax": ("pax", f"{_MEMBERS} | pax -wd -x ustar >it", "it"),
    "ar without D": ("ar", "ar rcU it.a tree/a.py tree/b && ranlib -U it.a", "it.a"),
    "gzip of a file": ("gzip", "gzip -k tree/b && mv tree/b.gz it", "it"),
    "python's gzip": (PYTHON, f"{PYTHON} -I -m gzip tree/b && mv tree/b.gz it", "it"),
    "jar": ("jar", "jar cf it.jar -C tree a.py -C tree b", "it.jar"),
    "python's bytecode": (PYTHON, f"{PYTHON} -I -m py_compile tree/a.py && mv tree/__pycache__/a.*.pyc it", "it"),
    "python's compileall": (
        PYTHON, f"{PYTHON} -I -m compileall -q tree && mv tree/__pycache__/a.*.pyc it", "it",
    ),
    "squashfs": ("mksquashfs", "mksquashfs tree it -noappend -quiet -no-progress", "it"),
}  # fmt: skip


PRESENT = [kind for kind, (need, _, _) in ARCHIVES.items() if shutil.which(need)]
Made = dict[str, bytes]


def _prepare(directory: Path, command: str, age: int) -> None:
    """A directory with a tree whose files are ``age`` seconds old, and the script that packs it."""
    (directory / "tree").mkdir(parents=True)
    (directory / "tree" / "a.py").write_text("print('a')\n")
    (directory / "tree" / "b").write_text("b" * 100)
    for path in (*(directory / "tree").iterdir(), directory / "tree"):
        os.utime(path, (time.time() - age,) * 2)
    (directory / "pack").write_text(command)


def _make(engine: str, where: Path, age: int) -> Made:
    """Every archive, made in one session."""
    for n, kind in enumerate(PRESENT):
        _prepare(where / str(n), ARCHIVES[kind][1], age)
    result = run(engine, "sh", "-c", "for d in *; do (cd $d && sh -e ./pack) || echo failed; done", cwd=where)
    assert result.said == (0, "", "")
    assert not gaps(result)
    return {kind: (where / str(n) / ARCHIVES[kind][2]).read_bytes() for n, kind in enumerate(PRESENT)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Made, Made]]:
    """Engine -> the archives of two runs at two times, of files of two ages; "" is outside."""

    @cache
    def get(engine: str) -> tuple[Made, Made]:
        return first[engine], _make(engine, where / f"second-{engine}", 10)

    where = tmp_path_factory.mktemp("archives")
    first = {engine: _make(engine, where / f"first-{engine}", 90_000) for engine in ("", *USABLE)}
    time.sleep(2.1)  # zip counts in steps of two seconds
    return get


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_is_the_same_in_two_runs(engine: str, kind: str, made: Callable[[str], tuple[Made, Made]]) -> None:
    if kind not in PRESENT:
        pytest.skip(f"{ARCHIVES[kind][0]} is not installed")
    first, second = made(engine)
    assert first[kind] == second[kind]
    outside = made("")
    assert outside[0][kind] != outside[1][kind], "this archive holds no time, and proves nothing"


def test_a_tar_archive_holds_the_epoch(engine: str, made: Callable[[str], tuple[Made, Made]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(made(engine)[0]["tar"])) as archive:
        assert {member.mtime for member in archive} == {EPOCH}


def test_a_zip_archive_holds_the_epoch(engine: str, made: Callable[[str], tuple[Made, Made]]) -> None:
    with zipfile.ZipFile(io.BytesIO(made(engine)[0]["zip"])) as archive:
        assert {member.date_time for member in archive.infolist()} == {time.gmtime(EPOCH)[:6]}


def test_bytecode_made_in_a_session_is_used_in_a_session(engine: str, tmp_path: Path) -> None:
    """Python compares the source's time with the one that the bytecode holds: both are shown."""
    (tmp_path / "module.py").write_text("x = 1\n")
    script = "import sys; sys.path.insert(0, '.'); import module"
    first, second = (run(engine, PYTHON, "-I", "-v", "-c", script, cwd=tmp_path).err for _ in range(2))
    assert "# created" in first
    assert "module.cpython" in "".join(line for line in second.splitlines() if " matches " in line)
