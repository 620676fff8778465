"""The doctor says what is so, names what it cannot know, and believes an engine only after a trial."""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from detbuild import doctor, protocol
from detbuild.cli import doctor as command
from detbuild.cli.main import main
from detbuild.engine import detbuildd, select
from detbuild.engine.select import Candidate


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A / with nothing of the kernel in it."""
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def candidates(monkeypatch: pytest.MonkeyPatch, *found: Candidate) -> None:
    monkeypatch.setattr(select, "candidates", lambda: list(found))


def test_debugfs_says_which_preemption_model_is_in_force(machine: Path) -> None:
    put(machine, "sys/kernel/debug/sched/preempt", "none voluntary (full) lazy\n")
    put(machine, "proc/cmdline", "quiet preempt=none\n")
    assert doctor.preemption(machine).value == "full"


def test_the_command_line_says_it_where_debugfs_cannot_be_read(machine: Path) -> None:
    put(machine, "proc/cmdline", "root=/dev/sda1 preempt=voluntary quiet\n")
    assert doctor.preemption(machine).value == "voluntary"


def test_a_dynamic_kernel_without_debugfs_is_unknown_and_says_why(machine: Path) -> None:
    put(machine, "proc/version", "Linux version 6.1 #1 SMP PREEMPT_DYNAMIC Debian\n")
    found = doctor.preemption(machine)
    assert found.value.startswith("unknown: ")
    assert "debugfs" in found.value


def test_the_built_model_comes_from_the_kernels_configuration(machine: Path) -> None:
    put(machine, f"boot/config-{os.uname().release}", "\nCONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_HZ=250\n")
    assert doctor.preemption(machine).value == "voluntary"


def test_lockdown_is_the_bracketed_mode(machine: Path) -> None:
    put(machine, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    found = doctor.lockdown(machine)
    assert found.value == "integrity"
    assert "ptrace is not affected" in found.note


def test_a_kernel_without_lockdown_is_unknown(machine: Path) -> None:
    assert doctor.lockdown(machine).value.startswith("unknown: ")


@pytest.mark.parametrize(("scope", "good"), [("0", True), ("1", True), ("2", False), ("3", False)])
def test_a_ptrace_scope_above_one_is_bad_and_names_the_sysctl(machine: Path, scope: str, good: bool) -> None:
    put(machine, "proc/sys/kernel/yama/ptrace_scope", f"{scope}\n")
    found = doctor.ptrace_scope(machine)
    assert found.good is good
    assert ("sysctl" in found.note) is not good


def test_a_kernel_without_yama_lets_ptrace(machine: Path) -> None:
    assert doctor.ptrace_scope(machine).good is True


def test_seccomp_without_trace_is_bad(machine: Path) -> None:
    put(machine, "proc/sys/kernel/seccomp/actions_avail", "kill_thread errno allow\n")
    assert doctor.seccomp(machine).good is False


def test_an_outer_filter_is_told(machine: Path) -> None:
    put(machine, "proc/sys/kernel/seccomp/actions_avail", "trace allow\n")
    put(machine, "proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n")
    assert "already under a filter" in doctor.seccomp(machine).note


def test_user_namespaces_agree_with_unshare(machine: Path) -> None:
    allowed = subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False)
    assert doctor.user_namespaces(machine).good is (allowed.returncode == 0)


def test_without_a_daemon_the_finding_says_what_keeps_it_from_starting(machine: Path) -> None:
    put(machine, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    found = doctor.daemon(machine)
    assert found.value.startswith("no daemon listens: there is no ")
    assert found.note.startswith("it could not start here: the kernel is locked down (integrity)")


def test_without_a_daemon_that_could_start_the_finding_says_how(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(machine, "sys/kernel/btf/vmlinux", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "scripts/detbuildd" in doctor.daemon(machine).note


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("proc/self/status", "CapEff:\t000001fffffffffb\n", "this process lacks CAP_DAC_READ_SEARCH"),
        ("proc/self/ns/pid", "", "the daemon runs in a pid namespace of its own"),
    ],
)
def test_root_is_told_what_it_lacks_to_start_a_daemon_and_others_are_not(
    machine: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, said: str
) -> None:
    put(machine, "sys/kernel/btf/vmlinux", "")
    put(machine, file, text)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.daemon(machine).note.startswith(f"it could not start here: {said}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "scripts/detbuildd" in doctor.daemon(machine).note


def test_a_daemon_that_serves_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(detbuildd.VARIABLE, "/sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(machine / "sock"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                protocol.receive(peer)
                protocol.send(peer, "hello", release="9.9", pid=4711)

        thread = threading.Thread(target=serve)
        thread.start()
        found = doctor.daemon(machine)
        thread.join()
    assert (found.value, found.good) == ("serves, release 9.9, process 4711", True)


def test_who_is_not_in_the_daemons_group_is_told_the_command(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(detbuildd.VARIABLE, "/sock")
    put(machine, "sock", "")
    group = grp.getgrgid((machine / "sock").stat().st_gid).gr_name
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.daemon_group(machine).value == f"in {group}"
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    found = doctor.daemon_group(machine)
    assert found.value == f"not in {group}"
    assert f"usermod -a -G {group} USER" in found.note


def test_a_group_that_was_given_by_its_number_needs_no_name(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(detbuildd.VARIABLE, "/sock")
    put(machine, "sock", "")

    def nameless(number: int) -> grp.struct_group:
        raise KeyError(number)

    monkeypatch.setattr(grp, "getgrgid", nameless)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = doctor.daemon_group(machine)
    assert (found.value, found.good) == ("in one that has no name here", True)


def test_root_of_a_rootless_container_needs_the_group(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(detbuildd.VARIABLE, "/sock")
    put(machine, "sock", "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.daemon_group(machine).value == "root needs none"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor.daemon_group(machine)
    assert found.good is None
    assert "--group-add keep-groups" in found.note


def test_root_needs_no_group(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.daemon_group(machine).good is True


@pytest.mark.parametrize(("check", "remedy"), [("btf", "CONFIG_DEBUG_INFO_BTF"), ("bcc", "python3-bpfcc")])
def test_what_the_daemon_lacks_comes_with_what_to_do(
    machine: Path, monkeypatch: pytest.MonkeyPatch, check: str, remedy: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = getattr(doctor, check)(machine)
    assert found.value == "not found"
    assert remedy in found.note


def test_a_check_that_breaks_becomes_unknown_and_the_others_go_on(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_check(root: Path) -> doctor.Finding:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(doctor, "CHECKS", (broken_check, doctor.kernel))
    broken, kernel = doctor.examine(machine).findings
    assert broken == doctor.Finding("broken check", "unknown: the moon is full")
    assert os.uname().release in kernel.value


def test_on_an_empty_machine_every_check_still_answers(machine: Path) -> None:
    report = doctor.examine(machine)
    assert len(report.findings) == len(doctor.CHECKS)
    assert all(finding.value for finding in report.findings)


def test_bitbake_on_the_path_is_found(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bitbake"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor.bitbake(machine).value == str(program)


def test_an_engine_that_says_yes_and_does_not_hold_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        def __init__(self, **_: object) -> None: ...

        def run(self, program: list[str], **options: object) -> subprocess.CompletedProcess[str]:
            return subprocess.run(program, capture_output=True, text=True, check=False)

    monkeypatch.setattr(doctor, "Session", Deaf)
    candidates(monkeypatch, Candidate("tracer", True))
    report = doctor.examine()
    assert report.engine == ""
    assert "should see second 86400" in report.engines[0].reason


def test_no_engine_makes_the_exit_code_one_and_tells_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates(monkeypatch, Candidate("tracer", False, "ptrace is turned off", "turn it on"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "ptrace is turned off" in out
    assert "to get it: turn it on" in out
    assert out.splitlines()[-1] == "auto takes nothing: no engine works here"


def test_auto_names_what_it_would_rather_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try", lambda candidate: candidate)
    candidates(monkeypatch, Candidate("fast", False, "no key", "get one"), Candidate("tracer", True))
    report = doctor.examine()
    assert report.engine == "tracer"
    assert "fast would be preferred" in report.why


def test_the_engine_here_is_the_one_that_a_session_takes() -> None:
    report = doctor.examine()
    if not report.engine:
        pytest.skip(f"no engine works here: {report.engines}")
    assert report.engine == select.choose("auto").name


def test_json_carries_the_formats_name_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["version"]) == ("detbuild-doctor", 1)
    assert code == (0 if said["engine"] else 1)
    assert {finding["name"] for finding in said["findings"]} >= {"kernel", "preemption", "seccomp", "BTF"}


def test_the_program_says_the_same_as_the_library() -> None:
    done = subprocess.run([sys.executable, "-m", "detbuild", "doctor"], capture_output=True, text=True, check=False)
    report = doctor.examine()
    assert done.returncode == (0 if report.engine else 1)
    assert done.stdout.rstrip("\n") == command.text(report)
