"""What /proc says, also of processes with odd names."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from detbuild.linux import proc

ODD = ["a b", "a) R 1 (b", "a\nState:\tX (dead)", "(((", ")", "a\\n", "ä\udcff", "Tgid:\t1"]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_changes_no_answer(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "20"]) as process:
        plain = subprocess.Popen(["sleep", "300"])
        try:
            assert 0 <= proc.start_time(plain.pid) - proc.start_time(process.pid) < 6000
            assert proc.alive(process.pid, proc.start_time(process.pid))
            assert proc.status(process.pid, "Tgid") == str(process.pid)
            assert proc.status(process.pid, "PPid") == str(os.getpid())
            assert proc.program(process.pid) == str(program)
        finally:
            process.kill()
            plain.kill()
            plain.wait()


def test_a_zombie_is_not_alive_and_nor_is_another_process_of_that_pid() -> None:
    process = subprocess.Popen(["sleep", "300"])
    started = proc.start_time(process.pid)
    assert proc.alive(process.pid, started)
    assert not proc.alive(process.pid, started + 1)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not proc.alive(process.pid, started)
    process.wait()
    assert not proc.alive(process.pid, started)


def test_a_process_that_is_gone_has_no_program() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert proc.program(process.pid) == "?"
    with pytest.raises(FileNotFoundError):
        proc.status(process.pid, "Name")


def test_an_absent_field_is_empty() -> None:
    assert proc.status("self", "Nonesuch") == ""


def test_threads_names_every_thread() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert {threading.get_native_id(), thread.native_id} <= set(proc.threads(os.getpid()))
    finally:
        go.set()
        thread.join()
