"""Under rule identity the session's user and group are called builder, whoever builds; root stays root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from results import EPOCH, run

SCRIPT = f"""
import subprocess
from detbuild import Session
with Session({EPOCH}, "strict", "tracer") as session:
    session.run(["sh", "-c", "id -un; id -gn; id -u nobody; id -u; cd /usr/bin; tar -c id | tar -tv | cut -d' ' -f2"])
assert not session.audit.gaps, session.audit.to_text()
"""


def test_an_ordinary_user_and_its_group_are_called_builder_and_found_by_their_own_names_too(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = as_nobody("-c", SCRIPT)
    assert done.stdout.split() == ["builder", "builder", "65534", "65534", "root/root"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is root")
def test_root_is_called_root() -> None:
    assert run("tracer", "sh", "-c", "id -un; id -gn", policy="strict").lines == ["root", "root"]
