"""The programs that a comparison names, from records of real sessions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from making import make_deb

from detbuild import audits
from detbuild.compare import Comparing, Options

# What an emulator is to a session: a program that reads the clock on behalf of another, named by its arguments.
EMULATOR = '#include <stdio.h>\n#include <time.h>\nint main(void) { printf("%ld\\n", (long) time(0)); }\n'
SCRIPT = "./qemu-aarch64 -r 5.15 -L root root/usr/bin/g-ir-scanner -v\n"


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, Path]:
    """Two deploy directories with a package of another date; B's has the record of the task that made it."""
    (tmp_path / "emulator.c").write_text(EMULATOR)
    subprocess.run(["gcc", "-o", tmp_path / "qemu-aarch64", tmp_path / "emulator.c"], check=True)
    (tmp_path / "scan.sh").write_text(SCRIPT)
    record = tmp_path / "audit.json"
    command = [sys.executable, "-m", "detbuild", "run", "--engine", "tracer", "--policy", "observe", "--epoch", "1"]
    command += ["--audit", str(record), "--", "sh", "scan.sh"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for side, day in (("a", 21), ("b", 22)):
        make_deb(tmp_path / side / "deploy/deb", "hello", "hello", f"built 2026-11-{day} 10:11:12\n")
    where = audits.place(tmp_path / "b/deploy" / audits.DIRECTORY, "hello", "do_compile")
    where.path.parent.mkdir()
    shutil.copy(record, where.path)
    return tmp_path / "a/deploy/deb", tmp_path / "b/deploy/deb"


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_of_a_program_run_by_qemu_the_guest_is_named(built: tuple[Path, Path]) -> None:
    with Comparing(*built, Options(deep=False)) as comparing:
        (finding,) = comparing.run()
    assert finding.cause == "timestamp"
    (culprit,) = [said for said in finding.culprits if "clock_gettime" in said or " read time" in said]
    assert culprit.startswith("from recipe hello, do_compile: g-ir-scanner <- scan.sh read ")
    assert not any("qemu" in said for said in finding.culprits)
