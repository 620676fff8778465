"""Sessions from Python: as subprocess, with any number of threads, and without a trace in the caller."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import detbuild
from conftest import wait_for
from detbuild import Session
from detbuild.audit import LEAKED
from detbuild.engine import select
from detbuild.errors import EngineDied, EngineUnavailable, PolicyError, SessionError
from detbuild.linux import proc

EPOCH = 1_300_000_000


@pytest.fixture(autouse=True, scope="module")
def _an_engine() -> None:
    try:
        select.choose()
    except EngineUnavailable as error:
        pytest.skip(f"no engine works here: {error}")


def tracer_of(pid: int) -> int:
    return int(proc.status(pid, "TracerPid"))


def gone(pid: int) -> bool:
    try:
        return proc.status(pid, "State")[:1] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


SHOW = 'printf \'%s|\' "$0" "$@"; pwd; umask; cat; echo err >&2'


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["sh", "-c", SHOW, "zero", "one two", ""], {"input": "hello\n", "text": True}),
        (["sh", "-c", SHOW], {"input": b"\xff\0\n"}),
        (["sh", "-c", SHOW], {"stdin": subprocess.DEVNULL, "cwd": "/usr", "encoding": "utf-8"}),
        (["sh", "-c", SHOW], {"stdin": subprocess.DEVNULL, "umask": 0o27}),
        (["sh", "-c", "env | sort"], {"env": {"A": "b=c", "PATH": "/usr/bin:/bin", "E": ""}}),
        (["env"], {"env": {"PATH": "/nonesuch:/usr/bin", "PYTHONHOME": "/nonesuch", "LC_ALL": "C"}}),
        (["env"], {"env": {}}),
        ("echo $0 $((1+1)); exit 7", {"shell": True}),
        (["echo $0 $1", "zero", "one"], {"shell": True}),
        ('echo "$0" "${BASH_VERSION:+bash}"; shopt -o posix', {"shell": True, "executable": "/bin/bash"}),
        (["anything", "-c", "echo $0"], {"executable": "/bin/sh"}),
        ("true", {}),
        (Path("/bin/true"), {}),
        ([b"sh", b"-c", b"echo \xff"], {}),
        (["sh", "-c", "kill -SEGV $$"], {}),
        (["sh", "-c", "echo out; echo err >&2"], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}),
        (["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"], {}),
        (["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"], {"restore_signals": False}),
        (["ls", "/proc/self/fd"], {}),
        (["ls", "/proc/self/fd"], {"stdin": subprocess.DEVNULL}),
    ],
)
def test_run_gives_what_subprocess_gives(command: Any, options: dict[str, Any]) -> None:
    if "stdout" not in options:
        options = {**options, "capture_output": True}
    plain = subprocess.run(command, check=False, **options)
    ours = Session(EPOCH).run(command, **options)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert ours.args == plain.args


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["nonesuch-program"], {}),
        (["/nonesuch/program"], {}),
        (["/etc/passwd"], {}),
        (["/"], {}),
        (["true"], {"cwd": "/nonesuch"}),
        (["true"], {"env": {"PATH": "/nonesuch"}}),
        (["sh", "-c", "exit 3"], {"check": True}),
        (["true"], {"input": b"", "stdin": subprocess.DEVNULL}),
        (["true"], {"capture_output": True, "stdout": subprocess.PIPE}),
        (["tr\0ue"], {}),
        (["true"], {"nonsense": 1}),
    ],
)
def test_run_raises_what_subprocess_raises(command: Any, options: dict[str, Any]) -> None:
    with pytest.raises(Exception) as plain:  # noqa: PT011
        subprocess.run(command, **options)  # noqa: PLW1510
    with pytest.raises(plain.type) as ours:
        Session(EPOCH).run(command, **options)
    for name in ("errno", "returncode", "cmd"):
        assert getattr(ours.value, name, None) == getattr(plain.value, name, None)


def test_a_script_without_an_interpreter_line_is_refused_as_by_subprocess(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    script.chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        Session(EPOCH).run([script])


def test_a_timeout_kills_the_command_and_names_it() -> None:
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        Session(EPOCH).run(["sh", "-c", "echo before; exec sleep 300"], timeout=0.5, stdout=subprocess.PIPE)
    assert raised.value.cmd == ["sh", "-c", "echo before; exec sleep 300"]
    assert raised.value.stdout == b"before\n"
    assert time.monotonic() - started < 60


def test_popen_talks_to_a_running_command() -> None:
    with Session(EPOCH).Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as command:
        assert command.args == ["cat"]
        assert command.stdin
        assert command.stdout
        command.stdin.write("one\n")
        command.stdin.flush()
        assert command.stdout.readline() == "one\n"
        assert command.poll() is None
        command.terminate()
        assert command.wait(60) == -signal.SIGTERM
    assert command.audit is not None


def test_the_pid_of_popen_is_the_commands_own() -> None:
    command = Session(EPOCH).Popen(["sh", "-c", "echo $$ $PPID"], stdout=subprocess.PIPE, text=True)
    assert command.communicate()[0] == f"{command.pid} {os.getpid()}\n"


def test_start_new_session_gives_a_session_of_its_own() -> None:
    command = Session(EPOCH).Popen(
        ["ps", "-o", "sid=", "-p", "self"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    command.wait()
    out = (
        Session(EPOCH)
        .run(["sh", "-c", "ps -o pid=,pgid=,sid= -p $$"], start_new_session=True, capture_output=True, text=True)
        .stdout.split()
    )
    assert len(out) == 3
    assert len(set(out)) == 1


def test_passed_descriptors_arrive_and_others_do_not() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_inheritable(reader, True)
    try:
        result = Session(EPOCH).run(
            ["bash", "-c", f"echo through >&{writer}; ls /proc/$$/fd"],
            pass_fds=[writer], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert os.read(reader, 100) == b"through\n"
        assert str(writer) in result.stdout.split()
        assert str(reader) not in result.stdout.split()
    finally:
        os.close(reader)
        os.close(writer)


def test_open_descriptors_stay_open_where_the_caller_wants_it() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_inheritable(writer, True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Session(EPOCH).run(["bash", "-c", f"echo through >&{writer}"], close_fds=False, check=True)
        assert os.read(reader, 100) == b"through\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_no_descriptor_of_the_caller_can_be_inherited() -> None:
    with Session(EPOCH).Popen(["sleep", "300"]) as command:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
        sockets = [fd for fd in descriptors if fd > 2 and _link(fd).startswith("socket:")]
        assert sockets
        assert not [fd for fd in sockets if os.get_inheritable(fd)]
        command.kill()


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_the_caller_is_neither_filtered_nor_traced() -> None:
    keys = ("Seccomp", "NoNewPrivs", "TracerPid", "SigBlk", "SigIgn", "SigCgt")
    before = {key: proc.status("self", key) for key in keys}
    inside = Session(EPOCH).run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    assert {key: proc.status("self", key) for key in keys} == before
    assert "Seccomp:\t2" in inside
    assert abs(time.time() - EPOCH) > 10**8


def test_sessions_of_several_epochs_at_once_never_mix() -> None:
    epochs = [EPOCH + 1009 * number for number in range(7)]
    seen: dict[int, list[int]] = {}

    def work(epoch: int) -> None:
        out = (
            Session(epoch).run(["perl", "-e", "print time, qq{\\n} for 1 .. 13"], capture_output=True, text=True).stdout
        )
        seen[epoch] = [int(line) for line in out.split()]

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in epochs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {epoch: [epoch] * 13 for epoch in epochs}


def test_one_session_serves_several_threads_and_counts_them_all() -> None:
    def reads(commands: int, loops: int) -> int:
        session = Session(EPOCH)
        script = f"time for 1 .. {loops}"
        threads = [threading.Thread(target=session.run, args=(["perl", "-e", script],)) for _ in range(commands)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(count for read, count in session.audit.reads.items() if read.source == "time")

    assert reads(5, 17) - reads(5, 0) == 5 * 17


def test_the_audit_names_program_source_and_outcome() -> None:
    session = Session(EPOCH)
    session.run(["date"], stdout=subprocess.DEVNULL)
    audit = session.audit
    assert (audit.engine, audit.epoch, audit.policy) == (session.engine, EPOCH, "time")
    assert [(read.program, read.outcome) for read in audit.reads] == [("/usr/bin/date", "fixed")]
    assert not audit.degraded
    assert not audit.leaks


def test_two_runs_of_one_program_read_the_same_times() -> None:
    command = ["perl", "-MTime::HiRes", "-e", "print Time::HiRes::time(), qq{\\n} for 1 .. 50"]
    first, second = (Session(EPOCH).run(command, capture_output=True).stdout for _ in range(2))
    assert first == second
    assert len(set(first.split())) > 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"epoch": EPOCH, "engine": "nonesuch"}, SessionError),
        ({"epoch": EPOCH, "policy": "nonesuch"}, PolicyError),
        ({"epoch": -1}, ValueError),
        ({"epoch": 1 << 62}, ValueError),
        ({"epoch": 1.5}, ValueError),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Session(**arguments)


def test_the_package_offers_the_session() -> None:
    assert detbuild.Session is Session


def test_a_killed_engine_ends_the_command_with_a_sentence() -> None:
    command = Session(EPOCH).Popen(["sleep", "300"])
    os.kill(tracer_of(command.pid), signal.SIGKILL)
    with pytest.raises(EngineDied, match=r"engine died.*killed with it.*Run again"):
        command.wait(60)
    assert command.wait() == -signal.SIGKILL


def test_an_engine_out_of_memory_ends_the_command_with_a_sentence() -> None:
    # A program whose environment alone needs more than the tracer may still allocate.
    script = "import os; input(); os.execve('/bin/date', ['date'], {f'V{n}': '' for n in range(60000)})"
    command = Session(EPOCH).Popen(
        [sys.executable, "-I", "-S", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    resource.prlimit(tracer_of(command.pid), resource.RLIMIT_AS, (1, 1))
    with pytest.raises(EngineDied, match="MemoryError"):
        command.communicate(b"\n", timeout=120)
    assert command.returncode == -signal.SIGKILL


def test_no_program_prints_a_real_or_an_empty_time_as_its_engine_dies(tmp_path: Path) -> None:
    script = (
        "for n in 1 2 3; do perl -e '$| = 1; for (;;) { print time, qq{\\n} }' > $n & done;"
        "python3 -S -c 'import os, time\nos.fork()\nwhile True: os.write(1, b\"%d\\n\" % time.time())' > 4 &"
        "while :; do date +%s; done > 5"
    )
    for _ in range(3):
        command = Session(EPOCH).Popen(["sh", "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
        assert wait_for(
            lambda: all((tmp_path / str(n)).exists() and (tmp_path / str(n)).stat().st_size for n in range(1, 6))
        )
        os.kill(tracer_of(command.pid), signal.SIGKILL)
        with pytest.raises(EngineDied):
            command.wait(60)
        times = {line for n in range(1, 6) for line in (tmp_path / str(n)).read_text().split("\n")[:-1]}
        # Loops that read on and on are moved along by a second a read; see engine.clock.
        assert times
        assert all(EPOCH <= int(line) < EPOCH + 10**7 for line in times)
        sizes = [(tmp_path / str(n)).stat().st_size for n in range(1, 6)]
        time.sleep(0.1)
        assert sizes == [(tmp_path / str(n)).stat().st_size for n in range(1, 6)]


def test_many_runs_leave_nothing_behind() -> None:
    session = Session(EPOCH)
    session.run(["true"])
    before = sorted(os.listdir("/proc/self/fd"))
    tracers = []
    for _ in range(11):
        out = session.run(["grep", "TracerPid", "/proc/self/status"], capture_output=True, text=True).stdout
        tracers.append(int(out.split()[1]))
        with pytest.raises(FileNotFoundError):
            session.run(["/nonesuch/program"])
        with pytest.raises(FileNotFoundError):
            session.run(["true"], cwd="/nonesuch")
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert wait_for(lambda: all(gone(tracer) for tracer in tracers))


def test_a_background_process_stays_in_the_session(tmp_path: Path) -> None:
    out = tmp_path / "late"
    session = Session(EPOCH)
    session.run(
        ["sh", "-c", f"(sleep 0.8; date +%s > {out}.part; mv {out}.part {out}) > /dev/null 2>&1 & sleep 0.2"],
        check=True,
    )
    assert [os.path.basename(program) for program in session.audit.survivors]
    assert wait_for(out.exists)
    assert out.read_text() == f"{EPOCH}\n"


def test_a_dead_caller_ends_its_commands(tmp_path: Path) -> None:
    script = (
        "import os, detbuild; p = detbuild.Session(1300000000).Popen(['sleep', '60']);"
        "print(p.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], check=False, stdout=subprocess.PIPE, text=True, timeout=120
    ).stdout
    assert wait_for(lambda: gone(int(out)))


def test_leaks_are_no_part_of_a_commands_session() -> None:
    session = Session(EPOCH)
    session.run(["perl", "-e", "time"])
    assert not [read for read in session.audit.reads if read.outcome == LEAKED]
