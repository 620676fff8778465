"""The eBPF engine on a real kernel: one virtual machine for each way in which a kernel may preempt itself.

Every check inside is one test here: the claims of ``claims.py``, and the table of cases that all engines share.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "engine"), str(TESTS), str(TESTS / "kernel")]

import claims  # noqa: E402  # these lie in directories that are on no path
import clock_cases  # noqa: E402
import clock_programs  # noqa: E402
import machine  # noqa: E402
import results  # noqa: E402
import strict_cases  # noqa: E402
import strict_table  # noqa: E402
import table  # noqa: E402
from disk import Disk  # noqa: E402

import sources  # noqa: E402

pytestmark = pytest.mark.kernel


def checks(mode: str) -> Iterator[str]:
    yield "the daemon starts"
    yield from (claims.name(claim) for claim in claims.under(mode))
    for user in claims.USERS[mode]:
        yield from (f"as {user}: {name}" for name in (*(case.name for case in clock_cases.CASES), table.GAPS))
    if mode == claims.MODES[0]:
        yield from strict_table.NAMES
    yield "the daemon stops"


TOO_LONG = {claims.name(claim): claims.too_long(claim, machine.SECONDS) for claim in claims.CLAIMS}
CHECKS = [(mode, check) for mode in claims.MODES for check in checks(mode)]

PACKAGES = ["lua5.4", "markupsafe", "libclone-perl"]

Boot = Callable[[str], machine.Outcome | str]


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """What the checks said under a mode, or why there is no machine. Each runs once, all of them at once."""
    try:
        disk = _disk(tmp_path_factory)
    except (machine.Unavailable, sources.Unavailable) as error:
        reason = str(error)
        return lambda mode: reason

    def run(mode: str) -> machine.Outcome:
        return machine.run(mode, tmp_path_factory.mktemp(f"vm-{mode}"), disk, "inside.py", mode, str(machine.SECONDS))

    with ThreadPoolExecutor(len(claims.MODES)) as pool:
        outcomes = dict(zip(claims.MODES, pool.map(run, claims.MODES), strict=True))
    return outcomes.__getitem__


def _disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Raises Unavailable of machine or sources."""
    machine.check()
    inputs = tmp_path_factory.mktemp("inputs")
    _programs(inputs / "programs")
    sources.share(PACKAGES, inputs / "sources")
    return Disk(tmp_path_factory.mktemp("disk") / "image", machine.REPOSITORY, inputs)


def _programs(directory: Path) -> None:
    directory.mkdir()
    clock_programs.build(directory)
    shutil.rmtree(directory / "go-cache", ignore_errors=True)
    kinds = {"file_times": results.KINDS, "timeouts": ("dynamic", "static32"), "crowd": ("static",)}
    for path in [results.build(name, kind) for name in kinds for kind in kinds[name]]:
        shutil.copy(path, directory)
    strict_cases.build(directory)
    strict_table.trace(directory)


@pytest.mark.parametrize(("mode", "check"), CHECKS)
def test_on_a_real_kernel(boot: Boot, mode: str, check: str) -> None:
    outcome = boot(mode)
    if isinstance(outcome, str):
        pytest.skip(outcome)
    if too_long := TOO_LONG.get(check):
        pytest.skip(too_long)
    problem = outcome.problem(check)
    if problem.startswith(table.LACKS):
        pytest.skip(problem)
    assert not problem, problem
