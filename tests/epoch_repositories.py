"""Real git repositories with fixed dates, for the tests of the epoch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main")


def git(directory: Path, *arguments: str, date: int = 0) -> str:
    """Run git in ``directory``, with both dates of a commit at ``date`` (seconds); returns what it prints."""
    dates = {"GIT_AUTHOR_DATE": f"@{date} +0000", "GIT_COMMITTER_DATE": f"@{date} +0000"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *IDENTITY, "-c", "protocol.file.allow=always", *arguments]
    result = subprocess.run(command, cwd=directory, env={**clean, **dates}, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def repository(directory: Path, date: int, message: str = "change") -> str:
    """A repository with one commit of one file; returns the commit's SHA."""
    directory.mkdir(parents=True, exist_ok=True)
    git(directory, "init", "-q")
    return commit(directory, date, message)


def commit(directory: Path, date: int, message: str = "change") -> str:
    """One more commit at ``date``; returns its SHA."""
    directory.joinpath("file").write_text(f"{message} {date}\n")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", message, date=date)
    return git(directory, "rev-parse", "HEAD")
