"""Each call that BPF answers by itself has its hooks in the programs, natively and through the 32-bit gate."""

from __future__ import annotations

import re

import pytest

from detbuild import policy
from detbuild.daemon import loader
from detbuild.engine.filter import notified
from detbuild.linux.x86_64 import I386, NATIVE, Abi
from detbuild.policy import Treatment

# The kernel's functions, where their names are not the calls' own: arch/x86/entry/syscalls/syscall_64.tbl and _32.tbl.
NATIVE_ENTRIES = {"stat": "newstat", "fstat": "newfstat", "lstat": "newlstat"}
I386_ENTRIES = {
    "clock_gettime": "sys_clock_gettime32",
    "clock_gettime64": "sys_clock_gettime",
    "gettimeofday": "compat_sys_gettimeofday",
    "nanosleep": "sys_nanosleep_time32",
    "clock_nanosleep": "sys_clock_nanosleep_time32",
    "clock_nanosleep_time64": "sys_clock_nanosleep",
    "_newselect": "compat_sys_select",
    "pselect6": "compat_sys_pselect6_time32",
    "pselect6_time64": "compat_sys_pselect6_time64",
    "poll": "sys_poll",
    "ppoll": "compat_sys_ppoll_time32",
    "ppoll_time64": "compat_sys_ppoll_time64",
    "oldstat": "sys_stat",
    "oldfstat": "sys_fstat",
    "oldlstat": "sys_lstat",
    "stat": "compat_sys_newstat",
    "fstat": "compat_sys_newfstat",
    "lstat": "compat_sys_newlstat",
    "stat64": "compat_sys_ia32_stat64",
    "fstat64": "compat_sys_ia32_fstat64",
    "lstat64": "compat_sys_ia32_lstat64",
    "fstatat64": "compat_sys_ia32_fstatat64",
    "statx": "sys_statx",
}
NOT_COUNTED = {"select"}  # the i386 call 82, as its row in calls.py says
# Whose length is read where they begin; of a relative sleep that is simpler it is read at its end.
FROM_THE_START = ("select", "ppoll", "clock_nanosleep")
NO_RESULTS = {"__x64_sys_restart_syscall", "__x64_sys_sched_get_priority_max"}  # an interrupted sleep, and the doorbell
HOOKS = set(re.findall(r"^(EXIT|ENTER)\((\w+)\)", loader.source().decode(), re.M))


def calls(abi: Abi) -> set[str]:
    """What is fixed, and none of the supervisor's, or not always."""
    rules = policy.rules("time")
    supervised = notified(rules)
    kinds = ("clock", "sleep", "deadline", "file times")
    fixed = {rule.call for rule in rules if rule.treatment is Treatment.FIXED and rule.kind in kinds}
    return {call for call in fixed if call in abi.numbers} - {rule.call for rule in rules if rule in supervised}


def entry(abi: Abi, call: str) -> str:
    if abi is NATIVE:
        return f"__x64_sys_{NATIVE_ENTRIES.get(call, call)}"
    return f"__ia32_{I386_ENTRIES[call]}"


@pytest.mark.parametrize("abi", [NATIVE, I386], ids=lambda abi: abi.name)
def test_every_call_that_bpf_answers_has_its_hooks_and_no_other_has_one(abi: Abi) -> None:
    entries = {entry(abi, call) for call in calls(abi) - (NOT_COUNTED if abi is I386 else set())}
    assert len(entries) > 10
    wanted = {("EXIT", name) for name in entries}
    wanted |= {("ENTER", name) for name in entries if any(word in name for word in FROM_THE_START)}
    prefix = entry(abi, "statx").removesuffix("sys_statx")
    assert {hook for hook in HOOKS if hook[1].startswith(prefix) and hook[1] not in NO_RESULTS} == wanted
