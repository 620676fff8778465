"""Imports go one way: a module imports only what stands below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lib" / "detbuild"

# From the ground up. A module or folder may import what stands in an earlier row, and its own neighbours in a folder.
FLOORS = (
    ("errors",),
    ("calls", "command", "plainyaml"),
    ("strict", "outside", "surroundings"),
    ("policy", "program", "protocol", "audit", "paths", "marks"),
    ("programs", "rulefile", "git_history", "file_times", "audits"),
    ("epoch", "exposure"),
    ("unpacked",),
    ("bpf",),
    ("linux",),
    ("engine",),
    ("daemon",),
    ("client", "launch"),
    ("session",),
    ("foreground",),
    ("compare",),
    ("report",),
    ("recipe",),
    ("task",),
    ("doctor",),
    ("cli",),
)
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}
PRIVILEGED = {"linux", "engine", "daemon"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))


def part(path: Path) -> str:
    """The module or folder directly below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("detbuild.") and name.count(".")}
    return {name for name in parts if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_below_it(path: Path) -> None:
    own = part(path)
    assert own in HEIGHT, f"give {own} its floor in this test"
    upward = {name for name in imported(path) - {own} if HEIGHT[name] >= HEIGHT[own]}
    assert not upward


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_privileged_code_imports_nothing_of_comparer_and_reports(path: Path) -> None:
    if part(path) in PRIVILEGED:
        assert not imported(path) & {"compare", "report", "store", "web", "cli"}


def test_only_the_two_modules_that_receive_a_datastore_know_bitbake() -> None:
    knowing = set()
    for path in modules():
        tree = ast.parse(path.read_text())
        roots = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        roots |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if roots & {"bb", "oe"}:
            knowing.add(part(path))
    assert knowing <= {"recipe", "task", "doctor"}
