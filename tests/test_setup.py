"""scripts/setup with stand-ins for apt, sudo and the virtual environment: what it installs, and what it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
# The package is the fourth argument of dpkg-query; all are installed but MISSING.
QUERY = 'case " $MISSING " in *" $4 "*) ;; *) echo "install ok installed" ;; esac'
# "sudo -n true" asks whether it works.
SUDO = '[ "$1" != -n ] || exit 0; "$@"'


class Machine:
    """A clone whose setup calls ``calls`` instead of apt, sudo and pip."""

    def __init__(self, place: Path) -> None:
        self.clone, self._bin, self._calls = place / "clone", place / "bin", place / "calls"
        (self.clone / "scripts").mkdir(parents=True)
        shutil.copy(TOP / "scripts/setup", self.clone / "scripts/setup")
        shutil.copy(TOP / "pyproject.toml", self.clone)
        self._bin.mkdir()
        self.program(self._bin / "dpkg-query", QUERY)
        for name in ("apt-get", "python"):
            where = self.clone / ".venv/bin" if name == "python" else self._bin
            self.program(where / name, f'echo "{name} $*" >> {self._calls}')

    def program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def user(self, number: int, sudo: bool) -> None:
        self.program(self._bin / "id", f"echo {number}")
        self.program(self._bin / "sudo", SUDO if sudo else "exit 1")

    def setup(self, *purpose: str, missing: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self._bin}:/usr/bin:/bin", "MISSING": missing}
        environment.pop("DETBUILD_NO_APT", None)
        command = ["sh", str(self.clone / "scripts/setup"), *purpose]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines() if self._calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_root_and_sudo_it_says_exactly_what_to_install_and_does_nothing(machine: Machine) -> None:
    machine.user(1000, sudo=False)
    done = machine.setup("test", missing="gdb perl")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "    sudo apt-get install --no-install-recommends perl gdb"
    assert machine.calls == []


@pytest.mark.parametrize(("user", "sudo"), [(0, False), (1000, True)])
def test_as_root_or_with_sudo_it_installs_what_is_missing_and_no_more(machine: Machine, user: int, sudo: bool) -> None:
    machine.user(user, sudo)
    done = machine.setup("test", missing="gdb perl")
    assert done.returncode == 0, done.stderr
    update, install, pip = machine.calls
    assert update.startswith("apt-get update")
    assert install.split()[-2:] == ["perl", "gdb"]
    assert install.split()[-3].startswith("-")
    assert pip.startswith("python -m pip install ")


def test_what_only_the_tests_need_is_not_installed_for_a_user(machine: Machine) -> None:
    machine.user(0, sudo=False)
    assert machine.setup(missing="gdb").returncode == 0
    assert [call for call in machine.calls if call.startswith("apt-get")] == []


def test_a_second_run_does_nothing_and_a_changed_dependency_installs_again(machine: Machine) -> None:
    machine.user(0, sudo=False)
    counts = []
    for addition in ("", "", "# another\n"):
        with (machine.clone / "pyproject.toml").open("a") as file:
            file.write(addition)
        assert machine.setup().returncode == 0
        counts.append(len(machine.calls))
    assert counts == [1, 1, 2]
