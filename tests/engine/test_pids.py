"""Process numbers that shells are told: who gets one, who does not, and what works with them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from results import PYTHON, Result, gaps, run

from detbuild import Session
from detbuild.audit import FIXED, PASSED
from detbuild.engine.filter import FIRST_TOLD
from detbuild.engine.stream import Origin, normalised

EPOCH = 1_300_000_000


def strict(*command: str, policy: str = "strict", cwd: Path | None = None) -> Result:
    return run("tracer", *command, policy=policy, cwd=cwd)


def told(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text) if int(number) >= FIRST_TOLD]


def test_the_rule_holds_alone_and_can_be_left_out() -> None:
    alone = [strict("sh", "-c", "echo $$; uname -n", policy="time +pid").out.split() for _ in range(2)]
    assert alone[0] == alone[1] == [alone[0][0], os.uname().nodename]
    assert told(alone[0][0])
    assert not told(strict("sh", "-c", "echo $$", policy="strict -pid").out)


def test_no_two_shells_of_a_session_have_one_number(tmp_path: Path) -> None:
    """Though their command lines are the same, at one time or another, and so are those of their parents."""
    (tmp_path / "one.sh").write_text("sh -c 'echo $$'; sh -c 'echo $$'\n")
    script = "for n in 1 2 3; do sh one.sh; done; bash one.sh; sh -c '. ./one.sh'; sh one.sh & sh one.sh & wait"
    result = strict("sh", "-c", script, cwd=tmp_path)
    numbers = told(result.out)
    assert len(numbers) == len(set(numbers)) == 14
    assert not gaps(result)


def test_the_script_of_a_bitbake_task_has_one_name_whatever_bitbakes_process() -> None:
    lines = [b"/bin/sh\0-e\0/build/%b/temp/run.do_compile.%d\0" % item for item in ((b"a", 17), (b"b", 4321))]
    assert normalised(lines[0]) == normalised(lines[1]) == b"/sh\0-e\0/run.do_compile\0"
    assert normalised(b"/x/run.do_compile.17.bak\0") == b"/run.do_compile.17.bak\0"
    chains = [Origin().execution(line).execution(b"sh\0").chain for line in lines]
    assert chains[0] == chains[1]


def test_executions_differ_by_their_count_and_by_all_above_them() -> None:
    one, other = Origin().execution(b"make\0"), Origin().execution(b"ninja\0")
    assert one.path == other.path
    chains = [origin.execution(b"sh\0").chain for origin in (one, one, other)]
    assert len(set(chains)) == 3


def test_a_program_that_is_no_shell_and_a_subshell_have_real_numbers_and_are_on_record() -> None:
    with Session(EPOCH, "strict", "tracer") as session:
        done = session.run(
            ["bash", "-c", f"echo $$ $BASHPID; (echo $BASHPID); {PYTHON} -c 'import os; print(os.getpid())'; :"],
            capture_output=True,
            text=True,
        )
    first, subshell, python = done.stdout.splitlines()
    assert len(told(first)) == 2
    assert not told(subshell)
    assert not told(python)
    outcomes = {(Path(read.program).name, read.outcome) for read in session.audit.reads if read.source == "getpid"}
    assert outcomes == {("bash", FIXED), ("bash", PASSED), (Path(PYTHON).name, PASSED)}


def test_a_row_of_the_users_own_tells_a_program_its_number() -> None:
    command = [PYTHON, "-c", "import os, signal; print(os.getpid()); os.kill(os.getpid(), signal.SIGTERM)"]
    rules = [{"names": Path(PYTHON).name, "pid": "fixed"}]
    results = []
    for _ in range(2):
        with Session(EPOCH, "time +pid", "tracer", rules=rules) as session:
            results.append(session.run(command, capture_output=True, text=True))
    assert results[0].stdout == results[1].stdout
    assert told(results[0].stdout)
    assert [result.returncode for result in results] == [-15, -15]


def test_a_number_that_nobody_was_told_is_no_process() -> None:
    result = strict("bash", "-c", f"kill -0 {FIRST_TOLD + 5}; echo $?; kill -0 -- -{FIRST_TOLD + 5}; echo $?")
    assert result.out.split() == ["1", "1"]
    assert result.err.count("No such process") == 2


def test_a_number_ends_with_its_process() -> None:
    result = strict("sh", "-c", "n=$(sh -c 'echo $$'); kill -0 $n && echo alive; echo $n")
    assert result.out.split() == [str(told(result.out)[0])]


# As ssh-agent does for a command: a child watches whether the process that it knows still lives. It becomes a shell.
AGENT = """
import os, sys
parent, (told, tell) = os.getpid(), os.pipe()
os.set_inheritable(tell, True)
if os.fork():
    os.execvp("sh", ["sh", "-c", f"echo $$; echo $$ >&{tell}; sh -c 'echo $PPID'; wait; cat >/dev/null"])
