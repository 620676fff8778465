"""Two files that differ are told apart where they do, whatever their size and whatever they are packed into."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from detbuild.compare import Comparing, Options, blob
from detbuild.compare.cause import gather
from detbuild.compare.change import NOTHING_UNDERSTOOD, Change, Collected, Facts
from detbuild.compare.inspect import Inspector

NOW = 1_800_000_000


def changes(directory: Path, a: bytes, b: bytes) -> list[Change]:
    found = Collected()
    (directory / "scratch").mkdir()
    for side, contents in (("a", a), ("b", b)):
        (directory / side).write_bytes(contents)
    Inspector(Facts(now=NOW), directory / "scratch", found).pair(directory / "a", directory / "b")
    assert not list((directory / "scratch").iterdir())
    return found.changes


def causes(found: list[Change]) -> list[str]:
    return [cause.name for cause in gather(found, Facts(now=NOW))]


def binary(size: int, **texts: str) -> bytes:
    """Zeroes with texts in them: at8388608=... stands at that offset."""
    data = bytearray(size)
    for place, text in texts.items():
        offset = int(place.removeprefix("at"))
        data[offset : offset + len(text)] = text.encode()
    return bytes(data)


@pytest.mark.parametrize("place", [100, blob.STRINGS - 10, blob.STRINGS, blob.STRINGS + 100_000])
def test_a_text_in_a_binary_is_told_wherever_it_stands(tmp_path: Path, place: int) -> None:
    a, b = (binary(blob.STRINGS + (1 << 20), **{f"at{place}": f"built at 2026-11-2{day} by make"}) for day in (1, 2))
    found = changes(tmp_path, a, b)
    assert [(change.a, change.b) for change in found] == [("2026-11-21", "2026-11-22")]
    assert causes(found) == ["timestamp"]


def test_texts_that_stand_close_together_are_told_once(tmp_path: Path) -> None:
    place = blob.STRINGS + 5000
    a, b = (
        binary(place + 5000, **{f"at{place}": f"x=alpha{n}", f"at{place + 40}": f"y=gamma{n}"}) for n in ("one", "two")
    )
    assert [(change.a, change.b) for change in changes(tmp_path, a, b)] == [
        ("alphaone", "alphatwo"),
        ("gammaone", "gammatwo"),
    ]


def test_a_text_that_says_too_little_is_told_as_bytes(tmp_path: Path) -> None:
    """Its surroundings look like words, the whole of it does not."""
    noise = "{}[]()<>" * 100
    found = changes(
        tmp_path, *(binary(1 << 12, at100=f"{noise}{'letters' * 90}{x}{'letters' * 90}{noise}") for x in "XY")
    )
    assert [change.aspect for change in found] == ["bytes"]


def certificate(seed: int) -> bytes:
    body = base64.encodebytes(bytes((seed * byte) % 256 for byte in range(300)))
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("between", [b"", b"\n"])
def test_one_certificate_more_in_a_bundle_is_told_as_one(tmp_path: Path, place: int, between: bytes) -> None:
    bundle = [certificate(seed) for seed in (3, 5, 7)]
    longer = [*bundle[:place], certificate(11), *bundle[place:]]
    found = changes(tmp_path, between.join(bundle), between.join(longer))
    assert [(change.aspect, change.a, bool(change.b)) for change in found] == [("signature", "", True)]
    assert "in B alone" in gather(found, Facts())[0].evidence[0].note


def test_certificates_that_differ_are_told_each(tmp_path: Path) -> None:
    a, b = (b"".join(certificate(seed) for seed in seeds) for seeds in ((3, 5, 7), (3, 11, 13)))
    assert [change.aspect for change in changes(tmp_path, a, b)] == ["signature", "signature"]
    again = tmp_path / "again"
    again.mkdir()
    assert [change.b for change in changes(again, certificate(3), certificate(3) * 2)] != [""]


def packed(attribute: dict[str, str], form: int = tarfile.PAX_FORMAT, level: int = 9) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        member = tarfile.TarInfo("name")
        member.size, member.pax_headers = 5, attribute
        archive.addfile(member, io.BytesIO(b"hello"))
    return gzip.compress(stream.getvalue(), level, mtime=0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"atime": "1600000000.5"}, {"atime": "1600000001.5"}),
        ({"SCHILY.xattr.user.x": "something"}, {"SCHILY.xattr.user.x": "different"}),
    ],
    ids=["atime", "xattr"],
)
def test_a_field_that_no_reader_tells_is_found_behind_a_compressor(
    tmp_path: Path, a: dict[str, str], b: dict[str, str]
) -> None:
    found = changes(tmp_path, packed(a), packed(b))
    assert causes(found) == ["archive-metadata"]
    assert {change.aspect for change in found} == {"metadata"}


def test_one_archive_in_other_compressed_bytes_is_compression(tmp_path: Path) -> None:
    fields = {"comment": "x" * 3000}
    assert causes(changes(tmp_path, packed(fields, level=9), packed(fields, level=0))) == ["compression"]


def test_one_archive_with_and_without_a_compressor_is_compression(tmp_path: Path) -> None:
    assert causes(changes(tmp_path, packed({}), gzip.decompress(packed({})))) == ["compression"]


def test_an_archive_that_is_damaged_behind_its_members_is_not_called_the_same(tmp_path: Path) -> None:
    whole = bz2.compress(gzip.decompress(packed({})) + bytes(4 << 20))
    found = changes(tmp_path, whole, whole[:-9] + b"damaged!" + whole[-1:])
    assert "damaged" in found[0].line_a
    assert causes(found) == ["unknown"]


def test_what_differs_is_never_without_a_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
    # The same words in other lines, as far as words are compared.
    (tmp_path / "a/text").write_text("first second third\nfourth\n")
    (tmp_path / "b/text").write_text("first\nsecond third\nfourth\n")
    with Comparing(tmp_path / "a", tmp_path / "b", Options(deep=False)) as comparing:
        (finding,) = comparing.run()
    assert [(cause.name, cause.evidence[0].note) for cause in finding.causes] == [("unknown", NOTHING_UNDERSTOOD)]
