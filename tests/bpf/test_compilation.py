"""The BPF programs, compiled for the running kernel: in seconds here, where a virtual machine takes a minute."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild.daemon import loader
from detbuild.linux.btf import VMLINUX

LIBRARY = Path(loader.__file__).resolve().parents[2]
BPF_JMP, BPF_JMP32, BPF_JA, BPF_CALL, BPF_EXIT = 5, 6, 0x05, 0x85, 0x95  # linux/bpf.h
# In a process of its own, as the daemon does: the compiler's memory is never given back.
COMPILE = """
import ctypes, json, sys
from bcc.libbcc import lib
from detbuild.daemon import loader
from detbuild.linux.btf import Btf
module = loader.compiled(Btf.of_kernel(), (64, 8), sys.argv[1] == "fexit")
names = [lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))]
code = [ctypes.string_at(lib.bpf_function_start(module, n), lib.bpf_function_size(module, n)) for n in names]
print(json.dumps({name.decode(): text.hex() for name, text in zip(names, code)}))
"""


def fallen_into(code: bytes) -> list[int]:
    """Loops that a program falls into from below, rather than by a jump: Linux 6.1 refuses it ("back-edge")."""
    instructions = [struct.unpack_from("=BBh", code, at) for at in range(0, len(code), 8)]

    def following(at: int) -> list[tuple[int, bool]]:
        operation, _, offset = instructions[at]
        if operation & 7 not in (BPF_JMP, BPF_JMP32) or operation == BPF_CALL:
            return [(at + 1, False)]
        if operation == BPF_EXIT:
            return []
        return ([(at + 1, True)] if operation != BPF_JA else []) + [(at + offset + 1, True)]

    found, under_way, path = [], {0}, [(0, iter(following(0)))]
    explored: set[int] = set()
    while path:
        at, ways = path[-1]
        for way, jumps in ways:
            if way in under_way and not jumps:
                found.append(way)
            if way not in under_way | explored:
                under_way.add(way)
                path.append((way, iter(following(way))))
                break
        else:
            path.pop()
            under_way.discard(at)
            explored.add(at)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make BPF maps")
@pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel does not describe its types")
@pytest.mark.parametrize("probes", ["fexit", "return probes"])
def test_the_programs_compile_for_this_kernel(probes: str) -> None:
    pytest.importorskip("bcc", reason="BCC is not installed: apt-get install python3-bpfcc")
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, "-c", COMPILE, probes]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "Operation not permitted" in result.stderr:
        pytest.skip("this machine lets no process make BPF maps")
    assert result.returncode == 0, result.stderr
    programs = {name: bytes.fromhex(code) for name, code in json.loads(result.stdout).items()}
    assert {"exit____x64_sys_clock_gettime", "event__sched_process_fork", "exit__urandom_read_iter"} <= set(programs)
    assert all(name.startswith(("exit__", "enter__", "event__")) for name in programs)
    assert {name: found for name, code in programs.items() if (found := fallen_into(code))} == {}


def test_a_loop_that_is_fallen_into_is_found() -> None:
    jump, step, leave = (
        struct.pack("=BBhi", BPF_JA, 0, 1, 0),
        bytes([7, 1, 0, 0, 1, 0, 0, 0]),
        bytes([BPF_EXIT]) + bytes(7),
    )
    back = struct.pack("=BBhi", 0x55, 1, -3, 9)
    assert fallen_into(jump + step + step + back + leave) == [2]
    assert fallen_into(step + step + back + leave) == []
