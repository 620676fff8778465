"""Processes and threads that are hard to follow stay in the session, behave as outside, and leave the engine alive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from results import ENGINES, EPOCH, KINDS, PYTHON, Nobody, build, gaps, run, run_as_nobody, running

from conftest import wait_for

pytestmark = pytest.mark.parametrize("engine", ENGINES)

# The clock, and the modification time of a young file: 13e8 both.
FIXED = f"{EPOCH} {EPOCH}"

# What is run, and what it prints: "{}" stands for FIXED.
TREES: dict[str, tuple[str, ...]] = {
    "exec_from_thread": ("program {}",),
    "zombie_leader": ("orphan {}", "child {}", "program {}"),
    "exec_race": ("program {}",),
    "vforks 5": ("program {}",) * 5,
    "spawns 5": ("program {}",) * 5,
    "ignores_children 5": ("child {}",) * 5 + ("wait: -1 ECHILD",),
    "untraced": ("clone {}", "raw {}", "program {}", "clone3 ENOSYS"),
    "brood 40": ("parent {}",),
    "traps": ("handled TRAP",) * 3 + ("killed by TRAP",),
    "deaf": ("program {}",),
    "restarts": ("read 1 x after 5 signals",),
    "crowd 900": (f"900 saw {EPOCH}, 900 ended well",),
}


@pytest.mark.parametrize("kind", ["dynamic", "static32"])
@pytest.mark.parametrize("what", TREES)
def test_a_tree_of_processes_is_followed(engine: str, what: str, kind: str) -> None:
    result = run(engine, build("trees", kind), *what.split())
    assert (result.code, result.err) == (0, "")
    assert result.lines == [line.format(FIXED) for line in TREES[what]]
    assert not gaps(result)


@pytest.mark.parametrize("kind", KINDS)
def test_job_control_works_as_outside(engine: str, kind: str) -> None:
    program = build("trees", kind)
    inside = run(engine, program, "stops")
    assert inside.said == run("", program, "stops").said
    assert inside.lines[:2] == ["stopped by STOP", "continued"]
    assert "stopped by TTOU" in inside.lines


def test_a_storm_of_kills_leaves_the_engine_alive(engine: str) -> None:
    result = run(engine, "sh", "-c", '"$0" killed 120 | grep -v "^program "; date +%s', build("trees"))
    assert result.said == (0, f"120 deaths\n{EPOCH}\n", "")
    assert not gaps(result)
    # A child whose maker was killed before the engine heard of it must not wait for that for ever.
    assert wait_for(lambda: not running(build("trees")))


@pytest.mark.parametrize("kind", ["dynamic", "dynamic32"])
def test_calls_whose_arguments_mean_nothing_leave_the_engine_alive(engine: str, kind: str) -> None:
    for seed in range(3):
        result = run(engine, build("garbage", kind), str(seed))
        assert result.said == (0, "done\n", "")
        assert not gaps(result)


def test_a_shell_has_job_control(engine: str) -> None:
    script = "set -m; sleep 30 & kill -STOP %1; wait %1 2>/dev/null; echo $?; kill -CONT %1; kill %1; wait %1; echo $?"
    inside, outside = (run(which, "bash", "-c", script) for which in (engine, ""))
    assert inside.lines == outside.lines
    assert inside.seconds < 10


@pytest.mark.parametrize(
    ("options", "prints"), [("-Ur", ["0"]), ("-Urpf --mount-proc", ["0"]), ("-Urnm", ["0"])], ids=str
)
def test_a_namespace_inside_stays_in_the_session(engine: str, options: str, prints: list[str], tmp_path: Path) -> None:
    if run("", "unshare", *options.split(), "true").code:
        pytest.skip(f"this kernel refuses unshare {options}")
    (tmp_path / "young").touch()
    script = 'id -u; date +%s; perl -e "print +(stat q(young))[9]"; echo; sh -c "sleep 0.05; date +%s & wait"'
    result = run(engine, "unshare", *options.split(), "sh", "-c", script, cwd=tmp_path)
    assert result.said == (0, "".join(f"{line}\n" for line in [*prints, *[EPOCH] * 3]), "")
    assert not gaps(result)


# Other users ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["exec_from_thread", "zombie_leader", "untraced", "crowd 200", "killed 30"])
def test_an_ordinary_users_tree_is_followed(engine: str, what: str, as_nobody: Nobody) -> None:
    result = run_as_nobody(as_nobody, engine, build("trees"), *what.split())
    expected = {"killed 30": ("30 deaths",), "crowd 200": (f"200 saw {EPOCH}, 200 ended well",)}.get(what) or TREES[
        what
    ]
    assert (result.code, result.err, gaps(result)) == (0, "", [])
    assert (result.lines[-1:] if what.startswith("killed") else result.lines) == [
        line.format(FIXED) for line in expected
    ]


def test_a_namespace_of_an_ordinary_user_stays_in_the_session(engine: str, as_nobody: Nobody) -> None:
    script = "id -u; date +%s; perl -e 'print +(stat q(/proc/self/stat))[9]'"
    result = run_as_nobody(as_nobody, engine, "unshare", "-Urpf", "--mount-proc", "sh", "-c", script)
    if "unshare failed" in result.err:
        pytest.skip("this kernel gives an ordinary user no namespaces")
    assert result.said == (0, f"0\n{EPOCH}\n{EPOCH}", "")
    assert not gaps(result)


def test_a_program_that_cannot_be_read_is_a_gap_and_runs(engine: str, as_nobody: Nobody) -> None:
    program = build("trees").with_name("unreadable")
    shutil.copy(build("trees"), program)
    program.chmod(0o711)
    result = run_as_nobody(as_nobody, engine, "sh", "-c", '"$0" say; date +%s', program)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith("program ")
    assert result.lines[1] == str(EPOCH)  # what comes after it is fixed
    assert any(gap.startswith("program out of reach") for gap in gaps(result))


def test_a_program_that_left_root_is_shown_file_times(engine: str, tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("runuser"):
        pytest.skip("only root can become another user, with runuser")
    script = 'date +%s; perl -e "print +(stat q(/proc/self/stat))[9]"'
    result = run(engine, "runuser", "-u", "nobody", "--", "sh", "-c", script)
    assert (result.code, result.out) == (0, f"{EPOCH}\n{EPOCH}")
    assert not gaps(result)


def test_pythons_own_process_pools_work(engine: str) -> None:
    script = (
        "import time\nfrom concurrent.futures import ProcessPoolExecutor as P, ThreadPoolExecutor as T\n"
        "def now(_): return int(time.time())\n"
        "if __name__ == '__main__':\n"
        " for pool in P(8), T(8):\n  with pool: print(sorted(set(pool.map(now, range(40)))))"
    )
    result = run(engine, PYTHON, "-I", "-c", script)
    assert result.said == (0, f"[{EPOCH}]\n[{EPOCH}]\n", "")
