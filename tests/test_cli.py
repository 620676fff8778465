"""The command's entrance."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from detbuild import __version__
from detbuild.cli import main as entrance
from detbuild.errors import DetbuildError


def detbuild(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detbuild", *arguments], check=False, capture_output=True, text=True, timeout=120
    )


def test_version_is_the_packages() -> None:
    assert detbuild("--version").stdout == f"detbuild {__version__}\n"


def test_help_names_every_subcommand() -> None:
    text = detbuild("--help").stdout
    assert {"run"} <= set(entrance.names())
    assert all(f"\n    {name} " in text for name in entrance.names())


def test_an_unknown_subcommand_is_trouble() -> None:
    result = detbuild("nonsense")
    assert result.returncode == 2
    assert "nonsense" in result.stderr


@pytest.mark.parametrize(
    ("cause", "remedy", "text"),
    [
        ("", "", "it was refused"),
        ("the disk is full", "", "it was refused. The disk is full"),
        ("the disk is full.", "make room", "it was refused. The disk is full. Make room"),
    ],
)
def test_an_error_reads_as_sentences(cause: str, remedy: str, text: str) -> None:
    assert str(DetbuildError("it was refused", cause=cause, remedy=remedy)) == text


@pytest.mark.parametrize(("arguments", "code"), [(["run", "--nonsense"], 125), (["epoch", "--nonsense", "."], 2)])
def test_a_call_that_cannot_be_understood_exits_as_its_subcommand_in_trouble(arguments: list[str], code: int) -> None:
    result = detbuild(*arguments)
    assert result.returncode == code
    assert "--nonsense" in result.stderr or "required" in result.stderr


@pytest.mark.parametrize(("name", "code"), [("compare", 2), ("explain", 2), ("run", 125)])
def test_a_defect_is_told_as_one_and_is_never_taken_for_an_answer(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own status is 1, by which a comparison says that something differs."""
    module = entrance.load(name)

    def broken(args: argparse.Namespace) -> int:
        raise IndexError("list index out of range")

    monkeypatch.setattr(module, "run", broken)
    assert entrance.execute(module, argparse.Namespace()) == code
    *lines, raised, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert raised == "IndexError: list index out of range"
    assert last == "detbuild: this is a defect of detbuild: report it, with the lines above"
