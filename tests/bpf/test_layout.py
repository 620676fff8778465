"""The Python mirror of what the BPF programs share with user space, beside the compiler's own opinion of it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from detbuild.bpf import layout
from detbuild.daemon import loader

STRUCTS = {
    "session": layout.Session,
    "thread": layout.Thread,
    "process": layout.Process,
    "bell": layout.Bell,
    "alias": layout.Alias,
    "count": layout.Count,
    "run": layout.Run,
}
COMMON = Path(layout.__file__).with_name("common.h")


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Each struct's size, then each member's offset and size, as gcc has them."""
    text = COMMON.read_text()
    structs = text[text.index("struct session {") : text.index("#define DECIDED")]
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <stdio.h>"]
    lines += [f"typedef {'u' * (sign == 'u')}int{bits}_t {sign}{bits};" for sign in "us" for bits in (16, 32, 64)]
    lines += [structs, "int main(void) {"]
    for name, mirror in STRUCTS.items():
        lines.append(f'printf("{name} %zu", sizeof(struct {name}));')
        for member, *_ in mirror._fields_:
            place = f"offsetof(struct {name}, {member}), sizeof(((struct {name} *)0)->{member})"
            lines.append(f'printf(" {member}:%zu:%zu", {place});')
        lines.append('printf("\\n");')
    directory = tmp_path_factory.mktemp("layout")
    (directory / "layout.c").write_text("\n".join([*lines, "}"]) + "\n")
    gaps = f"-DGAP_KINDS={len(layout.Gap)}"
    subprocess.run(["gcc", gaps, "-o", directory / "layout", directory / "layout.c"], check=True)
    out = subprocess.run([directory / "layout"], check=True, capture_output=True, text=True).stdout
    return {name: rest for name, *rest in map(str.split, out.splitlines())}


@pytest.mark.parametrize("name", STRUCTS)
def test_a_struct_is_the_same_on_both_sides(in_c: dict[str, list[str]], name: str) -> None:
    mirror = STRUCTS[name]
    members = [getattr(mirror, member) for member, *_ in mirror._fields_]
    names = [member for member, *_ in mirror._fields_]
    assert in_c[name] == [
        str(ctypes.sizeof(mirror)),
        *(f"{member}:{field.offset}:{field.size}" for member, field in zip(names, members, strict=True)),
    ]


def test_every_map_of_the_programs_has_a_mirror() -> None:
    text = COMMON.read_text()
    named = [line.partition("(")[2].split(",") for line in text.splitlines() if line.startswith("BPF_")]
    maps = {words[0] if not words[0].startswith('"') else words[3].strip() for words in named}
    assert maps == set(layout.MAPS)


def test_every_gap_and_source_has_words_for_the_audit() -> None:
    assert set(layout.GAPS) == set(layout.Gap)
    assert set(layout.SOURCES) == set(layout.Source)


def test_each_constant_of_the_programs_is_defined() -> None:
    known = layout.defines(1024, 16, 1)
    source = loader.source().decode()
    for prefix in ("OP_", "GAP_", "SOURCE_"):
        used = {word for word in _words(source) if word.startswith(prefix)}
        assert used
        assert used <= set(known)


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def test_a_bell_carries_flags_beside_its_op() -> None:
    words = layout.arguments(layout.Op.EXEC, 5, layout.Flag.TIMES_TRUE, -1, 2, 4096)
    assert words == (layout.MAGIC, 1 | 2 << 8, 5, (1 << 64) - 1, 2, 4096)
