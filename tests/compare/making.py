"""Packages made by the programs that really make them, each from one file and one set of control fields."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOMENT = 1_600_000_000  # seconds; every time in these packages, so that only what a test changes differs


def control(package: str, recipe: str | None) -> str:
    """Fields as package_deb.bbclass writes them; without a recipe, as anybody else does."""
    lines = ["Version: 1.0-r0", "Description: a test", "Section: base", "Priority: optional"]
    lines += ["Maintainer: Nobody <nobody@example.com>", "Architecture: all"]
    lines += [f"OE: {recipe}"] if recipe else []
    return "\n".join([f"Package: {package}", *lines, ""])


def make_deb(tree: Path, package: str, recipe: str | None, contents: str = "x\n", compression: str = "gzip") -> Path:
    """A .deb by dpkg-deb, with `contents` in /usr/share/PACKAGE."""
    with _root(package, contents) as root:
        (root / "DEBIAN").mkdir(mode=0o755)
        (root / "DEBIAN/control").write_text(control(package, recipe))
        _set_times(root)
        path = tree / f"{package}_1.0-r0_all.deb"
        tree.mkdir(parents=True, exist_ok=True)
        _run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "-b", str(root), str(path))
    return path


def make_ipk(tree: Path, package: str, recipe: str, outer: str = "ar", suffix: str = ".gz") -> Path:
    """An .ipk by ar or tar, in the way of opkg-build, whose parts are compressed as `suffix` says."""
    tree.mkdir(parents=True, exist_ok=True)
    path = (tree / f"{package}_1.0-r0_all.ipk").absolute()
    with _root(package, "x\n") as root, tempfile.TemporaryDirectory() as work:
        (root / "CONTROL").mkdir()
        (root / "CONTROL/control").write_text(control(package, recipe))
        _set_times(root)
        Path(work, "debian-binary").write_text("2.0\n")
        _run("tar", "-C", str(root / "CONTROL"), "-caf", f"{work}/control.tar{suffix}", ".")
        _run("tar", "-C", str(root), "--exclude=./CONTROL", "-caf", f"{work}/data.tar{suffix}", ".")
        parts = ["debian-binary", f"data.tar{suffix}", f"control.tar{suffix}"]
        if outer == "ar":
            _run("ar", "-crfD", str(path), *parts, cwd=work)
        else:
            _run("tar", "-czf", str(path), *(f"./{part}" for part in parts), cwd=work)
    return path


def make_rpm(tree: Path, package: str, recipe: str) -> Path:
    """An .rpm by rpmbuild, from a spec like that of package_rpm.bbclass: named after the recipe, split by ``-n``."""
    tree.mkdir(parents=True, exist_ok=True)
    with _root(package, "x\n") as root, tempfile.TemporaryDirectory() as work:
        same = package == recipe
        spec = [f"Name: {recipe}", "Version: 1.0", "Release: r0", "Summary: a test", "License: MIT", "Group: base"]
        spec += ["%description", "a test"]
        if not same:
            spec += [f"%package -n {package}", "Summary: a test", "Group: base"]
            spec += [f"%description -n {package}", "a test"]
        spec += ["%files" if same else f"%files -n {package}", f'"/usr/share/{package}"', ""]
        Path(work, "test.spec").write_text("\n".join(spec))
        defines = {"_topdir": work, "_rpmdir": str(tree.absolute()), "debug_package": "%{nil}"}
        defines |= {"_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"}
        defines |= {"_use_internal_dependency_generator": "0"}
        defines |= {"__find_requires": "%{nil}", "__find_provides": "%{nil}"}
        options = [part for name, value in defines.items() for part in ("--define", f"{name} {value}")]
        command = ["rpmbuild", "--noclean", "--nodeps", "--short-circuit", "--buildroot", str(root)]
        _run(*command, *options, "--target", "noarch", "-bb", f"{work}/test.spec")
    return tree / f"{package}-1.0-r0.noarch.rpm"


@contextmanager
def readable_by_all() -> Iterator[Path]:
    """A directory that another user can enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root's power to read everything, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def _root(package: str, contents: str) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        (root / "usr/share").mkdir(parents=True)
        (root / "usr/share" / package).write_text(contents)
        yield root
    finally:
        shutil.rmtree(root)


def _set_times(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (MOMENT, MOMENT))


def _run(*command: str, cwd: str | None = None) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(MOMENT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
