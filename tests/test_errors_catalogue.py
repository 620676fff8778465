"""Every error that the library can raise for a user stands in docs/errors.md, and nothing else does."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from detbuild import errors

TOP = Path(__file__).resolve().parents[1]
CATALOGUE = (TOP / "docs" / "errors.md").read_text()
NAMES = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DetbuildError)}


def templates(node: ast.expr) -> list[str]:
    """Messages with … for what is filled in; none for one that was made elsewhere and is handed on."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return templates(node.body) + templates(node.orelse)
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        text = "".join(str(part) for part in parts)
        return [text] if text.strip("… .:") else []
    return []


def raised() -> Iterator[tuple[str, str]]:
    for path in sorted((TOP / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NAMES:
                for message in templates(node.args[0]) if node.args else []:
                    yield message, f"{path.relative_to(TOP)}:{node.lineno}"


def catalogued() -> list[str]:
    return re.findall(r"^### `(.+)`$", CATALOGUE, re.M)


def test_every_error_stands_in_the_catalogue() -> None:
    known = set(catalogued())
    missing = [f"{where}: {message}" for message, where in raised() if message not in known]
    assert not missing, "docs/errors.md lacks:\n" + "\n".join(missing)


def test_the_catalogue_names_no_error_that_is_gone() -> None:
    messages = {message for message, _ in raised()}
    assert not [entry for entry in catalogued() if entry not in messages]


def test_each_entry_tells_its_trigger_and_its_fix() -> None:
    for entry in re.split(r"^### ", CATALOGUE, flags=re.M)[1:]:
        assert "**When:**" in entry, entry
        assert "**Do:**" in entry, entry
