"""The test programs of the clock table, built with the compilers of this machine: run them anywhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "sources"
_C = ["gcc", "-O1", "-Wno-attribute-warning", "-pthread", str(SOURCES / "clocks.c")]

# Name of the program -> the command that builds it, without the output.
BUILDS = {
    "dynamic": _C,
    "static": [*_C, "-static"],
    "dynamic32": [*_C, "-m32"],
    "static32": [*_C, "-m32", "-static"],
    "clocks-go": ["go", "build", str(SOURCES / "clocks.go")],
}


def build(directory: Path) -> None:
    """Build every program into ``directory``. Raises CalledProcessError where a compiler fails."""
    for name, command in BUILDS.items():
        output = directory / name
        words = [*command, "-o", str(output)] if command[0] == "gcc" else [*command[:2], "-o", str(output), command[2]]
        environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off", "GOCACHE": str(directory / "go-cache")}
        subprocess.run(words, check=True, env=environment, cwd=directory)
        output.chmod(0o755)
