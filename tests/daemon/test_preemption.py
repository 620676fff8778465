"""Whether fexit programs can be trusted is told by what the kernel says of its preemption."""

from __future__ import annotations

from pathlib import Path

import pytest

from detbuild.daemon.preemption import preempts

DYNAMIC = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"


@pytest.mark.parametrize(
    ("says", "expected"),
    [("(none) voluntary full", False), ("none (voluntary) full", False), ("none voluntary (full)", True),
     ("full (lazy)", True), ("", True)],
)  # fmt: skip
def test_debugfs_decides(tmp_path: Path, says: str, expected: bool) -> None:
    (tmp_path / "preempt").write_text(says + "\n")
    assert preempts((tmp_path / "none", tmp_path / "preempt")) is expected


@pytest.mark.parametrize(
    ("cmdline", "version", "expected"),
    [("quiet preempt=none", DYNAMIC, False), ("preempt=none preempt=full", DYNAMIC, True), ("quiet", DYNAMIC, True),
     ("quiet", "#1 SMP Debian 5.15", False), ("quiet", "#1 SMP PREEMPT Mon", True), ("", "#1 SMP PREEMPT_RT", True)],
)  # fmt: skip
def test_without_debugfs_the_version_and_the_command_line_do(
    tmp_path: Path, cmdline: str, version: str, expected: bool
) -> None:
    (tmp_path / "cmdline").write_text(cmdline + "\n")
    assert preempts((tmp_path / "none",), tmp_path / "cmdline", version) is expected
