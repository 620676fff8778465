"""What the tracer says where Yama, the kernel's seccomp or another tracer refuses it; and that a session says so."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

import detbuild
from detbuild.cli.main import main
from detbuild.engine import refusals, select
from detbuild.errors import EngineUnavailable
from detbuild.linux import proc

Settings = Callable[..., None]
ALL_ACTIONS = "kill_process kill_thread trap errno user_notif trace log allow"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Sets what files below /proc/sys/kernel hold; None is a file that this kernel has not. And who one is."""
    held: dict[str, str | None] = {"yama/ptrace_scope": "0", "seccomp/actions_avail": ALL_ACTIONS}
    real = proc.read

    def read(pid: int | str, name: str) -> bytes:
        text = held.get(name.removeprefix("kernel/"), "")
        if pid != "sys" or text == "":
            return real(pid, name)
        if text is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return f"{text}\n".encode()

    def choose(user: int = 1000, **values: str | None) -> None:
        names = {"scope": "yama/ptrace_scope", "actions": "seccomp/actions_avail"}
        held.update({names[name]: value for name, value in values.items()})
        monkeypatch.setattr(os, "geteuid", lambda: user)

    monkeypatch.setattr(proc, "read", read)
    return choose


@pytest.mark.parametrize(
    ("scope", "user"),
    [(None, 1000), ("0", 1000), ("1", 1000), ("2", 0), ("nonsense", 1000)],
)
def test_yama_that_lets_the_tracer_work_is_no_refusal(settings: Settings, scope: str | None, user: int) -> None:
    settings(user, scope=scope)
    refusals.check_tracer()


@pytest.mark.parametrize(("scope", "user", "reboot"), [("2", 1000, False), ("3", 1000, True), ("3", 0, True)])
def test_yama_that_forbids_is_named_with_what_root_has_to_do(
    settings: Settings, scope: str, user: int, reboot: bool
) -> None:
    settings(user, scope=scope)
    with pytest.raises(EngineUnavailable) as refusal:
        refusals.check_tracer()
    assert refusal.value.refused == f"ptrace is turned off: kernel.yama.ptrace_scope is {scope}"
    assert refusal.value.remedy.startswith("as root, sysctl kernel.yama.ptrace_scope=1")
    assert ("after a reboot" in refusal.value.remedy) == reboot


@pytest.mark.parametrize("actions", ["", "kill_thread trap errno allow", "traced"])
def test_a_kernel_whose_seccomp_cannot_trace_is_named(settings: Settings, actions: str) -> None:
    settings(actions=actions or " ")
    with pytest.raises(EngineUnavailable, match="this kernel's seccomp has no action 'trace'") as refusal:
        refusals.check_tracer()
    assert "CONFIG_SECCOMP_FILTER" in refusal.value.remedy


def test_a_kernel_that_does_not_list_its_actions_is_tried(settings: Settings) -> None:
    settings(actions=None)
    refusals.check_tracer()


@pytest.mark.parametrize("engine", ["auto", "tracer"])
def test_a_session_is_refused_with_that_sentence_before_a_program_starts(settings: Settings, engine: str) -> None:
    settings(scope="3")
    with pytest.raises(EngineUnavailable, match=r"kernel\.yama\.ptrace_scope is 3"):
        detbuild.Session(epoch=1, engine=engine).run(["true"])


def test_the_command_says_it_and_ends_with_125(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    settings(actions="allow")
    assert main(["run", "--epoch", "1", "--engine", "tracer", "--", "echo", "ran"]) == 125
    out, error = capfd.readouterr()
    assert out == ""
    assert error.startswith("detbuild: ")
    assert "seccomp has no action 'trace'" in error


def test_the_doctors_candidate_gives_reason_and_remedy_apart(settings: Settings) -> None:
    settings(scope="2")
    (tracer,) = (candidate for candidate in select.candidates() if candidate.name == "tracer")
    assert not tracer.usable
    assert "kernel.yama.ptrace_scope is 2" in tracer.reason
    assert "sysctl kernel.yama.ptrace_scope=1" in tracer.remedy


DENIED = PermissionError(errno.EPERM, "Operation not permitted")


def test_a_refused_seize_of_a_traced_process_names_its_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {("7", "TracerPid"): "9", ("9", "Name"): "gdb"}
    monkeypatch.setattr(proc, "status", lambda pid, key: said[str(pid), key])
    assert refusals.seize_refused(7, DENIED).refused == "this process is already traced by process 9 (gdb)"


@pytest.mark.parametrize(("scope", "cause"), [("0", "container's seccomp profile"), ("2", "ptrace_scope is 2")])
def test_a_refused_seize_is_laid_on_yama_only_where_it_forbids(settings: Settings, scope: str, cause: str) -> None:
    settings(0, scope=scope)
    error = refusals.seize_refused(os.getpid(), DENIED)
    assert error.refused == "the kernel refused ptrace (Operation not permitted)"
    assert cause in error.cause
    assert ("kernel.yama" in error.remedy) == (scope == "2")


def test_a_seize_that_failed_for_another_reason_is_not_laid_on_a_profile() -> None:
    error = refusals.seize_refused(os.getpid(), OSError(errno.EIO, "Input/output error"))
    assert (error.refused, error.cause) == ("the kernel refused ptrace (Input/output error)", "")
