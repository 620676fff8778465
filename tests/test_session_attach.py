"""A process that puts its own descendants into a session, as a BitBake task does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import LIBRARY, wait_for

EPOCH = 1_300_000_000

PROLOGUE = f"""
import json, os, subprocess, sys, threading, time
sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.errors import DetbuildError
from detbuild.session import attach
def show(**values): print(json.dumps(values), flush=True)
"""


def task(body: str, *wrapper: str, status: int = 0) -> Any:
    """Run a task's Python; what it showed last."""
    result = subprocess.run(
        [*wrapper, sys.executable, "-c", PROLOGUE + body], check=False, capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (status, "")
    return json.loads(result.stdout.splitlines()[-1])


def near_now(seconds: float) -> bool:
    return abs(seconds - time.time()) < 60


def test_the_tasks_own_reads_are_real_and_reported_as_leaks() -> None:
    seen = task(f"""
attached = attach({EPOCH})
reads = [time.time() for _ in range(17)]
audit = attached.close()
show(last=reads[-1], monotonic=time.monotonic(), degraded=audit.degraded, engine=attached.engine,
     leaks=sum(audit.leaks.values()), programs=[read.program for read in audit.leaks], all=len(audit.reads))
""")
    assert near_now(seen["last"])
    assert abs(seen["monotonic"] - time.monotonic()) < 60
    assert 17 <= seen["leaks"] <= 19
    assert seen["programs"] == [os.path.realpath(sys.executable)]
    assert seen["all"] == 1
    assert not seen["degraded"]


CHILDREN = {
    "os.fork": """
reader, writer = os.pipe()
if not os.fork():
    os.write(writer, str(time.time()).encode())
    os._exit(0)
seen = float(os.read(reader, 100))
""",
    "a fork of a fork": """
reader, writer = os.pipe()
if not os.fork():
    if not os.fork():
        os.write(writer, str(time.time()).encode())
    os._exit(0)
seen = float(os.read(reader, 100))
""",
    "a thread of a fork": """
reader, writer = os.pipe()
if not os.fork():
    thread = threading.Thread(target=lambda: os.write(writer, str(time.time()).encode()))
    thread.start()
    thread.join()
    os._exit(0)
seen = float(os.read(reader, 100))
""",
    "a fork from a thread": """
reader, writer = os.pipe()
def work():
    if not os.fork():
        os.write(writer, str(time.time()).encode())
        os._exit(0)
thread = threading.Thread(target=work)
thread.start()
thread.join()
seen = float(os.read(reader, 100))
""",
    "multiprocessing": """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    seen = pool.map(eval, ["__import__('time').time()"])[0]
""",
    "subprocess": "seen = float(subprocess.run(['date', '+%s'], capture_output=True).stdout)",
    "os.system's shell": "seen = float(os.popen('date +%s').read())",
    "perl": "seen = float(subprocess.run(['perl', '-e', 'print time'], capture_output=True).stdout)",
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_of_the_task_sees_the_epoch(kind: str) -> None:
    seen = task(f"attached = attach({EPOCH})\n{CHILDREN[kind]}\naudit = attached.close()\n"
                "show(seen=seen, fixed=[read.source for read in audit.reads if read.outcome == 'fixed'])")  # fmt: skip
    assert int(seen["seen"]) == EPOCH
    assert seen["fixed"]


def test_threads_of_the_task_see_the_real_time_wherever_they_were_made() -> None:
    seen = task(f"""
times, go = [], threading.Event()
def work():
    go.wait()
    times.append(time.time())
threads = [threading.Thread(target=work)]
threads[0].start()
attached = attach({EPOCH})
threads.append(threading.Thread(target=work))
threads[1].start()
go.set()
for thread in threads: thread.join()
show(times=times, leaks=sum(attached.close().leaks.values()))
""")
    assert all(map(near_now, seen["times"]))
    assert len(seen["times"]) == 2
    assert seen["leaks"] >= 2


def test_closing_twice_gives_the_same_record() -> None:
    seen = task(f"attached = attach({EPOCH}); subprocess.run(['date'], stdout=-3)\n"
                "show(same=attached.close() == attached.close())")  # fmt: skip
    assert seen["same"]


def test_two_tasks_at_once_have_two_epochs(tmp_path: Path) -> None:
    script = PROLOGUE + (
        "attached = attach(int(sys.argv[1]))\n"
        "for _ in range(7): subprocess.run(['date', '+%s'])\n"
        "show(epoch=attached.close().epoch)"
    )
    tasks = {
        epoch: subprocess.Popen([sys.executable, "-c", script, str(epoch)], stdout=subprocess.PIPE, text=True)
        for epoch in (EPOCH, EPOCH + 10007)
    }
    for epoch, running in tasks.items():
        assert running.communicate(timeout=120)[0] == f"{epoch}\n" * 7 + f'{{"epoch": {epoch}}}\n'


def test_the_engines_death_ends_the_task_and_its_children(tmp_path: Path) -> None:
    script = (
        PROLOGUE
        + f"""
attached = attach({EPOCH})
os.setsid()
children = []
for n in range(3):
    child = os.fork()
    if not child:
        with open(f"fork{{n}}", "w") as out:
            while True: print(int(time.time()), file=out, flush=True)
    children.append(child)
command = ["perl", "-e", "$| = 1; print time, qq{{\\n}} for 1 .. 1e9"]
children.append(subprocess.Popen(command, stdout=open("perl", "w")).pid)
show(engine=attached.engine_pid, children=children)
time.sleep(300)
"""
    )
    running = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert running.stdout
    told = json.loads(running.stdout.readline())
    names = ["fork0", "fork1", "fork2", "perl"]
    assert wait_for(lambda: all((tmp_path / name).exists() and (tmp_path / name).stat().st_size for name in names))
    os.kill(told["engine"], signal.SIGKILL)
    assert running.wait(60) == -signal.SIGKILL
    running.stdout.close()
    for name in names:
        lines = (tmp_path / name).read_text().split("\n")[:-1]
        assert lines
        # Loops that read on and on are moved along by a second a read; see engine.clock.
        assert all(EPOCH <= int(line) < EPOCH + 10**7 for line in lines)
    assert wait_for(lambda: not any(_runs(child) for child in told["children"]))


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


REFUSED = f"""
try:
    attach({EPOCH})
except DetbuildError as error:
    show(kind=type(error).__name__, text=str(error), real=time.time())
"""


NESTED = f"""
attached = attach({EPOCH + 7})
seen = subprocess.run(["date", "+%s"], capture_output=True, text=True).stdout
audit = attached.close()
show(seen=int(seen), gaps=[gap.kind for gap in audit.gaps], engine=audit.engine)
"""


def test_in_another_session_the_outer_one_goes_on_and_says_so(detbuild_run: list[str]) -> None:
    result = subprocess.run(
        [*detbuild_run, sys.executable, "-c", PROLOGUE + NESTED],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    seen = json.loads(result.stdout)
    assert seen == {"seen": EPOCH, "gaps": ["outer session"], "engine": "outer session"}


TRACER = f"""
import os, sys
sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import ptrace
reader, writer = os.pipe()
child = os.fork()
if not child:
    os.read(reader, 1)
    os.execv(sys.argv[1], sys.argv[1:])
ptrace.seize(child, 0)
os.write(writer, b"x")
while True:
    pid, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    ptrace.cont(child, 0 if status >> 16 else os.WSTOPSIG(status))
"""


def test_under_a_debugger_the_error_names_it() -> None:
    seen = task(REFUSED, sys.executable, "-c", TRACER)
    assert seen["kind"] == "EngineUnavailable"
    assert "already traced by process" in seen["text"]
    assert "python" in seen["text"]
    assert "strace, gdb" in seen["text"]
    assert near_now(seen["real"])


OUTER_FILTER = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import seccomp
from detbuild.linux.x86_64 import NATIVE
import os
code = seccomp.Assembler()
code.load(seccomp.NR)
code.jump_equal(NATIVE.numbers[sys.argv[1]], "refuse")
code.ret(seccomp.RET_ALLOW)
code.label("refuse")
code.ret(seccomp.RET_ERRNO | 1)
seccomp.install(code.assemble())
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("time", "outer seccomp filter"),
        ("seccomp", "refused the session's filter"),
        ("ptrace", "refused ptrace"),
        ("pidfd_open", "refused pidfd_open"),
        ("process_vm_readv", "refused process_vm_readv or process_vm_writev"),
        ("process_vm_writev", "refused process_vm_readv or process_vm_writev"),
    ],
)
def test_an_outer_filter_is_named(call: str, words: str, detbuild_run: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", OUTER_FILTER, call, *detbuild_run, "echo", "started"],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (125, "")
    assert words in result.stderr


def test_an_ordinary_user_can_attach(as_nobody: Any) -> None:
    body = (
        f"import subprocess\nfrom detbuild.session import attach\nattached = attach({EPOCH})\n"
        "print(subprocess.run(['date', '+%s'], capture_output=True, text=True).stdout.strip())\n"
        "print(sorted({read.outcome for read in attached.close().reads}))"
    )
    result = as_nobody("-c", body)
    assert result.stdout.startswith(f"{EPOCH}\n[")
    assert result.stderr == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_a_process_that_changed_its_user_can_attach_in_a_user_namespace() -> None:
    # BitBake puts a task without network into a user namespace of its own, where root has no power over the outside.
    seen = task(f"""
import ctypes
os.seteuid(65534)
os.seteuid(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
attached = attach({EPOCH})
out = subprocess.run(['date', '+%s'], capture_output=True, text=True).stdout
show(epoch=int(out), gaps=len(attached.close().gaps))
""")
    assert seen == {"epoch": EPOCH, "gaps": 0}