os.close(tell)
os.read(told, 99)
print(os.getppid() == parent)
"""


def test_who_was_there_before_a_process_became_a_shell_knows_it_by_its_real_number() -> None:
    out = strict("sh", "-c", f'{PYTHON} -I -S -c "$0" </dev/null | sort; :', AGENT).lines
    assert out[-1] == "True"
    assert out[0] == out[1]
    assert told(out[0])


def test_the_group_of_a_shell_goes_by_its_number() -> None:
    result = strict("setsid", "sh", "-c", "trap 'echo group' USR1; kill -USR1 -$$; (kill -KILL -$$); echo alive")
    assert (result.out.split(), result.code) == (["group"], -9)


@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare not installed")
def test_in_a_pid_namespace_of_its_own_a_shell_has_its_real_number() -> None:
    script = "echo $$; unshare --user --map-root-user --pid --fork sh -c 'echo $$; kill -0 $1; echo $?' sh $$"
    result = strict("sh", "-c", script)
    outer, inner, status = result.out.split()
    assert told(outer)
    assert (inner, status) == ("1", "1")


def test_a_32_bit_program_gives_numbers_back(tmp_path: Path) -> None:
    source = "#include <signal.h>\n#include <stdlib.h>\nint main(int c, char **v) { return kill(atoi(v[1]), SIGUSR1); }"
    (tmp_path / "give.c").write_text(source)
    subprocess.run(["gcc", "-m32", "-static", "give.c", "-o", "give"], cwd=tmp_path, check=True)
    result = strict("sh", "-c", "trap 'echo caught' USR1; ./give $$ && echo sent", cwd=tmp_path)
    assert result.out.split() == ["caught", "sent"]


def talk(command: list[str], *lines: str) -> str:
    """What a command in a session of its own terminal prints when it is told one line after the other."""
    child, terminal = pty.fork()
    if child == 0:
        options = ["--epoch=1300000000", "--policy=strict", "--engine=tracer"]
        os.execv(sys.executable, [sys.executable, "-m", "detbuild", "run", *options, "--", *command])
    said = b""
    waiting = list(lines)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1)
        if ready:
            try:
                said += os.read(terminal, 4096)
            except OSError:
                break
        elif waiting:
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    os.close(terminal)
    os.waitpid(child, 0)
    return said.decode()


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_a_shell_that_somebody_types_into_has_its_jobs(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    said = talk([shell, "-i"], "sleep 5 &", "kill %1", "echo number $$", "exit")
    assert "job control" not in said
    assert "process group" not in said
    number = re.search(r"number (\d+)", said)
    assert number
    assert int(number[1]) < FIRST_TOLD


def test_a_script_with_jobs_gets_the_terminal() -> None:
    said = talk(["dash", "-c", "set -m; sleep 0.1; sleep 0.1 & wait; echo number $$"])
    number = re.search(r"number (\d+)", said)
    assert number, said
    assert int(number[1]) >= FIRST_TOLD
