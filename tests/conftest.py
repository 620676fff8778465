"""What tests of several parts share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("detbuild", deadline=None)
hypothesis.settings.load_profile("detbuild")

LIBRARY = Path(__file__).resolve().parent.parent / "lib"
# By its source, so that a copy of the library runs without an installation.
ENTRANCE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from detbuild.cli.main import main; sys.exit(main())"


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether ``condition`` came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A directory that every user can read; pytest's own are the owner's alone."""
    with tempfile.TemporaryDirectory(prefix="detbuild-tests-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def public_library(public: Path) -> Path:
    """A copy of the library that every user can read: the clone may lie in somebody's home."""
    shutil.copytree(LIBRARY, public / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    return public / "lib"


@pytest.fixture(scope="session")
def as_nobody(public_library: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs /usr/bin/python3 with the copied library as the user nobody."""
    if os.geteuid() != 0 or not shutil.which("runuser"):
        pytest.skip("only root can become another user, with runuser")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["runuser", "-u", "nobody", "--", "env", f"PYTHONPATH={public_library}", "/usr/bin/python3", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
        )

    return run


@pytest.fixture(scope="session")
def detbuild_run(public_library: Path) -> list[str]:
    """The command line of ``detbuild run`` at the epoch 1300000000, up to the command."""
    return [sys.executable, "-I", "-S", "-c", ENTRANCE, str(public_library), "run", "--epoch", "1300000000", "--"]
