"""Sessions of fakeroot tasks: pseudo's library stands before libc, feigns seccomp(2) and lies of users and owners."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ENTRANCE, LIBRARY

pytestmark = pytest.mark.skipif(not shutil.which("pseudo"), reason="pseudo is not installed")

OWNED = "touch made; chown 5:6 made; stat -c %u:%g made; perl -e 'print syscall(201, 0), qq(\\n)'; id -u"


@pytest.fixture
def fakeroot(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which ``pseudo COMMAND`` works as in a task; its server ends with the test."""
    libraries = [str(path.parent) for path in Path("/usr/lib").glob("*/pseudo/libpseudo.so")]
    if not libraries:
        pytest.skip("pseudo's library is not where Debian puts it")
    own = {"PSEUDO_PREFIX": "/usr", "PSEUDO_LIBDIR": libraries[0], "PSEUDO_LOCALSTATEDIR": str(tmp_path / "pseudo")}
    environment = {**os.environ, **own, "LD_LIBRARY_PATH": libraries[0]}
    yield environment
    subprocess.run(["pseudo", "-S"], env=environment, check=False, timeout=120, capture_output=True)


def seen(environment: dict[str, str], place: Path, *command: str) -> list[str]:
    done = subprocess.run(
        ["pseudo", *command], env=environment, cwd=place, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_tracer_holds_a_fakeroot_task(fakeroot: dict[str, str], tmp_path: Path) -> None:
    run = [sys.executable, "-c", ENTRANCE, str(LIBRARY), "run", "--engine", "tracer", "--epoch", "1300000000", "--"]
    assert seen(fakeroot, tmp_path, *run, "sh", "-c", OWNED) == ["5:6", "1300000000", "0"]


TASK = """
import functools, subprocess, sys
sys.path[:0] = sys.argv[1:3]
from detbuild.engine import ebpf, refusals, supervisor
from detbuild.session import attach
from supervised import DoubleBell
refusals.yama_scope = lambda: 0
supervisor.start = functools.partial(supervisor.start, bell=lambda: DoubleBell(1_300_000_000))
ebpf._prove = lambda epoch: None
attached = attach(1_300_000_000, engine="ebpf")
subprocess.run(["sh", "-c", sys.argv[3]], check=True)
audit = attached.close()
assert not audit.gaps, audit.to_text()
"""


def test_the_ebpf_engine_holds_a_fakeroot_task(
    fakeroot: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a kernel of make-believe: what BPF does knows nothing of pseudo."""
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemon")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "daemon"))
    from daemons import Daemon

    with Daemon(tmp_path) as daemon:
        fakeroot["DETBUILD_SOCKET"] = str(daemon.path)
        engine = str(Path(__file__).resolve().parent)
        out = seen(fakeroot, tmp_path, sys.executable, "-c", TASK, str(LIBRARY), engine, OWNED)
        assert out == ["5:6", "1300000000", "0"]
        assert "opened: user 0" in daemon.log
