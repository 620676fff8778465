"""The BPF programs, compiled for the running kernel: in seconds here, where a virtual machine takes a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild.daemon import loader
from detbuild.linux.btf import VMLINUX

LIBRARY = Path(loader.__file__).resolve().parents[2]
# In a process of its own, as the daemon does: the compiler's memory is never given back.
COMPILE = """
import sys
from bcc.libbcc import lib
from detbuild.daemon import loader
from detbuild.linux.btf import Btf
module = loader.compiled(Btf.of_kernel(), (64, 8), sys.argv[1] == "fexit")
print(*(lib.bpf_function_name(module, number).decode() for number in range(lib.bpf_num_functions(module))))
"""


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
    names = result.stdout.split()
    assert {"exit____x64_sys_clock_gettime", "event__sched_process_fork"} <= set(names)
    assert all(name.startswith(("exit__", "enter__", "event__")) for name in names)
