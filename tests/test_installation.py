"""What ``pip install .`` leaves in a virtual environment: the whole library, and commands that work from anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import detbuild

TOP = Path(__file__).resolve().parents[1]
EPOCH = 1300000000


class Installation:
    """A virtual environment with detbuild in it, whose dependencies are those of the tests' own."""

    def __init__(self, place: Path) -> None:
        source, self.venv = place / "source", place / "venv"
        # A build leaves files behind, and the clone is not to get them.
        shutil.copytree(TOP / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(TOP / name, source / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.venv)], check=True)
        self.site = next(self.venv.glob("lib/python3*/site-packages"))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        alone = ["-q", "--no-deps", "--no-index"]
        self._run([*pip, "wheel", *alone, "--no-build-isolation", "-w", str(place), str(source)])
        (wheel,) = place.glob("*.whl")
        self._run([*pip, "--python", str(self.venv / "bin/python"), "install", *alone, str(wheel)])
        # Only now, or pip takes the tests' own detbuild for this one. A .pth in there is not followed.
        others = {sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("-packages"))}
        (self.site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(others)))

    def command(self, *words: str, code: int = 0) -> str:
        """Run a console script; what it printed."""
        return self._run([str(self.venv / "bin" / words[0]), *words[1:]], code)

    def python(self, program: str) -> str:
        return self._run([str(self.venv / "bin/python"), "-c", program])

    def _run(self, command: list[str], code: int = 0) -> str:
        # PYTHONPATH could lead to the clone.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{self.venv}/bin:{Path(sys.executable).parent}:{environment['PATH']}"
        done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("installation"))


def files(package: Path) -> set[str]:
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_every_file_of_the_library_is_there_also_what_is_no_python(installed: Installation) -> None:
    wanted = files(TOP / "lib/detbuild")
    assert files(installed.site / "detbuild") == wanted
    assert {
        "bpf/clock.bpf.c",
        "report/templates/index.html",
        "py.typed",
        "daemon/headers/include/linux/types.h",
    } < wanted


@pytest.mark.parametrize("name", ["detbuild", "detbuildd"])
def test_the_commands_tell_their_version(installed: Installation, name: str) -> None:
    assert installed.command(name, "--version").strip() == f"detbuild {detbuild.__version__}"


def test_the_commands_are_of_this_installation(installed: Installation) -> None:
    where = installed.python("import detbuild; print(detbuild.__file__)").strip()
    assert where == str(installed.site / "detbuild/__init__.py")


def test_an_epoch_is_found(installed: Installation, tmp_path: Path) -> None:
    (tmp_path / "NEWS").touch()
    os.utime(tmp_path / "NEWS", (EPOCH, EPOCH))
    assert json.loads(installed.command("detbuild", "epoch", "--json", str(tmp_path)))["epoch"] == EPOCH


def test_a_session_holds(installed: Installation) -> None:
    seen = installed.command("detbuild", "run", "--epoch", str(EPOCH), "--engine", "tracer", "--", "date", "+%s")
    assert int(seen) - EPOCH in range(10)


def test_two_trees_are_compared_and_the_report_has_its_templates(installed: Installation, tmp_path: Path) -> None:
    for tree in "ab":
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "same").write_text("same")
        (tmp_path / tree / "other").write_text(f"of {tree}\n")
    trees = [str(tmp_path / tree) for tree in "ab"]
    said = installed.command("detbuild-compare", *trees, "--html", str(tmp_path / "report"), code=1)
    assert said.splitlines()[-4:] == ["Same: 1", "Different: 1", "Missing: 0", "Total: 2"]
    index = (tmp_path / "report/index.html").read_text()
    assert "<style>" in index
    assert [page for page in (tmp_path / "report/pages").glob("*.html") if f'href="pages/{page.name}"' in index]


def test_the_daemon_finds_its_programs(installed: Installation) -> None:
    size = installed.python("from detbuild.daemon import loader; print(len(loader.source()), loader.HEADERS.is_dir())")
    assert int(size.split()[0]) > 10000
    assert size.split()[1] == "True"
