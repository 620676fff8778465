"""What keeps the daemon from starting is one sentence, with what to do."""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import LIBRARY, as_user, needs_root

from detbuild.daemon import __main__ as entrance
from detbuild.daemon import listen, log, machine
from detbuild.daemon.config import Config
from detbuild.errors import DaemonError


def refusal(check: Callable[[Path], None], root: Path) -> DaemonError:
    with pytest.raises(DaemonError) as caught:
        check(root)
    return caught.value


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown(tmp_path: Path, mode: str) -> None:
    put(tmp_path, "sys/kernel/security/lockdown", "none integrity confidentiality\n".replace(mode, f"[{mode}]"))
    error = refusal(machine.check_lockdown, tmp_path)
    assert error.refused.startswith(f"the kernel is locked down ({mode})")
    assert "use the tracer" in error.remedy


@pytest.mark.parametrize("text", [None, "[none] integrity confidentiality\n"])
def test_no_lockdown(tmp_path: Path, text: str | None) -> None:
    if text:
        put(tmp_path, "sys/kernel/security/lockdown", text)
    machine.check_lockdown(tmp_path)


def test_no_btf(tmp_path: Path) -> None:
    assert "CONFIG_DEBUG_INFO_BTF" in refusal(machine.check_btf, tmp_path).remedy
    put(tmp_path, "sys/kernel/btf/vmlinux", "")
    machine.check_btf(tmp_path)


def test_no_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "python3-bpfcc" in refusal(machine.check_bcc, tmp_path).remedy


def test_no_capability(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/status", "Name:\tx\nCapEff:\t00000000a80425ff\n")
    error = refusal(machine.check_capabilities, tmp_path)
    assert error.refused == "this process lacks CAP_SYS_ADMIN, CAP_SYS_PTRACE"
    assert "--privileged" in error.remedy
    put(tmp_path, "proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
    machine.check_capabilities(tmp_path)


@needs_root
def test_no_root() -> None:
    said = as_user(12345, lambda: refusal(machine.check_root, Path("/")).refused)
    assert said == "only root can load BPF programs that write to memory"


@needs_root
def test_a_pid_namespace_of_its_own() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(LIBRARY)!r})\n"
        "from detbuild.daemon import machine\n"
        "try: machine.check_namespace()\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--mount-proc", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no pid namespaces here")
    assert "--pid=host" in done.stdout, done.stderr


@needs_root
def test_the_program_says_the_sentence_and_exits_one() -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-m", "detbuild.daemon", "--foreground"],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("detbuildd: ")


def test_an_unknown_option_is_exit_code_two() -> None:
    with pytest.raises(SystemExit) as caught:
        entrance.main(["--fast"])
    assert caught.value.code == 2


# The socket -----------------------------------------------------------------------------------------------------


@needs_root
def test_a_socket_left_over_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    config = Config(socket=str(tmp_path / "sock"), group="0")
    listen.own(config).close()
    listen.own(config).close()
    (tmp_path / "sock").unlink()
    (tmp_path / "sock").write_text("precious")
    with pytest.raises(DaemonError, match="cannot listen at"):
        listen.own(config)
    assert (tmp_path / "sock").read_text() == "precious"


def test_the_group_gets_to_the_socket_whatever_roots_umask_is(tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    group, state = str(os.getegid()), tmp_path / "run" / "sessions"
    former = os.umask(0o077)
    try:
        os.close(listen.lock(Config(state=str(state))))  # it makes what the socket stands in
        for place in (tmp_path / "run", tmp_path / "other" / "run"):
            listen.own(Config(socket=str(place / "sock"), group=group)).close()
            assert (mode(place), mode(place / "sock")) == (0o755, 0o660)
        assert mode(tmp_path / "other") == 0o755
        assert mode(state) == 0o700
    finally:
        os.umask(former)


def test_a_group_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DaemonError) as caught:
        listen.own(Config(socket=str(tmp_path / "sock"), group="no-such-group"))
    assert caught.value.refused == "there is no group no-such-group"
    assert caught.value.remedy.startswith("groupadd --system no-such-group")


ACTIVATED = """
import os, sys
sys.path.insert(0, sys.argv[1])
os.environ["LISTEN_PID"] = str(os.getpid())
from detbuild.daemon import listen
listener = listen.activated()
peer, _ = listener.accept()
peer.sendall(f"{os.get_inheritable(listener.fileno())} {'LISTEN_PID' in os.environ}".encode())
"""


def activated(listener: socket.socket) -> subprocess.Popen[str]:
    """As systemd would: the socket is descriptor 3."""
    saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else None
    os.dup2(listener.fileno(), 3)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(LIBRARY)],
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=[3],
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        if saved is not None:
            os.dup2(saved, 3)
            os.close(saved)
        else:
            os.close(3)


def test_a_socket_of_systemds_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        process = activated(listener)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(str(tmp_path / "sock"))
            assert peer.recv(100) == b"False False"
        process.communicate(timeout=120)


def test_what_is_no_listening_unix_socket_is_refused() -> None:
    with socket.socket(socket.AF_INET) as listener:
        process = activated(listener)
    _, said = process.communicate(timeout=120)
    assert "no Unix stream socket that listens" in said


def test_without_systemd_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert listen.activated() is None


def test_a_line_of_the_log_is_one_line_whatever_is_in_it() -> None:
    assert log.one_line("a\nb\x1b[2J\u202e\udcff") == "a\\nb\\x1b[2J\\u202e\\udcff"
