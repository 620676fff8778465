"""What stands in an artefact is anybody's: no value may stop the comparison that asks for its cause, or hold it up."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts

FACTS = Facts("/one/two", "/one/two/three", time.time(), "artefact")
SIZE = 20_000  # characters: what a line that changed places is told with
SECONDS = 0.5  # of the processor; what grows as the text does takes some hundredths
# Parts that the patterns of the causes repeat, or that two neighbours in one could share.
PARTS = (
    "a", "A", "1", "0", ".", "/", " ", "\t", "-", "_", "=", "~", "+", "@", "%", ",", ":", "#", "$", '"', "\u00e9",
    "\u00b2", "a ", "a.", "a-", "a_", "a+", "a~", "a@", "a/", "/a", "./", "../", "/.", "/=", "@/", "-.", "+.", "+-",
    "_.", "1.", "1,", "1-", "1:", "0x", "a1", "a1B2", "1.1-", "1.2.3_a", "10:10:10 ", "2026-", "20260101",
    "1700000000", "abcdef12-", "tsc", "tsc ", "avx512", "amx", "amx,", "asimd", "xsave", "vfpv3", "sse4_1 ", "-m",
    "-march=", "skylake", "armv8.", "cortex-a1", "neoverse-", "vmov", "ymm1", "by ", "by a ", "built by ", "on ",
    "uid=", "gid=1(", "groups=1,", "user_", "tmp", "tmp.", "build", "run", "cc", "script1", "/proc/1", "host_",
    "linux-", "sha256", "sums.", "checksum ", "hash", "repodata/", ".build-id/aa/", "META-INF/", "META-INF/.",
    "-----BEGIN ", "Jan", "Jan ", "Mon, ", "UTC ", "Z ", "name.c ", "name.c", "x/y ", "objdump ", "{",
)  # fmt: skip
ENDS = ("", "!", " a", "\n", "@", "/")


@contextmanager
def _given(seconds: float) -> Iterator[None]:
    """End what takes longer than any machine's trouble explains: an exponential pattern takes for ever."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def changes_of(text: str) -> list[Change]:
    """A text in every place in which a cause looks for something."""
    other = f"b{text}"
    return [
        Change(("in", text), "text", text, other, text, other, text),
        Change(("in",), "text", "123", "124", text, other, f"{text} by "),
        Change(("in",), "lines", text, other, text, other),
        Change(("in",), "lines", text, other, f"{text}\na", f"a\n{text}", count=2),
        Change(("in",), "member", text),
        Change(("in",), "header", text, other, before=text),
        Change(("in",), "bytes", text, other, text, "", text),
    ]


@pytest.mark.parametrize("end", ENDS)
def test_no_text_takes_a_cause_more_than_a_moment(end: str) -> None:
    for part in PARTS:
        changes = changes_of((part * SIZE)[:SIZE] + end)
        started = time.process_time()
        with _given(20 * SECONDS):
            for change in changes:
                gather([change], FACTS)
        assert time.process_time() - started < SECONDS, part


@pytest.mark.parametrize(
    "change",
    [
        Change((), "text", "\u00b2", "\u00b3"),
        Change((), "text", "/x/tmp12", "/x/tmp#"),
        Change((), "metadata", str(1 << 39), "1" * 5000, before="mtime"),
        Change((), "metadata", str(-(1 << 63)), "\u00b2", before="mtime"),
        Change((), "member", "\udcff"),
    ],
    ids=["digits that are no number", "no number on one side", "a year of five digits", "no year", "no character"],
)
def test_no_value_stops_the_search_for_a_cause(change: Change) -> None:
    assert gather([change], FACTS)


def test_long_values_are_shown_where_they_differ() -> None:
    """Cut to their equal beginnings, they were taken for one text in two kinds of quotation marks."""
    word = "Qx7" * 100
    (found,) = gather([Change((), "text", f"{word}1{word}", f"{word}2{word}")], FACTS)
    shown = found.evidence[0].change
    assert (found.name, shown.a == shown.b) == ("unknown", False)
    assert (shown.a[0], shown.a[-1], len(shown.a)) == ("\u2026", "\u2026", 200)
    assert shown.trimmed() == shown


def test_names_of_processor_features_are_told_one_by_one() -> None:
    for text in ("sse2 avx512f,-tsc_known", "constant_tsc", "+sha_ni"):
        assert [one.name for one in gather([Change((), "text", text, "none")], FACTS)] == ["cpu-features"]


def test_the_lines_of_a_list_of_files_are_told_by_their_names() -> None:
    for one, other in (("- a.bin", "- b.bin"), ("file ./x", "file ./y"), ("g++.c", "z~.so"), ("+-name.tar.gz", "o.x")):
        change = Change((), "lines", one, other, f"{one}\n{other}", f"{other}\n{one}", count=2)
        assert [found.name for found in gather([change], FACTS)] == ["file-order"], one
