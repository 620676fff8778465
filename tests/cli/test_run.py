"""``detbuild run`` is as good as invisible: each claim compares a command with itself, run without."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import wait_for
from detbuild.audit import Audit
from detbuild.linux import proc

EPOCH = 1_300_000_000

Result = subprocess.CompletedProcess[bytes]


def shell(script: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *arguments]


@pytest.fixture(scope="session")
def both(detbuild_run: list[str]) -> Callable[..., tuple[Result, Result]]:
    """Runs a command without and with ``detbuild run``; ``around`` goes before both."""

    def run(*command: str, around: tuple[str, ...] = (), **options: object) -> tuple[Result, Result]:
        plain, ours = (
            subprocess.run(  # type: ignore[call-overload]
                [*around, *prefix, *command], check=False, capture_output=True, timeout=120, **options
            )
            for prefix in ([], detbuild_run)
        )
        return plain, ours

    return run


def same(pair: tuple[Result, Result]) -> None:
    plain, ours = pair
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def without_notes(pair: tuple[Result, Result]) -> tuple[Result, Result]:
    """Of what a command leaves running, only a session tells."""
    plain, ours = pair
    lines = [line for line in ours.stderr.splitlines(keepends=True) if not line.startswith(b"detbuild: note: ")]
    return plain, Result(ours.args, ours.returncode, ours.stdout, b"".join(lines))


Both = Callable[..., tuple[Result, Result]]


@pytest.mark.parametrize("code", [0, 1, 2, 3, 125, 126, 127, 128, 130, 255])
def test_the_exit_code_is_the_commands(code: int, both: Both) -> None:
    plain, ours = both(*shell(f"exit {code}"))
    assert ours.returncode == plain.returncode == code


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "ABRT", "INT", "PIPE", "HUP", "USR1"])
def test_death_by_a_signal_is_passed_on(name: str, both: Both) -> None:
    plain, ours = both(*shell(f"echo before; kill -{name} $$; echo after"))
    assert ours.returncode == plain.returncode == -signal.Signals[f"SIG{name}"]
    assert ours.stdout == b"before\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [("nonesuch-program", 127), ("/nonesuch/program", 127), ("/etc/passwd", 126), ("/", 126), ("", 127)],
)
def test_what_cannot_be_executed_is_told_as_shells_tell_it(command: str, code: int, detbuild_run: list[str]) -> None:
    result = subprocess.run([*detbuild_run, command], check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == code
    assert result.stderr.startswith(f"detbuild: cannot execute {command}: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_script_without_an_interpreter_line_runs_as_under_env(tmp_path: Path, both: Both) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$0" "$@"\n')
    script.chmod(0o755)
    same(both(str(script), "a", "b c", around=("env",)))
    same(both("script", "a", around=("env", f"PATH={tmp_path}:/usr/bin:/bin")))


@pytest.mark.parametrize("epoch", ["-1", str(1 << 62), "99999999999999999999"])
def test_an_impossible_epoch_is_detbuilds_own_failure(epoch: str, detbuild_run: list[str]) -> None:
    command = [word for word in detbuild_run if word not in ("--epoch", "1300000000", "--")]
    result = subprocess.run(
        [*command, f"--epoch={epoch}", "--", "echo", "started"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (125, "")
    assert epoch in result.stderr
    assert "Traceback" not in result.stderr


STATE = r"""
grep -E '^(Sig(Blk|Ign|Cgt)|Umask|Groups|Cap...|Cpus_allowed):' /proc/self/status
ulimit -a; umask; nice; pwd; cat /proc/self/oom_score_adj
ls /proc/self/fd; tr '\0' '\n' < /proc/self/environ
ps -o pgid=,sid=,tpgid=,tty= -p $$
"""


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "trap '' INT HUP TERM USR1;",
        "trap '' CHLD;",
        "ulimit -n 64; ulimit -c 0; ulimit -s 1024; ulimit -f 1000;",
        "umask 077; cd /usr;",
        "exec 7</etc/passwd 9>/dev/null;",
        "exec <&-;",
        "exec 2>&-;",
        "export LC_ALL=C A= B='x\ny';",
        "exec nice -n 5",
        "exec nohup",
        "exec setsid -w",
        "exec env -i LC_ALL=C PATH=/usr/bin:/bin",
    ],
)
def test_the_commands_surroundings_are_those_without(setup: str, detbuild_run: list[str]) -> None:
    out = {}
    for name, prefix in (("plain", []), ("ours", detbuild_run)):
        # In one process group and session each; their numbers differ between the runs.
        result = subprocess.run(
            ["/bin/sh", "-c", f'{setup} "$@"', "sh", *prefix, "/bin/sh", "-c", STATE],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        out[name] = re.sub(rb"(?m)^ *\d+ +\d+ +-1 \?$", b"group session", result.stdout)
    assert out["ours"] == out["plain"]
    assert b"SigIgn" in out["ours"]


def test_group_and_session_are_the_callers(both: Both) -> None:
    plain, ours = both("ps", "-o", "pgid=,sid=", "-p", str(os.getpid()))
    assert ours.stdout == plain.stdout
    plain, ours = both(*shell("ps -o pgid=,sid= -p $$"))
    assert ours.stdout == plain.stdout


def test_the_environment_arrives_byte_for_byte(detbuild_run: list[str]) -> None:
    script = """
