"""The vDSO of real processes: hidden from a new program, disarmed in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import LIBRARY
from detbuild.linux import vdso
from detbuild.linux.x86_64 import NATIVE

PROLOGUE = f"import ctypes, os, signal, sys; sys.path.insert(0, {str(LIBRARY)!r}); "

# Seize a child, stop it at its execution, change what is asked for, and let it go on.
AT_EXEC = """
from detbuild.linux import ptrace, vdso
from detbuild.linux.x86_64 import NATIVE, I386
reader, writer = os.pipe()
child = os.fork()
if not child:
    os.read(reader, 1)
    os.execve(sys.argv[2], sys.argv[2:], {f"V{n}": "x" * 100 for n in range(int(os.environ["STUFFING"]))})
ptrace.seize(child, ptrace.PTRACE_O_TRACEEXEC)
os.write(writer, b"x")
os.waitpid(child, 0)
registers = ptrace.Registers()
ptrace.getregs(child, registers)
if sys.argv[1] == "hide":
    vdso.hide(child, registers.rsp, NATIVE if registers.cs != 0x23 else I386)
ptrace.cont(child)
os.waitpid(child, 0)
"""

SHOW = """
#include <stdio.h>
#include <sys/auxv.h>
int main(void) { printf("%s %lu\\n", getauxval(33) ? "vdso" : "none", getauxval(6)); }
"""


def python(script: str, *arguments: str, stuffing: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={"STUFFING": str(stuffing), "PATH": "/usr/bin:/bin"},
    )
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(
    scope="module",
    params=[[], ["-static"], ["-m32"], ["-m32", "-static"]],
    ids=lambda flags: " ".join(flags) or "plain",
)
def show(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("show")
    (directory / "show.c").write_text(SHOW)
    subprocess.run(["gcc", *request.param, "-o", str(directory / "show"), str(directory / "show.c")], check=True)
    return directory / "show"


@pytest.mark.parametrize("stuffing", [0, 1, 15, 200, 8000])
def test_hide_takes_the_vdso_and_nothing_else_from_the_vector(show: Path, stuffing: int) -> None:
    assert python(AT_EXEC, "leave", str(show), stuffing=stuffing) == "vdso 4096\n"
    assert python(AT_EXEC, "hide", str(show), stuffing=stuffing) == "none 4096\n"


def test_hide_refuses_what_is_no_stack() -> None:
    script = """
from detbuild.linux import vdso
from detbuild.linux.x86_64 import NATIVE
page = ctypes.create_string_buffer(b"\\xff" * 8192)
for address in (0, ctypes.addressof(page)):
    try:
        vdso.hide(os.getpid(), address, NATIVE)
    except (OSError, ValueError) as error:
        print(type(error).__name__)
"""
    assert python(script) == "OSError\nValueError\n"


COUNT = """
from detbuild.linux import seccomp, vdso
from detbuild.linux.x86_64 import NATIVE
import time
if sys.argv[1] == "disarm":
    vdso.disarm()
code = seccomp.Assembler()
code.load(seccomp.NR)
for call in ("time", "gettimeofday", "clock_gettime"):
    code.jump_equal(NATIVE.numbers[call], "refuse")
code.ret(seccomp.RET_ALLOW)
code.label("refuse")
code.ret(seccomp.RET_ERRNO | 95)
seccomp.install(code.assemble())
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(64)
def forked(read):
    child = os.fork()
    if not child:
        os._exit(95 if read() < 0 else 0)  # libc hands out what the vDSO returned
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
libc.time.restype = ctypes.c_long
print([forked(lambda: libc.clock_gettime(0, buffer)), forked(lambda: libc.clock_gettime(1, buffer)),
       forked(lambda: libc.gettimeofday(buffer, None)), forked(lambda: libc.time(None))])
"""


def test_disarm_makes_every_clock_function_a_system_call() -> None:
    assert python(COUNT, "leave") == "[0, 0, 0, 0]\n"
    assert python(COUNT, "disarm") == "[95, 95, 95, 95]\n"


def test_a_disarmed_process_still_reads_the_right_times() -> None:
    script = """
from detbuild.linux import vdso
import time
before = (time.time(), time.monotonic())
vdso.disarm()
vdso.disarm()
after = (time.time(), time.monotonic())
print(all(0 <= b - a < 5 for a, b in zip(before, after)))
"""
    assert python(script) == "True\n"


def test_the_entries_are_real_symbols_of_this_kernels_vdso() -> None:
    start, end = vdso._mapping()
    with open("/proc/self/mem", "rb") as own:
        own.seek(start)
        symbols = vdso._symbols(own.read(end - start))
    assert set(vdso._ENTRIES) <= set(symbols)
    assert all(0 < offset < end - start for offset in symbols.values())
    assert NATIVE.numbers["clock_gettime"] == 228
