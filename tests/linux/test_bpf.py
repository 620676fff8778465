"""BPF maps as a daemon reads them: a real map of this kernel's."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from detbuild.bpf import layout
from detbuild.linux import bpf

_CREATE, _HASH = 0, 1
ROWS = 20_000


@pytest.fixture
def counts() -> Iterator[bpf.Map[Any, Any]]:
    key, value = layout.MAPS["counts"]
    attributes = struct.pack("=5I", _HASH, ctypes.sizeof(key), ctypes.sizeof(value), 65536, 0)
    try:
        fd = bpf._bpf("BPF_MAP_CREATE", _CREATE, attributes)
    except OSError as error:
        pytest.skip(f"this process may make no BPF map: {error}")
    yield bpf.Map(fd, key, value)
    os.close(fd)


def fill(counts: bpf.Map[Any, Any]) -> None:
    """Ten rows of session 7 among many others'."""
    for number in range(ROWS):
        session = 7 if number % (ROWS // 10) == 0 else 1000 + number % 200
        counts.put(layout.Count(program=number, session=session, source=1), ctypes.c_uint64(number + 1))


def test_the_rows_of_one_session_are_found_among_the_others(counts: bpf.Map[Any, Any]) -> None:
    fill(counts)
    found = {key.program: value.value for key, value in counts.where("session", 7)}
    assert found == {number: number + 1 for number in range(0, ROWS, ROWS // 10)}
    assert sum(1 for _ in counts.items()) == ROWS
    assert {key.session for key, _ in counts.items()} == {7, *range(1000, 1200)}


def test_the_rows_of_several_sessions_are_found_at_once(counts: bpf.Map[Any, Any]) -> None:
    fill(counts)
    found = list(counts.where("session", 7, 1000, 1199))
    assert {key.session for key, _ in found} == {7, 1000, 1199}
    assert len(found) == sum(1 for key, _ in counts.items() if key.session in (7, 1000, 1199))


def test_who_looks_for_one_session_makes_no_object_for_the_others(
    counts: bpf.Map[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(counts)
    copy = Mock(wraps=bpf._copy)
    monkeypatch.setattr(bpf, "_copy", copy)
    assert len(list(counts.where("session", 7))) == 10
    assert copy.call_count == 20  # a key and a value each


def test_an_empty_map_is_told_from_one_with_a_row(counts: bpf.Map[Any, Any]) -> None:
    assert bpf.empty(counts.fd)
    counts.put(layout.Count(), ctypes.c_uint64(1))
    assert not bpf.empty(counts.fd)


def test_a_variable_takes_the_place_of_its_constant_and_of_nothing_else() -> None:
    def wide(registers: int, value: int) -> bytes:
        return struct.pack("=BBhIBBhI", 0x18, registers, 0, value & 0xFFFFFFFF, 0, 0, 0, value >> 32)

    call = struct.pack("=BBhi", 0x85, 0, 0, 154)
    other = struct.pack("=BBhI", 0xB7, 1, 0, layout.ACTIVE & 0xFFFFFFFF)  # mov r1, of half the constant
    map_of_that_number = wide(1 << 4 | 1, layout.ACTIVE)
    program = other + wide(1, layout.ACTIVE) + call + wide(2, layout.ACTIVE + 1) + map_of_that_number
    made = bpf.refer(program, layout.ACTIVE, 77)
    assert made == other + wide(3 << 4 | 1, 77) + call + wide(2, layout.ACTIVE + 1) + map_of_that_number
    assert bpf.refer(call, layout.ACTIVE, 77) == call