import ctypes, sys
words = [word.encode() for word in sys.argv[1:]]
environment = [b"PATH=/usr/bin:/bin", b"A=1", b"A=2", b"no equals sign", b"=no name", b"E=", b"X=\\xff\\n"]
array = lambda items: (ctypes.c_char_p * (len(items) + 1))(*items, None)
ctypes.CDLL(None).execve(words[0], array(words), array(environment))
"""
    command = [sys.executable, "-c", script]
    plain, ours = (
        subprocess.run([*command, *prefix, "/bin/cat", "/proc/self/environ"], check=True, capture_output=True).stdout
        for prefix in ([], [os.path.realpath(detbuild_run[0]), *detbuild_run[1:]])
    )
    assert ours == plain
    assert b"A=1\0A=2\0" in ours


def test_arguments_after_the_dashes_are_the_commands(both: Both) -> None:
    same(both("printf", "%s|", "--", "-x", "--epoch", "", "a b"))


def test_stdin_comes_through_a_pipe_whole(both: Both) -> None:
    same(both("cksum", input=b"x" * 300_000))


def test_closed_standard_descriptors_stay_closed(both: Both) -> None:
    plain, ours = both(*shell("ls /proc/$$/fd; exit 3"), around=("sh", "-c", '"$@" <&- 2>&-', "sh"))
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert ours.returncode == 3
    plain, ours = both(*shell("exit 3"), around=("sh", "-c", '"$@" <&- >&- 2>&-', "sh"))
    assert ours.returncode == plain.returncode == 3


# Counts from the first signal on for half a second, in the handler written in C: Python's own runs once for two signals
# that come close together.
COUNT = """
import os, select, signal, sys, time
reader, writer = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writer)
signal.signal(int(sys.argv[1]), lambda *_: None)
print(os.isatty(0), os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp(), 'ready', flush=True)
select.select([reader], [], [], 100)
end = time.monotonic() + 0.5
while time.monotonic() < end: time.sleep(0.01)
os.write(writer, b"x")
print('signals', len(os.read(reader, 99)) - 1)
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "ALRM", "WINCH", "QUIT"])
def test_a_signal_reaches_the_commands_own_handler_once(name: str, detbuild_run: list[str]) -> None:
    number = signal.Signals[f"SIG{name}"]
    running = subprocess.Popen(
        [*detbuild_run, sys.executable, "-S", "-c", COUNT, str(int(number))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert running.stdout
    assert running.stdout.readline() == "False False ready\n"
    running.send_signal(number)
    assert running.communicate(timeout=120)[0] == "signals 1\n"
    assert running.returncode == 0


def test_kill_9_of_detbuild_run_ends_the_command(detbuild_run: list[str]) -> None:
    running = subprocess.Popen([*detbuild_run, *shell("echo $$; exec sleep 300")], stdout=subprocess.PIPE, text=True)
    assert running.stdout
    pid = int(running.stdout.readline())
    running.kill()
    assert running.wait(60) == -signal.SIGKILL
    assert wait_for(lambda: not _alive(pid))
    running.stdout.close()


def _alive(pid: int) -> bool:
    try:
        return proc.status(pid, "State")[:1] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kill_9_of_the_engine_is_detbuilds_own_failure(detbuild_run: list[str]) -> None:
    script = "read -r _ tracer < /dev/stdin; kill -9 $tracer; sleep 300"
    result = subprocess.run(
        [*detbuild_run, *shell(f"grep TracerPid /proc/self/status | {{ {script}; }}")],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 125
    assert "engine died" in result.stderr


def test_a_daemon_does_not_hold_its_end_and_stays_in_the_session(tmp_path: Path, detbuild_run: list[str]) -> None:
    os.mkfifo(tmp_path / "go")
    daemon = "(read -r x < go; date +%s > part; mv part late) < /dev/null > /dev/null 2>&1 &"
    result = subprocess.run(
        [*detbuild_run, *shell(f"{daemon} echo done")],
        check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    early = (tmp_path / "late").exists()
    (tmp_path / "go").write_text("go\n")
    assert not early
    shell_path = os.path.realpath("/bin/sh")
    assert result.stderr == (
        f"detbuild: note: {shell_path} still ran at the session's end, and what it read later is not on record\n"
    )
    assert wait_for((tmp_path / "late").exists)
    assert (tmp_path / "late").read_text() == f"{EPOCH}\n"


def test_a_daemon_that_holds_the_output_holds_its_reader_as_without(both: Both) -> None:
    same(without_notes(both(*shell("(sleep 0.3; echo late) & echo early"))))


def test_only_the_command_holds_its_output(detbuild_run: list[str]) -> None:
    running = subprocess.Popen(
        [*detbuild_run, *shell("exec >&-; exec sleep 300")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert running.stdout
    assert running.stdout.read() == b""
    assert running.poll() is None
    running.terminate()
    assert running.wait(60) == -signal.SIGTERM


def test_timeout_ends_it(both: Both) -> None:
    # A busy machine takes its time to start a session.
    same(without_notes(both(*shell("trap 'echo got; exit 5' TERM; sleep 9 & wait"), around=("timeout", "2"))))
    same(both("sleep", "30", around=("timeout", "-k", "5", "2")))


@pytest.mark.parametrize("around", [("unshare", "-pf"), ("unshare", "-pf", "--mount-proc"), ("unshare", "-r")])
def test_it_works_in_namespaces(around: tuple[str, ...], detbuild_run: list[str]) -> None:
    if subprocess.run([*around, "true"], check=False, capture_output=True).returncode:
        pytest.skip(f"{' '.join(around)} is not allowed here")
    result = subprocess.run(
        [*around, *detbuild_run, *shell("date +%s; perl -e 'print time'; exit 7")],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (7, f"{EPOCH}\n{EPOCH}", "")


def with_audit(detbuild_run: list[str], file: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*detbuild_run[:-1], "--audit", file, "--", *command], check=False, capture_output=True, text=True, timeout=120
    )


def test_the_audit_goes_to_a_file(tmp_path: Path, detbuild_run: list[str]) -> None:
    file = tmp_path / "audit.json"
    result = with_audit(detbuild_run, str(file), "sh", "-c", "date > /dev/null; exit 3")
    assert (result.returncode, result.stderr) == (3, "")
    audit = Audit.from_json(file.read_text())
    assert audit.epoch == EPOCH
    assert {read.program for read in audit.reads} == {os.path.realpath(shutil.which("date") or "")}


def test_a_run_within_a_run_is_served_by_the_outer_one_and_says_so(tmp_path: Path, detbuild_run: list[str]) -> None:
    """Its own epoch does not hold, and its own record is a gap; the outer record has what it read, and no gap."""
    outer, inner = tmp_path / "outer.json", tmp_path / "inner.json"
    nested = [*detbuild_run[:-1], "--audit", str(inner), "--"]
    nested[nested.index(str(EPOCH))] = str(EPOCH + 7)
    result = with_audit(detbuild_run, str(outer), *nested, *shell("date +%s; perl -e 'print time'; exit 7"))
    assert (result.returncode, result.stdout) == (7, f"{EPOCH}\n{EPOCH}")
    assert result.stderr.startswith("detbuild: gap: outer session: a session around this one goes on")
    record = Audit.from_json(inner.read_text())
    assert [gap.kind for gap in record.gaps] == ["outer session"]
    assert not record.reads
    record = Audit.from_json(outer.read_text())
    assert (record.epoch, record.degraded) == (EPOCH, False)
    programs = [os.path.realpath(shutil.which(name) or "") for name in ("date", "perl")]
    read = {read.program: read.outcome for read in record.reads}
    assert {program: read.get(program) for program in programs} == dict.fromkeys(programs, "fixed")


def test_the_audit_goes_to_stderr(detbuild_run: list[str]) -> None:
    result = with_audit(detbuild_run, "-", "date", "+%s")
    assert result.stdout == f"{EPOCH}\n"
    assert re.fullmatch(r"fixed: \S*/date read \w+ \(\d+ times\)\n", result.stderr)


def test_an_audit_that_cannot_be_written_stops_the_command_before_it_starts(
    tmp_path: Path, detbuild_run: list[str]
) -> None:
    result = with_audit(detbuild_run, str(tmp_path / "nonesuch" / "audit"), "touch", str(tmp_path / "started"))
    assert result.returncode == 125
    assert "cannot write the audit" in result.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("engine", ["auto", "nosuch"])
def test_no_empty_audit_is_left_of_a_command_that_did_not_run(
    engine: str, tmp_path: Path, detbuild_run: list[str]
) -> None:
    file = tmp_path / "audit.json"
    file.write_text("a former run's")
    result = with_audit([*detbuild_run[:-1], "--engine", engine, "--"], str(file), "/nonesuch/program")
    assert result.returncode == (127 if engine == "auto" else 125)
    assert not file.exists()
    assert with_audit(detbuild_run, "/dev/null", "/nonesuch/program").returncode == 127
    assert Path("/dev/null").is_char_device()


class Terminal:
    """A program on a terminal of its own, as its session's leader."""

    def __init__(self, *command: str) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvp(command[0], command)
        self.seen = b""

    def expect(self, pattern: bytes, seconds: float = 60) -> re.Match[bytes]:
        """Read until ``pattern`` is seen; what was read up to its end is gone."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            ready = select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]
            try:
                part = os.read(self.fd, 4096) if ready else b""
            except OSError:
                part = b""
            assert part, f"no {pattern!r} in {self.seen!r}"
            self.seen += part
        self.seen = self.seen[match.end() :]
        return match

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def end(self, seconds: float = 60) -> int:
        """The exit code; fails where the program does not end."""
        found: list[int] = []

        def ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                found.append(os.waitstatus_to_exitcode(status))
            return bool(found)

        if not wait_for(ended, seconds):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            pytest.fail("the program did not end")
        return found[0]


def test_each_ctrl_c_reaches_the_commands_own_handler_once(detbuild_run: list[str]) -> None:
    terminal = Terminal(*detbuild_run, sys.executable, "-S", "-c", COUNT, "2")
    terminal.expect(b"True True ready")
    for _ in range(5):
        terminal.type(b"\x03")
        time.sleep(0.05)
    # Two may become one where the machine is slow, but none becomes two.
    assert 1 <= int(terminal.expect(rb"signals (\d+)\r")[1]) <= 5
    assert terminal.end() == 0


def test_ctrl_c_ends_a_command_without_a_handler(detbuild_run: list[str]) -> None:
    terminal = Terminal(*detbuild_run, *shell("echo ready; exec sleep 300"))
    terminal.expect(b"ready")
    terminal.type(b"\x03")
    assert terminal.end() == -signal.SIGINT


def test_a_terminal_that_goes_away_is_told_to_the_command(tmp_path: Path, detbuild_run: list[str]) -> None:
    script = f"trap 'touch {tmp_path}/told; exit 9' HUP; echo ready; while :; do sleep 0.05; done"
    terminal = Terminal(*detbuild_run, *shell(script))
    terminal.expect(b"ready")
    os.close(terminal.fd)
    assert terminal.end() == 9
    assert (tmp_path / "told").exists()


def test_a_terminals_settings_are_the_commands_to_change(detbuild_run: list[str]) -> None:
    terminal = Terminal(*detbuild_run, *shell("stty -echo; echo ready; read -r line; echo got $line; stty echo"))
    terminal.expect(b"ready")
    assert wait_for(lambda: not termios.tcgetattr(terminal.fd)[3] & termios.ECHO)
    terminal.type(b"word\n")
    terminal.expect(b"got word")
    assert terminal.end() == 0


def test_ctrl_z_and_fg_work_in_an_interactive_shell(tmp_path: Path, detbuild_run: list[str]) -> None:
    terminal = Terminal("env", "PS1=$ ", "bash", "--norc", "--noprofile", "-i")
    quoted = " ".join(f"'{word}'" for word in detbuild_run)
    # No shell: one that is stopped between vfork and exec hangs its own job control, without detbuild too.
    script = tmp_path / "loop"
    script.write_text(
        "import os, select, signal\n"
        "reader, writer = os.pipe2(os.O_NONBLOCK)\n"
        "signal.set_wakeup_fd(writer)\n"
        "signal.signal(signal.SIGCONT, lambda *_: print('continued', flush=True))\n"
        "print('ready', flush=True)\nselect.select([reader], [], [], 100)\nprint('finished')"
    )
    terminal.expect(rb"\$ ")
    terminal.type(f"{quoted} python3 -S {script}\n".encode())
    terminal.expect(rb"[\r\n]ready")
    terminal.type(b"\x1a")
    terminal.expect(rb"Stopped")
    terminal.expect(rb"\$ ")
    terminal.type(b"jobs; echo a$((20+3))\n")
    terminal.expect(rb"Stopped")
    terminal.expect(rb"[\r\n]a23")
    terminal.type(b"fg\n")
    terminal.expect(rb"[\r\n]continued")
    terminal.expect(rb"[\r\n]finished")
    terminal.type(b"exit 4\n")
    assert terminal.end() == 4


def test_a_session_can_be_run_by_an_ordinary_user(as_nobody: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = as_nobody("-m", "detbuild", "run", "--epoch", str(EPOCH), "--", "sh", "-c", "id -un; date +%s; exit 5")
    assert (result.returncode, result.stdout, result.stderr) == (5, f"nobody\n{EPOCH}\n", "")


def test_a_program_that_cannot_be_read_is_a_gap_that_is_told(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]], public: Path
) -> None:
    program = public / "date"
    shutil.copy("/bin/date", program)
    program.chmod(0o711)
    result = as_nobody("-m", "detbuild", "run", "--epoch", str(EPOCH), "--", str(program), "+%s")
    if result.stdout != f"{EPOCH}\n":
        assert "detbuild: gap: program out of reach" in result.stderr


def test_the_record_is_json_with_a_name(tmp_path: Path, detbuild_run: list[str]) -> None:
    with_audit(detbuild_run, str(tmp_path / "audit"), "true")
    record = json.loads((tmp_path / "audit").read_text())
    assert (record["format"], record["version"]) == ("detbuild-audit", 2)


WORLD = """
uname -a; hostname; id; nproc; date +%Y-%m; cat /proc/self/personality; ls -U; find . ; stat -c '%n %Y %i' a.c b z.c
cc -DDIR="\\"$PWD\\"" -c a.c -o a.o; cksum a.o; tar -cf - a.c b z.c | cksum; echo said >&2; exit 7
"""


@pytest.mark.parametrize("options", [["--policy", "observe"], ["--policy", "observe", "--audit", "record.json"]])
def test_under_policy_observe_a_command_does_what_it_does_without(
    options: list[str], detbuild_run: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("z.c", "b", "a.c"):
        (source / name).write_text("const char *dir = DIR;\n")
    if "--audit" in options:
        options = [*options[:-1], str(tmp_path / options[-1])]
    command = shell(WORLD)
    subprocess.run(command, cwd=source, check=False, capture_output=True)  # a.o is there before both
    plain, ours = (
        subprocess.run([*prefix, *command], cwd=source, check=False, capture_output=True, timeout=120)
        for prefix in ([], [*detbuild_run[:-1], *options, "--"])
    )
    same((plain, ours))
    assert (ours.returncode, ours.stderr) == (7, b"said\n")


def test_an_audit_to_the_terminal_leaves_what_a_command_says_as_it_is(detbuild_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("const char *dir = DIR;\n")
    script = 'date +%Y; ls -U; cc -DDIR="\\"$PWD\\"" -c a.c; sed "s|x|$PWD|" a.c'
    command = [*detbuild_run[:-1], "--policy", "observe", "--audit", "-", "--", *shell(script)]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    (tmp_path / "a.o").unlink()
    plain = subprocess.run(shell(script), cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == plain.stdout
    assert all(line.startswith(("leaked: ", "passed: ")) for line in done.stderr.splitlines())
    assert {line.rpartition(" read ")[2] for line in done.stderr.splitlines()} >= {
        "getdents64 (2 times)",
        "build path (1 times)",
    }


@pytest.mark.parametrize(
    ("stated", "options", "expected"),
    [("1300000000", [], "1300000000"), (None, [], "1200000000"), ("1300000000", ["--epoch", "7"], "7")],
)
def test_without_an_epoch_it_is_source_date_epoch_or_that_of_the_directory(
    stated: str | None, options: list[str], expected: str, detbuild_run: list[str], tmp_path: Path
) -> None:
    (tmp_path / "__source-date-epoch.txt").write_text("1200000000")
    command = [word for word in detbuild_run if word not in ("--epoch", "1300000000", "--")]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": stated or ""}
    done = subprocess.run(
        [*command, *options, "--", "date", "+%s"],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == expected
