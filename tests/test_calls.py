"""Every system call is classified, once."""

from __future__ import annotations

from collections import Counter

import pytest

from detbuild import calls
from detbuild.calls import Treatment
from detbuild.linux import x86_64_calls
from detbuild.linux.x86_64 import ABIS, Abi

ROWS = Counter(name for group in calls.TIME for name in group.names)
BY_NAME = {name: group for group in calls.TIME for name in group.names}


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_every_number_of_a_table_has_exactly_one_row(abi: Abi) -> None:
    """The tables' 383 and 459 numbers are counted against the kernel's own list in linux/test_x86_64.py."""
    assert len(abi.numbers) == {"x86-64": 383, "i386": 459}[abi.name]
    assert {call: ROWS[call] for call in abi.numbers} == dict.fromkeys(abi.numbers, 1)


def test_no_row_names_a_call_that_no_table_has() -> None:
    assert ROWS.keys() <= set().union(*(abi.numbers for abi in ABIS))


def test_every_row_says_why() -> None:
    assert not [group.names for group in calls.TIME if len(group.reason) < len("no timeout")]
    assert all(group.when in calls.CONDITIONS and group.kind in calls.KINDS for group in calls.TIME)


def test_an_engine_does_something_at_what_is_fixed_and_only_there() -> None:
    assert all(bool(group.kind) == (group.treatment is Treatment.FIXED) for group in calls.TIME)


@pytest.mark.parametrize(
    ("kind", "fragments"),
    [
        ("file times", ("stat", "fstat")),
        ("write times", ("utime",)),
        ("clock", ("gettimeofday", "clock_gettime", "adjtime")),
        ("deadline", ("clock_nanosleep", "mq_timed", "timer_settime", "timerfd_settime")),
    ],
)
def test_no_variant_of_a_call_is_forgotten(kind: str, fragments: tuple[str, ...]) -> None:
    """A 32-bit or a later variant has its elder's name in its own; some others have it by chance."""
    others = {"statfs", "fstatfs", "statfs64", "fstatfs64", "statmount", "ustat", "cachestat", "settimeofday"}
    variants = {name for name in ROWS.keys() - others if any(fragment in name for fragment in fragments)}
    assert {name: BY_NAME[name].kind for name in variants} == dict.fromkeys(variants, kind)


def test_every_64_bit_time_call_is_treated_as_its_32_bit_elder() -> None:
    pairs = {name: name.removesuffix("64").removesuffix("_time") for name in ROWS if name.endswith("_time64")}
    assert len(pairs) > 10
    assert {new: BY_NAME[new].treatment for new in pairs} == {new: BY_NAME[old].treatment for new, old in pairs.items()}


@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter", "clone3", "clock_settime", "settimeofday"])
def test_what_would_bypass_or_harm_is_refused(call: str) -> None:
    assert BY_NAME[call].treatment is Treatment.REFUSED


@pytest.mark.parametrize("call", ["ptrace", "perf_event_open", "bpf", "iopl"])
def test_what_can_see_past_the_session_is_reported(call: str) -> None:
    assert BY_NAME[call].treatment is Treatment.REPORTED


def test_what_x32_numbers_by_itself_needs_no_stop() -> None:
    stops = {call for call in x86_64_calls.X32 if BY_NAME[call].treatment in (Treatment.FIXED, Treatment.REFUSED)}
    assert not stops
