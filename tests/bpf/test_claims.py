"""The documents say at which functions the BPF programs are, and where they write."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SOURCES = {path.name: path.read_text() for path in sorted((TOP / "lib/detbuild/bpf").glob("*.bpf.c"))}
INTERCEPTION = " ".join((TOP / "docs/interception.md").read_text().split())
SECURITY = (TOP / "docs/security.md").read_text()


def attached(how: str) -> set[str]:
    """The functions with a program at their exit, or their entry."""
    return {name for text in SOURCES.values() for name in re.findall(rf"^{how}\((\w+)\)", text, re.M)}


def test_the_manual_counts_the_functions_with_a_program() -> None:
    exits, entries = attached("EXIT"), attached("ENTER")
    assert f"the exit of `__x64_sys_clock_gettime` and {len(exits) - 1} more functions" in INTERCEPTION
    assert f"{len(entries)} of the {len(exits)}, which sleep, have one at the entry too" in INTERCEPTION
    assert entries < exits


def test_a_program_at_an_entry_writes_nothing_to_the_caller() -> None:
    assert not writes(SOURCES["sleep.bpf.c"])
    assert not [name for name, text in SOURCES.items() if name != "sleep.bpf.c" and "\nENTER(" in text]


def test_the_security_model_names_every_file_that_writes_to_a_program() -> None:
    named = set(re.findall(r"^\| .* \| `(\w+\.bpf\.c)` \|$", SECURITY, re.M))
    assert named == {name for name, text in SOURCES.items() if writes(text)}


def writes(source: str) -> list[str]:
    return re.findall(r"\b(?:put|bpf_probe_write_user)\(", source)


def test_the_security_model_knows_how_much_a_device_writes() -> None:
    sizes = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", SOURCES["device.bpf.c"], re.M)}
    tail_calls = 33  # MAX_TAIL_CALL_CNT, linux/bpf.h
    assert (sizes["BLOCK"] * sizes["BLOCKS"] * (tail_calls + 1)) >> 20 == 3
    assert f"of a vectored one {sizes['BLOCK'] // 2 >> 10} KiB" in SECURITY
    assert f"first {sizes['PIECES']} `struct iovec`" in SECURITY
