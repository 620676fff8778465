"""What the documents point to is there, and what they show works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild.cli import main as entrance

TOP = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(TOP.glob("*.md")), *sorted((TOP / "docs").glob("*.md"))]
README = (TOP / "README.md").read_text()

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@each_document
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", document.read_text())
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", prose)
    assert [link for link in links if not (document.parent / link).exists()] == []


@each_document
def test_files_named_in_a_document_exist(document: Path) -> None:
    named = re.findall(
        r"(?<!/usr/)(?<!/var/)\b((?:lib|tests|classes|conf|docs|examples|kas|bitbake-setup|scripts)/[\w./-]*\w)",
        document.read_text(),
    )
    placeholders = ("NAME", "report-", "runtime")
    missing = [path for path in named if not (TOP / path).exists() and not any(word in path for word in placeholders)]
    assert missing == []


def test_every_subcommand_stands_in_the_readme() -> None:
    for name in entrance.names():
        assert re.search(rf"detbuild[- ]{name}\b", README), name


def test_the_readme_has_what_yocto_check_layer_asks_for() -> None:
    # From test_readme in OE-Core's scripts/lib/checklayer/cases/common.py.
    assert "maintainer" in README.lower()
    assert "patch" in README.lower()
    assert re.search(r"[^@]+@[^@]+", README)
    assert "README" not in README


def test_the_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    block = re.search(r"^    import detbuild\n(?:(?:    .*)?\n)+", README, re.M)
    assert block
    program = "\n".join(line[4:] for line in block[0].splitlines())
    (tmp_path / "Makefile").write_text("all:\n\tdate +%s > made\n")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == "1700000000\n"
    assert "date" in done.stdout


SOURCES = ("*.py", "*.c", "*.h", "*.bb", "*.bbclass", "*.conf", "*.service", "*.socket", "scripts/*")


def test_every_source_file_names_its_licence() -> None:
    listed = subprocess.run(["git", "-C", str(TOP), "ls-files", "-z", *SOURCES], capture_output=True, check=True).stdout
    files = [
        TOP / name for name in listed.decode().split("\0") if name and not name.startswith(("tests/", "examples/"))
    ]
    assert len(files) > 100
    without = [path for path in files if (text := path.read_text()) and "SPDX-License-Identifier: " not in text[:200]]
    assert without == []
